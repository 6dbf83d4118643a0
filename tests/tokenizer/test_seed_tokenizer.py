"""The seed's segmentation, against a slow byte-level reference written from the prose of its rules."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.tokenizer.seed import read_seed
from congling.tokenizer.tokenizer import Tokenizer

SHARED = Path(__file__).parents[3] / "shared"
VOCABULARY = SHARED / "seed" / "vocab_b_65544.txt"
needs_seed = pytest.mark.skipif(not VOCABULARY.exists(), reason="the seed's vocabulary is not here")


@pytest.fixture(scope="module")
def seed() -> Tokenizer:
    return Tokenizer.from_seed(VOCABULARY)


def reference(data: bytes, pieces: dict[bytes, tuple[int, float]]) -> list[int]:
    """Rows of the model: matches by end, longest first; unreached bytes are stepped over."""
    longest = max(map(len, pieces))
    value, stored = {0: 0.0}, {}
    for end in range(1, len(data) + 1):
        for begin in range(max(0, end - longest), end):
            found = pieces.get(data[begin:end])
            if found is None:
                continue
            steps = 0
            while begin - steps not in value:
                steps += 1
            new = value[begin - steps] + found[1]
            if end not in stored or (steps == 0 and new > value[end]):
                value[end], stored[end] = new, begin
    rows, at = [], len(data)
    while at > 0:
        if at in stored:
            rows.append(pieces[data[stored[at] : at]][0])
            at = stored[at]
        else:
            at -= 1
            rows.append(255 - data[at])
    return rows[::-1]


def rows_and_scores(tokenizer: Tokenizer) -> dict[bytes, tuple[int, float]]:
    v = tokenizer.vocabulary
    return {p.encode(): (v.first_id + n, float(v.scores[n])) for n, p in enumerate(v.pieces)}


@needs_seed
def test_examples_and_sizes(seed):
    assert [row - 255 for row in seed.encode("从零开始训练语言模型。")] == [6826, 56847, 57339, 38260, 177]
    assert [row - 255 for row in seed.encode("A\r\n\t,")] == [44, 7, 6, 5, 23]
    assert len(seed.vocabulary.pieces) == 65_546
    assert seed.vocab_size == 65_802
    assert seed.encode(b"\xff\x00") == [0, 255 - 0]


@needs_seed
@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.text("的一是从零开始训练語𠀀é A,.\n囍龘", max_size=12).map(str.encode) | st.binary(max_size=6), max_size=4
    )
)
def test_random_bytes_as_the_reference(seed, parts):
    data = b"".join(parts)
    assert seed.encode(data) == reference(data, rows_and_scores(seed))
    assert seed.decode_bytes(seed.encode(data)) == data


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.text("甲乙丙a", min_size=1, max_size=4), st.integers(1, 3), min_size=1),
    st.text("甲乙丙a文", max_size=12),
)
def test_small_vocabularies_as_the_reference(tmp_path_factory, counts, text):
    file = tmp_path_factory.mktemp("seed") / "vocab.txt"
    file.write_text("".join(f"{piece}\t{count}\n" for piece, count in counts.items()), "utf-8")
    tokenizer = Tokenizer.from_seed(file)
    assert tokenizer.encode(text) == reference(text.encode(), rows_and_scores(tokenizer))


@needs_seed
@pytest.mark.parametrize("name", ["laws", "classical_novels", "docs_gold_miner"])
def test_real_text_as_the_reference(seed, name):
    raw = pa.input_stream(SHARED / "data" / "pretrain" / f"{name}.jsonl.zst", compression="zstd").read(3_000_000)
    texts = [json.loads(line)["text"][:400] for line in raw.split(b"\n")[:20]]
    ids, offsets = seed.encode_batch(texts)
    pieces = rows_and_scores(seed)
    for n, text in enumerate(texts):
        assert ids[offsets[n] : offsets[n + 1]].tolist() == reference(text.encode(), pieces)


def test_file_is_read_by_the_rules(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_bytes("的\t60\n.\t10\n\n\t7\n\t\t9\n从零\t4\n一\t20\n".encode())
    vocabulary = read_seed(file)
    assert vocabulary.pieces == ["\t", "\n", "\r", ",", ".", "一", "从零", "的"]
    assert vocabulary.counts == [1, 1, 1, 10, 10, 20, 4, 60]
    assert vocabulary.scores[5] == math.log(20 / 103)
    assert vocabulary.scores[6] == 0.0
    assert vocabulary.first_id == 256


def test_saved_and_loaded(tmp_path):
    (tmp_path / "vocab.txt").write_text("的\t60\n从零\t4\n从\t20\n")
    tokenizer = Tokenizer.from_seed(tmp_path / "vocab.txt")
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.vocabulary == tokenizer.vocabulary
    assert again.encode("从零的x") == tokenizer.encode("从零的x") == [257, 258, 255 - ord("x")]
    assert again.token_bytes.tolist() == [1] * 256 + [3, 6, 3]
    assert again.special == {}
    with pytest.raises(ValueError, match=r"no <\|endoftext\|>"):
        _ = again.end_id
    with pytest.raises(ValueError, match="our own kind"):
        again.encode("从", sample=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("的60\n", ":1: expected piece"),
        ("的\t60\n一\tx\n", ":2: expected piece"),
        ("", "holds no pieces"),
        ("的\t0\n", ":1: "),
    ],
)
def test_malformed_file(tmp_path, text, message):
    (tmp_path / "vocab.txt").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        read_seed(tmp_path / "vocab.txt")


def test_unknown_file(tmp_path):
    with pytest.raises(ValueError, match="no such vocabulary"):
        Tokenizer.from_seed(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(np.arange(256, dtype=np.uint8).tobytes())
    with pytest.raises(ValueError, match="not UTF-8"):
        Tokenizer.from_seed(tmp_path / "binary")
