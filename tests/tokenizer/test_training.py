"""Candidates against plain counting; the stage: same bytes whatever the order and threads, and after any kill."""

import itertools
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling import artifact
from congling.config import ConfigError, load
from congling.corpus.documents import make_batch
from congling.corpus.shards import ShardWriter
from congling.corpus.tokens import TokenDataset
from congling.reporter import Reporter, read_metrics
from congling.tokenizer import candidates, run, tokenize
from congling.tokenizer.candidates import find_candidates
from congling.tokenizer.config import TokenizeConfig, TokenizerConfig
from congling.tokenizer.passes import Corpus
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.train import Trainer
from congling.tokenizer.trie import read_only
from congling.tokenizer.vocabulary import Vocabulary

QUIET = Reporter(quiet=True)
WORDS = ["小明", "喜欢", "月亮", "苹果", "旧书", "高山", "大海", "春天来了", "不知道", "的", "，", "。", "a", "b", " "]


def sentences(count: int) -> list[str]:
    rng = random.Random(1)
    return ["".join(rng.choices(WORDS, k=rng.randint(4, 12))) for _ in range(count)] + ["龘é\n"]


def buffers(texts: list[str]) -> tuple:
    data = np.frombuffer("".join(texts).encode(), np.uint8)
    return read_only(data), read_only(np.cumsum([0, *(len(t.encode()) for t in texts)]))


class InMemory(Corpus):
    """Batches that lie in memory in place of shards."""

    def __iter__(self):
        return iter(self.files)


def corpus_of(*batches: tuple, threads: int = 1) -> Corpus:
    with QUIET.progress("", None, "bytes") as bar:
        return InMemory(batches, bar, threads)


def clean_stage(folder: Path, texts: list[str], shard_bytes: int = 1 << 20) -> Path:
    with artifact.stage(folder, "clean", {}, {}, 1) as (now, summary):
        assert now is not None
        with ShardWriter(folder, "corpus", shard_bytes) as writer:
            writer.write(make_batch(texts, "test"))
        summary["bytes_out"] = sum(len(t.encode()) for t in texts)
    return folder


def train(folder: Path, clean: Path, **options) -> dict:
    config = TokenizerConfig(**{"vocab_size": 320, "min_count": 2, **options})
    with artifact.stage(folder, "tokenizer", {"tokenizer": config}, {"clean": clean}, 1) as (now, summary):
        if now is not None:
            summary.update(run.run(now, QUIET, config))
    return artifact.read_manifest(folder)["summary"]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text("甲乙丙a，", max_size=20), max_size=8), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_candidates_are_all_frequent_grams(texts, least, threads, one_batch):
    grams_of = Counter(
        t[i : i + n]
        for t in texts
        for n in range(1, 5)
        for i in range(len(t) - n + 1)
        if n == 1 or all("一" <= c <= "鿿" for c in t[i : i + n])
    )
    expected = {gram: count for gram, count in grams_of.items() if count >= least}
    batches = [buffers(texts)] if one_batch else [buffers([t]) for t in reversed(texts)]
    *_, grams = find_candidates(corpus_of(*batches, threads=threads), "han", 4, 0.0, least)
    assert dict(zip(grams.texts()[1:], grams.count[1:].tolist(), strict=True)) == expected
    assert grams.num_characters == sum(map(len, texts))


def test_frequency_bounds_long_candidates_alone():
    *_, grams = find_candidates(corpus_of(buffers(["甲乙"] * 3 + ["丙" * 94])), "han", 2, 0.04, 3)
    assert grams.texts()[1:] == ["丙", "乙", "甲", "丙丙"]  # 甲乙 occurs 3 times, less than 4 % of 100


def test_a_table_that_grows_counts_the_same(monkeypatch):
    texts = ["".join(chr(0x4E00 + (i * i + j * 7) % 3000) for j in range(300)) for i in range(400)]
    expected = Counter(t[i : i + 2] for t in texts for i in range(299))
    monkeypatch.setattr(candidates, "_CHUNK_BYTES", 5000)
    *_, grams = find_candidates(corpus_of(buffers(texts), threads=3), "han", 2, 0.0, 1)
    found = dict(zip(grams.texts()[1:], grams.count[1:].tolist(), strict=True))
    assert {gram: count for gram, count in found.items() if len(gram) == 2} == expected


