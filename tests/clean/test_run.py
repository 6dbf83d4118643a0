"""The stage: counts add up, same bytes whatever the workers, same documents whatever the files, resume after a kill."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from clean.stage import GOOD, NEAR, corpus_bytes, raw_files, rows, run_stage, sentence
from congling import artifact
from congling.clean import compare, finish, parts, write
from congling.clean import run as stage_run
from congling.clean.config import CleanConfig
from congling.clean.run import input_files
from congling.corpus import streams


@pytest.fixture
def raw(tmp_path):
    return raw_files(tmp_path / "raw")


def test_counts_add_up_and_every_document_is_somewhere(raw, tmp_path):
    summary = run_stage(tmp_path / "out", raw)
    corpus, rejects = rows(tmp_path / "out", "corpus"), rows(tmp_path / "out", "rejects")
    assert sorted(row["id"] for row in (*corpus, *rejects)) == list(range(summary["documents_in"]))
    assert summary["documents_out"] == len(corpus) == GOOD + 1
    by_reason = {reason: count["documents"] for reason, count in summary["reasons"].items()}
    reading, rules = ["bad_encoding", "bad_json", "no_text"], ["garbled", "too_short", "low_cjk"]
    assert list(by_reason)[:6] == [*reading, *rules]
    assert list(by_reason)[-2:] == ["duplicate", "near_duplicate"]
    assert by_reason["near_duplicate"] == NEAR
    assert by_reason["duplicate"] == 2
    dropped = [row["reason"] for row in rejects]
    assert {reason: dropped.count(reason) for reason in by_reason} == by_reason
    sizes = sum(count["bytes"] for count in summary["reasons"].values())
    assert summary["bytes_normalised"] == summary["bytes_out"] + summary["bytes_cut"] + sizes
    assert summary["bytes_out"] == sum(len(row["text"].encode()) for row in corpus)
    assert summary["characters_out"] == sum(len(row["text"]) for row in corpus)
    assert summary["normalised"]["html"] == 1
    assert set(summary["examples"]) == set(by_reason)
    assert not (tmp_path / "out" / "work").exists()


def test_rejects_say_what_was_measured(raw, tmp_path):
    run_stage(tmp_path / "out", raw)
    corpus = {row["id"]: row["text"] for row in rows(tmp_path / "out", "corpus")}
    rejects = {row["reason"]: row for row in rows(tmp_path / "out", "rejects")}
    assert rejects["too_short"]["detail"] in ("characters 1 < 10", "characters 6 < 10")
    assert rejects["low_cjk"]["detail"] == "cjk share 0 < 0.1"
    assert "\ufffd" in rejects["garbled"]["text"]  # as it was read
    near = rejects["near_duplicate"]
    assert near["detail"].endswith(">= 0.8")
    assert corpus[int(near["detail"].split("document ")[1].split()[0])][:20] == near["text"][:20]
    twin = corpus[int(rejects["duplicate"]["detail"].removeprefix("of document "))]
    assert twin[:20] == rejects["duplicate"]["text"][:20]
    assert rejects["bad_json"]["source"].startswith("2.jsonl:")


def test_the_order_is_a_random_permutation_of_its_own(raw, tmp_path):
    run_stage(tmp_path / "out", raw)
    ids = [row["id"] for row in rows(tmp_path / "out", "corpus")]
    ascending = sum(a < b for a, b in itertools.pairwise(ids)) / (len(ids) - 1)
    assert 0.3 < ascending < 0.7


def test_same_bytes_whatever_the_workers(raw, tmp_path):
    assert run_stage(tmp_path / "one", raw) == run_stage(tmp_path / "two", raw, workers=2)
    assert corpus_bytes(tmp_path / "one") == corpus_bytes(tmp_path / "two")


def test_same_texts_in_the_same_order_whatever_the_names_of_files(raw, tmp_path):
    kept = []
    for order in ("0123", "3120"):
        folder = tmp_path / order
        folder.mkdir()
        for old, new in enumerate(order):
            (folder / f"{new}.jsonl").write_bytes((raw / f"{old}.jsonl").read_bytes())
        run_stage(tmp_path / f"out{order}", folder)
        kept.append([row["text"] for row in rows(tmp_path / f"out{order}", "corpus")])
    assert kept[0] == kept[1]


def test_same_texts_however_the_input_is_cut_into_parts_and_shards(raw, tmp_path, monkeypatch):
    run_stage(tmp_path / "one", raw)
    whole = [row["text"] for row in rows(tmp_path / "one", "corpus")]
    monkeypatch.setattr(parts, "PART_BYTES", 2000)
    monkeypatch.setattr(parts, "BATCH_BYTES", 1000)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 512)
    monkeypatch.setattr(stage_run, "_shards_and_buckets", lambda *_: (3, 6))
    run_stage(tmp_path / "many", raw)
    assert len(list((tmp_path / "many").glob("corpus-*.parquet"))) == 3
    assert [row["text"] for row in rows(tmp_path / "many", "corpus")] == whole


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (parts._PartWriter, "add", 3),
        (parts._PartWriter, "close", 2),
        (compare, "find_duplicates", 1),
        (stage_run, "prepare", 1),
        (finish, "_write_piece", 3),
        (stage_run, "find_twins", 1),
        (write, "_write", 1),
        (stage_run, "_write_evidence", 1),
        (shutil, "rmtree", 1),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(raw, tmp_path, monkeypatch, owner, name, call):
    """Stops at a call in each pass; what is whole is not made again, and the end is that of an unbroken run."""
    monkeypatch.setattr(parts, "PART_BYTES", 4000)
    monkeypatch.setattr(parts, "BATCH_BYTES", 2000)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 512)
    whole = run_stage(tmp_path / "whole", raw)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _interrupted(getattr(owner, name), call))
        with pytest.raises(KeyboardInterrupt):
            run_stage(tmp_path / "out", raw)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "work").rglob("*.parquet")}
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path: None)
        assert run_stage(tmp_path / "out", raw) == whole
    assert {p: p.stat().st_mtime_ns for p in before} == before
    shutil.rmtree(tmp_path / "out" / "work")
    assert corpus_bytes(tmp_path / "out") == corpus_bytes(tmp_path / "whole")


def test_a_run_killed_while_it_clears_away_is_done(raw, tmp_path, monkeypatch):
    """Half of the work is gone then; nothing may be made of the other half."""
    whole = run_stage(tmp_path / "whole", raw)

    def half(path):
        for file in sorted((path / "parts").glob("00000-*")):
            file.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            run_stage(tmp_path / "out", raw)
    assert run_stage(tmp_path / "out", raw) == whole
    assert corpus_bytes(tmp_path / "out") == corpus_bytes(tmp_path / "whole")


def test_parts_are_in_the_order_of_their_numbers(tmp_path):
    names = ["99999-000", "100000-000", "00001-1000", "00001-999", "00001-101"]
    for name in names:
        (tmp_path / f"{name}.parquet").touch()
    in_order = ["00001-101", "00001-999", "00001-1000", "99999-000", "100000-000"]
    assert [p.stem for p in parts.part_files(tmp_path)] == in_order
    assert [p.stem for p in parts.part_files(tmp_path, "00001-*")] == in_order[:3]


def _interrupted(function, call):
    """``function``, but its ``call``-th call is interrupted."""
    calls = []

    def wrapper(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return wrapper


def test_documents_that_cutting_makes_equal_stay_once(tmp_path):
    """One article on many pages, each with an advert of its own that stands on other pages too."""
    import random

    rng = random.Random(1)
    adverts = [f"欢迎关注微信公众号{sentence(rng)[:20]}获取更多精彩内容" for _ in range(2)]
    articles = [sentence(rng) + "\n" + sentence(rng) for _ in range(60)]
    texts = [f"{article}\n{adverts[i % 2]}" for i, article in enumerate(articles)]
    shared = sentence(rng)
    texts += [f"{shared}\n{adverts[0]}", f"{shared}\n{adverts[1]}\n{adverts[1]}"]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    summary = run_stage(tmp_path / "out", tmp_path / "raw.jsonl")
    kept = [row["text"] for row in rows(tmp_path / "out", "corpus")]
    assert sorted(kept) == sorted([*articles, shared])
    twin = next(row for row in rows(tmp_path / "out", "rejects") if row["reason"] == "duplicate")
    assert "after cutting" in twin["detail"]
    assert summary["documents_out"] == len(kept)
    assert summary["bytes_out"] == sum(len(t.encode()) for t in kept)


def test_quantile_limits_are_those_of_the_corpus(tmp_path):
    lengths = range(20, 220)
    texts = ["".join(chr(0x4E00 + (i * 7919 + k * 104729) % 20000) for k in range(n)) for i, n in enumerate(lengths)]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    off = {"adverts": "off", "min_commas": 0.0, "max_unfinished": 1.0}
    run_stage(tmp_path / "out", tmp_path / "raw.jsonl", min_chars="q0.1", max_chars="q0.9", **off)
    kept = sorted(len(row["text"]) for row in rows(tmp_path / "out", "corpus"))
    assert len(kept) == pytest.approx(160, abs=4)
    assert kept[0] == pytest.approx(40, abs=2)
    reasons = {row["reason"] for row in rows(tmp_path / "out", "rejects")}
    assert reasons == {"too_short", "too_long"}


def test_input_of_a_fetched_data_set_and_of_nothing(raw, tmp_path):
    fetched = tmp_path / "fetch"
    (fetched / "corpus").mkdir(parents=True)
    (fetched / "corpus" / "a.txt").write_text("春眠不觉晓处处闻啼鸟\n", encoding="utf-8")
    stage = artifact.Stage("clean", tmp_path, {"fetch": fetched}, seed=1, key="", resumed=False)
    assert input_files(stage, CleanConfig()) == [fetched / "corpus" / "a.txt"]
    stage = artifact.Stage("clean", tmp_path, {}, seed=1, key="", resumed=False)
    assert [p.name for p in input_files(stage, CleanConfig(input=(str(raw),)))] == [f"{k}.jsonl" for k in range(4)]
    with pytest.raises(ValueError, match=r"clean\.input is empty"):
        input_files(stage, CleanConfig())


def test_nothing_left_is_one_clear_line(tmp_path):
    (tmp_path / "a.txt").write_text("短\nEnglish only, and nothing else here\n太短\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"all 3 documents were dropped \(too_short 2, low_cjk 1\)") as caught:
        run_stage(tmp_path / "out", tmp_path / "a.txt")
    assert "\n" not in str(caught.value)
    assert len(rows(tmp_path / "out", "rejects")) == 3
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(ValueError, match="no documents in 1 input files"):
        run_stage(tmp_path / "out2", tmp_path / "b.txt")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_record_stops_with_its_place_unless_it_shall_be_skipped(raw, tmp_path, workers):
    with pytest.raises(ValueError, match=r"2\.jsonl:4: broken JSON"):
        run_stage(tmp_path / "out", raw, workers=workers, on_error="stop")


def test_a_full_disk_is_an_error_and_the_next_run_goes_on(raw, tmp_path, monkeypatch):
    whole = run_stage(tmp_path / "whole", raw)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(finish.np, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run_stage(tmp_path / "out", raw)
    assert not list(Path(tmp_path / "out").rglob("*.tmp"))
    assert run_stage(tmp_path / "out", raw) == whole
