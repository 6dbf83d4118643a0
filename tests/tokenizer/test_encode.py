"""The public tokenizer against hand-computed cases, brute force over all segmentations, and exact probabilities."""

import itertools
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.tokenizer.inspect import inspect
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.trie import BYTE_SCORE, SCALE
from congling.tokenizer.vocabulary import SPECIALS, Vocabulary

quick = settings(deadline=None, max_examples=40)
LETTERS = "甲乙丙aé😀"


def make(scores: dict[str, int]) -> Tokenizer:
    return Tokenizer(Vocabulary("congling", list(scores), list(scores.values()), [1] * len(scores)))


def shown(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.piece(i).decode() if i >= 272 else f"<{tokenizer.piece(i).hex()}>" for i in ids]


def test_hand_computed():
    tokenizer = make({"从": -5, "零": -5, "从零": -9, "开": -3, "开始": -20})
    assert shown(tokenizer, tokenizer.encode("从零")) == ["从零"]  # −9 beats −10
    assert shown(tokenizer, tokenizer.encode("零从")) == ["零", "从"]
    # 始 is in a piece but is none: it costs three byte tokens, which 开始 at −20 beats by far
    assert shown(tokenizer, tokenizer.encode("开始")) == ["开始"]
    assert shown(tokenizer, tokenizer.encode("始")) == ["<e5>", "<a7>", "<8b>"]
    assert shown(tokenizer, tokenizer.encode("A从")) == ["<41>", "从"]
    assert tokenizer.encode("") == []
    assert tokenizer.vocab_size == 16 + 256 + 5


def test_ids_of_bytes_and_specials():
    tokenizer = make({"从": -5})
    assert (tokenizer.pad_id, tokenizer.end_id, tokenizer.im_start_id, tokenizer.im_end_id) == (0, 1, 2, 3)
    assert list(tokenizer.special.values()) == list(range(16))
    assert tokenizer.encode("A") == [16 + 65]
    assert tokenizer.token_bytes.tolist() == [0] * 16 + [1] * 256 + [3]
    assert tokenizer.decode([2, 272, 3]) == "从"  # special ids stand for no text


def test_special_tokens_never_come_from_text():
    tokenizer = make(dict.fromkeys("<|imstarendof>_pd", -5))
    for name in SPECIALS:
        ids = tokenizer.encode(name + "从" + name)
        assert min(ids) >= 16
        assert tokenizer.decode(ids) == name + "从" + name


def best_by_brute_force(text: str, scores: dict[str, int]) -> list[str]:
    """The best of all segmentations; a tie goes to the longest last token, then the longest before it …"""

    def paths(rest: str) -> list[tuple[int, list[str]]]:
        if not rest:
            return [(0, [])]
        found = []
        for length in range(1, len(rest) + 1):
            tail = rest[-length:]
            if tail in scores:
                found += [(score + scores[tail], [*path, tail]) for score, path in paths(rest[:-length])]
        if rest[-1] not in scores:
            raw = rest[-1].encode()
            tokens = [f"<{b:02x}>" for b in raw]
            found += [(score + BYTE_SCORE * len(raw), path + tokens) for score, path in paths(rest[:-1])]
        return found

    def order(item: tuple[int, list[str]]) -> tuple[int, list[int]]:
        return item[0], [1 if t.startswith("<") else len(t) for t in reversed(item[1])]

    return max(paths(text), key=order)[1]


@quick
@given(
    st.dictionaries(st.text(LETTERS, min_size=1, max_size=4), st.integers(-6, 0), min_size=1),
    st.text(LETTERS + "文", max_size=8),
)
def test_best_of_all_segmentations(scores, text):
    tokenizer = make(scores)
    assert shown(tokenizer, tokenizer.encode(text)) == best_by_brute_force(text, scores)


@quick
@given(st.lists(st.binary(max_size=30) | st.text(LETTERS, max_size=8).map(str.encode), max_size=6))
def test_any_bytes_come_back(texts):
    tokenizer = make({"甲": -1, "甲乙": -1, "a": -2, "é": -1, "\x00": -3})
    ids, offsets = tokenizer.encode_batch(texts)
    assert tokenizer.decode_bytes(ids) == b"".join(texts)
    for n, text in enumerate(texts):
        part = ids[offsets[n] : offsets[n + 1]]
        assert tokenizer.decode_bytes(part) == text
        assert tokenizer.token_bytes[part].sum() == len(text)
        assert tokenizer.encode(text) == part.tolist()


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe7\x94",
        b"\xf0\x9f\x98",
        b"\xe0\x80\xaf",
        b"\xff\x80",
        b"\xc3",
    ],
)
def test_what_is_not_utf8_becomes_bytes(raw):
    tokenizer = make({"甲": -1, "\u0000": -1})
    assert tokenizer.encode(raw) == [16 + b for b in raw]
    assert tokenizer.encode(raw + "甲".encode()) == [16 + b for b in raw] + [272]