def test_the_first_round_by_hand():
    # 甲乙 twice, 乙 once more alone: scores 甲 ln 2/5, 乙 ln 3/5, 甲乙 ln 2/2 = 0, so the pair is always taken.
    texts = ["甲乙", "甲乙", "乙"]
    *_, grams = find_candidates(corpus_of(buffers(texts)), "han", 2, 0.0, 2)
    config = TokenizerConfig(vocab_size=275, character_coverage=0.1)
    trainer = Trainer(grams, config, corpus_of(buffers(texts)), seed=1)
    states = list(trainer.rounds(trainer.first_state()))
    assert [s.size for s in states][-1] == 3
    # 甲 is not used, but stays, as it is in a piece: it counts as 1 of 2
    half = -693_147
    assert trainer.vocabulary(states[-1]) == Vocabulary("congling", ["甲乙", "乙", "甲"], [0, half, half], [2, 1, 0])
    assert states[-1].bytes_per_token == 15 / 3


def test_order_and_threads_do_not_matter(tmp_path):
    texts = sentences(300)
    shuffled = random.Random(2).sample(texts, len(texts))
    for counting in ("deterministic", "sample"):
        files = []
        for n, (order, threads, shard_bytes) in enumerate([(texts, 1, 1 << 20), (shuffled, 3, 1000)]):
            clean = clean_stage(tmp_path / f"clean-{counting}-{n}", order, shard_bytes)
            folder = tmp_path / f"{counting}-{n}"
            train(folder, clean, threads=threads, counting=counting)
            files.append((folder / "vocabulary.txt").read_bytes())
        assert files[0] == files[1]


@pytest.mark.parametrize("joining", ["han", "words", "any"])
def test_what_may_share_a_piece(tmp_path, joining):
    texts = [f"{t}，see {w} {n}\n\n  （{w}s）。" for n, t in enumerate(sentences(200)) for w in ("hello", "world")]
    clean = clean_stage(tmp_path / "clean", texts)
    train(tmp_path / "v", clean, vocab_size=330, joining=joining, max_piece_length=6)
    pieces = set(Tokenizer.load(tmp_path / "v").vocabulary.pieces)
    longer = [p for p in pieces if len(p) > 1]
    assert not any(c.isdigit() for p in longer for c in p)
    assert any(p.isascii() and p.strip().isalpha() for p in longer) == (joining != "han")
    assert any("\n\n" in p for p in longer) == (joining != "han")
    assert any("，" in p and any(c.isalpha() for c in p) for p in longer) == (joining == "any")
    assert all(set(p) <= pieces for p in pieces)  # each character in a piece is a piece