def test_every_way_to_pass_texts_and_any_threads_give_the_same():
    rng = np.random.default_rng(0)
    tokenizer = make({"甲": -2, "乙": -2, "甲乙": -3, "乙甲甲": -4, "a": -1})
    texts = ["".join(rng.choice(list("甲乙a文"), rng.integers(0, 4000))) for _ in range(500)] + [""]
    ids, offsets = tokenizer.encode_batch(texts)
    array = pa.array(["头", *texts])[1:]
    data, starts = np.frombuffer("".join(texts).encode(), np.uint8), np.cumsum([0, *(len(t.encode()) for t in texts)])
    for given_texts in (array, array.cast(pa.large_string()), pa.chunked_array([array]), (data, starts)):
        for threads in (1, 3):
            again = tokenizer.encode_batch(given_texts, threads=threads)
            assert np.array_equal(again[0], ids)
            assert np.array_equal(again[1], offsets)
    assert ids.dtype == np.uint32
    assert offsets.dtype == np.int64
    one, of_one = tokenizer.encode_batch(texts, sample=1.0, seed=3)
    many, of_many = tokenizer.encode_batch(texts, threads=3, sample=1.0, seed=3)
    assert np.array_equal(one, many)
    assert np.array_equal(of_one, of_many)
    tail, _ = tokenizer.encode_batch(texts[100:], sample=1.0, seed=3, first=100)
    assert np.array_equal(tail, one[of_one[100] :])
    assert not np.array_equal(one, tokenizer.encode_batch(texts, sample=1.0, seed=4)[0])
    empty, of_none = tokenizer.encode_batch([])
    assert len(empty) == 0
    assert of_none.tolist() == [0]


def test_sampled_paths_have_their_exact_probabilities():
    nats = {"甲": -1.0, "乙": -1.5, "丙": -0.5, "甲乙": -2.0, "乙丙": -3.0, "甲乙丙": -2.5}
    tokenizer = make({piece: round(score * SCALE) for piece, score in nats.items()})
    alpha, draws = 0.7, 40_000
    ids, offsets = tokenizer.encode_batch(["甲乙丙"] * draws, sample=alpha, seed=5)
    found = Counter(tuple(shown(tokenizer, ids[a:b].tolist())) for a, b in itertools.pairwise(offsets))
    paths = [("甲", "乙", "丙"), ("甲乙", "丙"), ("甲", "乙丙"), ("甲乙丙",)]
    weights = [math.exp(alpha * sum(nats[piece] for piece in path)) for path in paths]
    assert set(found) == set(paths)
    for path, weight in zip(paths, weights, strict=True):
        share = weight / sum(weights)
        assert abs(found[path] / draws - share) < 4 * math.sqrt(share * (1 - share) / draws)


@quick
@given(st.text(LETTERS, max_size=12), st.floats(0, 50), st.integers(0, 2**40))
def test_sampled_text_comes_back(text, alpha, seed):
    tokenizer = make({"甲": -1, "甲乙": -SCALE, "乙丙": -2, "a": -2})
    assert tokenizer.decode(tokenizer.encode(text, sample=alpha, seed=seed)) == text


def test_offsets_by_hand():
    tokenizer = make({"从": -5, "零": -5, "从零": -9, "a": -1})
    ids = tokenizer.encode("从零a始从")  # 始 is three byte tokens
    assert tokenizer.offsets(ids).tolist() == [0, 6, 7, 8, 9, 10, 13]
    assert tokenizer.offsets(ids, "characters").tolist() == [0, 2, 3, 3, 3, 4, 5]
    assert tokenizer.offsets([]).tolist() == tokenizer.offsets([], "characters").tolist() == [0]


@quick
@given(st.text(LETTERS, max_size=12))
def test_offsets_cut_the_text(text):
    tokenizer = make({"甲": -1, "甲乙": -1, "a": -2, "乙": -2, "丙": -2, "é": -1, "😀": -1})
    ids = tokenizer.encode(text)
    for unit, whole in (("bytes", text.encode()), ("characters", text)):
        cuts = tokenizer.offsets(ids, unit).tolist()
        pieces = [whole[a:b] for a, b in itertools.pairwise(cuts)]
        assert pieces == [tokenizer.piece(i) if unit == "bytes" else tokenizer.decode([i]) for i in ids]


def test_errors_in_one_line():
    tokenizer = make({"甲": -1})
    for bad in ([273], [-1], [0, 1 << 40]):
        with pytest.raises(ValueError, match="must be 0 … 272"):
            tokenizer.decode(bad)
    with pytest.raises(ValueError, match="whole numbers"):
        tokenizer.decode([1.5])
    with pytest.raises(ValueError, match="sample"):
        tokenizer.encode("甲", sample=-1.0)
    with pytest.raises(ValueError, match="use encode"):
        tokenizer.encode_batch("甲")
    with pytest.raises(ValueError, match="null"):
        tokenizer.encode_batch(pa.array(["甲", None]))


def test_inspect_shows_the_next_best():
    tokenizer = make({"甲": -SCALE, "乙": -SCALE, "甲乙": -SCALE * 3 // 2, "丙": -SCALE})
    rows = inspect(tokenizer, "甲乙丙é丙")
    assert [row.split() for row in rows[:2]] == [["274", "-1.500", "0.500", "甲乙"], ["275", "-1.000", "-", "丙"]]
    assert [row.split()[-1] for row in rows[2:5]] == ["<0xC3>", "<0xA9>", "丙"]
    assert rows[-1] == "5 tokens, 2.80 bytes a token"
    assert inspect(tokenizer, "")[-1] == "0 tokens, 0.00 bytes a token"