@pytest.mark.parametrize("options", [{"score": "frequency"}, {"prune": "loss"}, {"token_penalty": 5.0}])
def test_other_scores_and_prunings_train(tmp_path, options):
    clean = clean_stage(tmp_path / "clean", sentences(300))
    train(tmp_path / "v", clean, **options)
    tokenizer = Tokenizer.load(tmp_path / "v")
    assert tokenizer.vocab_size == 320
    assert tokenizer.decode(tokenizer.encode("小明喜欢月亮")) == "小明喜欢月亮"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("saver", ["save_grams", "save_state"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_each_save_and_resumed(tmp_path, monkeypatch, saver, after):
    clean = clean_stage(tmp_path / "clean", sentences(200))
    train(tmp_path / "whole", clean, vocab_size=300)
    original, whole = getattr(run, saver), rows_of(tmp_path / "whole")
    kills = 0
    while True:
        saves = 0  # after: die after the first save; else in place of the second

        def dying(what, file):
            nonlocal saves
            saves += 1
            if after or saves == 1:
                original(what, file)
            if after or saves == 2:
                raise Killed

        monkeypatch.setattr(run, saver, dying)
        try:
            train(tmp_path / "killed", clean, vocab_size=300)
            break
        except Killed:
            kills += 1
        assert kills < 40
    assert kills >= 2
    assert (tmp_path / "killed" / "vocabulary.txt").read_bytes() == (tmp_path / "whole" / "vocabulary.txt").read_bytes()
    assert rows_of(tmp_path / "killed") == whole
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def rows_of(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "time"} for row in read_metrics(folder / "metrics.jsonl")]


def test_summary_metrics_and_a_useful_vocabulary(tmp_path):
    clean = clean_stage(tmp_path / "clean", sentences(300))
    summary = train(tmp_path / "tokenizer", clean)
    assert summary["size"] == 320
    assert sum(summary["pieces_by_length"].values()) == 48
    rows = rows_of(tmp_path / "tokenizer")
    assert [row["step"] for row in rows] == list(range(1, summary["rounds"] + 1))
    assert rows[-1]["pieces"] == 48
    assert rows[-1]["bytes_per_token"] == summary["bytes_per_token"] > rows[-1]["pieces_by_length"]["1"] / 48
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    assert tokenizer.vocab_size == 320
    assert [tokenizer.piece(i).decode() for i in tokenizer.encode("小明不知道，")] == ["小明", "不知道", "，"]
    assert len(tokenizer.encode("小明喜欢高山，")) < 7


def test_corpus_too_small(tmp_path):
    clean = clean_stage(tmp_path / "clean", ["短"])
    with pytest.raises(ValueError, match="gives only 1 pieces; set vocab_size to at most 273, lower"):
        train(tmp_path / "tokenizer", clean, vocab_size=8192, min_count=1)


def test_config_is_checked():
    with pytest.raises(ConfigError, match="vocab_size"):
        load(TokenizerConfig, None, ["vocab_size=272"])
    with pytest.raises(ConfigError, match="valid_fraction"):
        load(TokenizeConfig, None, ["valid_fraction=1.0"])


# -- tokenize ------------------------------------------------------------------------------------------------------


def tokenize_stage(folder: Path, clean: Path, tokenizer: Path, **options) -> dict:
    config = TokenizeConfig(**{"valid_fraction": 0.2, **options})
    inputs = {"clean": clean, "tokenizer": tokenizer}
    with artifact.stage(folder, "tokenize", {"tokenize": config}, inputs, 1) as (now, summary):
        assert now is not None
        summary.update(tokenize.run(now, QUIET, config))
    return artifact.read_manifest(folder)["summary"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path, list[str]]:
    folder, texts = tmp_path_factory.mktemp("trained"), sentences(200)
    clean = clean_stage(folder / "clean", texts, 2000)
    train(folder / "tokenizer", clean)
    return clean, folder / "tokenizer", texts


def documents_of(folder: Path, split: str, tokenizer: Tokenizer) -> list[str]:
    data = TokenDataset(folder, split)
    ids, starts = data.read(0, data.total), [*data.document_starts().tolist(), data.total]
    assert all(ids[end - 1] == tokenizer.end_id for end in starts[1:])
    return [tokenizer.decode(ids[a : b - 1]) for a, b in itertools.pairwise(starts)]


def test_tokens_are_the_documents(tmp_path, trained):
    clean, folder, texts = trained
    summary = tokenize_stage(tmp_path / "a", clean, folder, shard_tokens=300)
    tokenizer = Tokenizer.load(tmp_path / "a")
    splits = {split: documents_of(tmp_path / "a", split, tokenizer) for split in ("train", "valid")}
    held_out = set(splits["valid"])
    assert splits["train"] == [t for t in texts if t not in held_out]
    assert splits["valid"] == [t for t in texts if t in held_out]
    for split, found in splits.items():
        assert summary[split]["documents"] == len(found)
        assert summary[split]["bytes"] == sum(len(t.encode()) for t in found)
        assert summary[split]["tokens"] == TokenDataset(tmp_path / "a", split).total
    assert TokenDataset(tmp_path / "a", "train").dtype == np.uint16
    assert len(list((tmp_path / "a").glob("train-*.bin"))) > 1
    assert 0.1 < len(held_out) / len(set(texts)) < 0.3


def test_split_is_by_text_and_files_by_input(tmp_path, trained):
    clean, folder, texts = trained
    other = clean_stage(tmp_path / "clean", list(reversed(texts)), 700)
    tokenize_stage(tmp_path / "a", clean, folder)
    tokenize_stage(tmp_path / "b", other, folder, threads=3)
    tokenize_stage(tmp_path / "c", clean, folder, threads=3)
    tokenizer = Tokenizer.load(folder)
    assert documents_of(tmp_path / "a", "valid", tokenizer) == documents_of(tmp_path / "b", "valid", tokenizer)[::-1]
    hashes = [artifact.read_manifest(tmp_path / name)["hash"] for name in "ac"]
    assert hashes[0] == hashes[1]


def test_an_empty_split_is_an_error(tmp_path, trained):
    _, folder, _ = trained
    clean = clean_stage(tmp_path / "clean", ["小明"])
    with pytest.raises(ValueError, match="of 1 documents none is held out"):
        tokenize_stage(tmp_path / "a", clean, folder, valid_fraction=0.001)
