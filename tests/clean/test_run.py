"""The stage: counts add up, same bytes whatever the workers, same documents whatever the order, resume after a kill."""

import io
import json
import random
import shutil

import pytest

from congling import artifact
from congling.clean import parts
from congling.clean import run as stage_run
from congling.clean.config import CleanConfig
from congling.clean.run import input_files, run
from congling.corpus.shards import read_shards
from congling.reporter import Reporter


def _sentence(rng):
    return "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(rng.randrange(30, 120))) + "。"


@pytest.fixture
def raw(tmp_path):
    """Four files: 60 good documents, planted duplicates, and one document for each of several reasons."""
    rng = random.Random(0)
    good = [_sentence(rng) + "\n" + _sentence(rng) for _ in range(60)]
    near = [text[:-1] + "了。" for text in good[:6]]
    bad = [
        "短",
        "plain English text without any Chinese at all",
        "哈" * 40,
        "\ufffd" * 10 + good[0],
        "！" * 3 + "？" * 20,
    ]
    texts = good + near + [good[1], good[2].replace("。", "，")] + bad + ["　　" + _sentence(rng) + "&nbsp;<br>完"]
    rng.shuffle(texts)
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(4):
        rows = [json.dumps({"text": t, "source": "s"}, ensure_ascii=False).encode() for t in texts[number::4]]
        if number == 2:
            rows[3:3] = [b'{"text": broken', b'{"text": "\xff\xfe bytes"}', b'{"title": "no text"}']
        (folder / f"{number}.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    return folder


def _run(path, config, inputs=None):
    path.mkdir(exist_ok=True)
    stage = artifact.Stage("clean", path, inputs or {}, seed=1, key="", resumed=False)
    return run(stage, Reporter(io.StringIO()), config)


def _bytes(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def _rows(path, prefix):
    return [row for batch in read_shards(path, prefix) for row in batch.to_pylist()]


def test_counts_add_up_and_rejects_hold_every_dropped_document(raw, tmp_path):
    out = tmp_path / "out"
    summary = _run(out, CleanConfig(input=(str(raw),), bad_records="reject", workers=1))
    corpus, rejects = _rows(out, "corpus"), _rows(out, "rejects")
    assert [row["id"] for row in corpus] == list(range(len(corpus)))
    assert [row["id"] for row in rejects] == list(range(len(rejects)))
    assert summary["documents_in"] == summary["documents_out"] + len(rejects)
    assert summary["documents_out"] == len(corpus) == 61
    by_reason = {reason: count["documents"] for reason, count in summary["reasons"].items()}
    reading, rules = ["bad_encoding", "bad_json", "no_text"], ["garbled", "too_short", "low_cjk", "repetition"]
    assert list(by_reason) == [*reading, *rules, "duplicate", "near_duplicate"]
    assert by_reason["near_duplicate"] == 6
    assert by_reason["duplicate"] == 2
    dropped = [row["reason"] for row in rejects]
    assert {reason: dropped.count(reason) for reason in by_reason} == by_reason
    sizes = sum(count["bytes"] for count in summary["reasons"].values())
    assert summary["bytes_normalised"] == summary["bytes_out"] + sizes
    assert summary["characters_out"] == sum(len(row["text"]) for row in corpus)
    assert summary["normalised"]["html"] == 1
    assert set(summary["examples"]) == set(by_reason)
    assert not (out / "parts").exists()


def test_rejects_say_what_was_measured(raw, tmp_path):
    out = tmp_path / "out"
    _run(out, CleanConfig(input=(str(raw),), bad_records="reject", workers=1))
    corpus = _rows(out, "corpus")
    rejects = {row["reason"]: row for row in _rows(out, "rejects")}
    assert rejects["too_short"]["detail"] in ("characters 1 < 10", "characters 6 < 10")
    assert rejects["low_cjk"]["detail"] == "cjk share 0 < 0.2"
    assert "\ufffd" in rejects["garbled"]["text"]  # as it was read
    near = rejects["near_duplicate"]
    assert near["detail"].endswith(">= 0.8")
    kept = corpus[int(near["detail"].split("document ")[1].split()[0])]["text"]
    assert kept[:20] == near["text"][:20]
    twin = corpus[int(rejects["duplicate"]["detail"].removeprefix("of document "))]["text"]
    assert twin[:20] == rejects["duplicate"]["text"][:20]
    assert rejects["bad_json"]["source"].startswith("2.jsonl:")


def test_same_bytes_whatever_the_workers(raw, tmp_path):
    one = _run(tmp_path / "one", CleanConfig(input=(str(raw),), bad_records="reject", workers=1))
    two = _run(tmp_path / "two", CleanConfig(input=(str(raw),), bad_records="reject", workers=2))
    assert one == two
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_same_documents_whatever_the_order_of_files(raw, tmp_path):
    kept = []
    for order in ("0123", "3120"):
        folder = tmp_path / order
        folder.mkdir()
        for old, new in enumerate(order):
            (folder / f"{new}.jsonl").write_bytes((raw / f"{old}.jsonl").read_bytes())
        _run(tmp_path / f"out{order}", CleanConfig(input=(str(folder),), bad_records="reject", workers=1))
        kept.append([row["text"] for row in _rows(tmp_path / f"out{order}", "corpus")])
    assert kept[0] != kept[1]
    assert sorted(kept[0]) == sorted(kept[1])


@pytest.mark.parametrize(
    ("owner", "name", "call", "finished"),
    [
        (parts, "_clean_batches", 3, 2),
        (stage_run, "find_duplicates", 1, 4),
        (stage_run, "_tally", 2, 4),
        (shutil, "rmtree", 1, 4),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(raw, tmp_path, monkeypatch, owner, name, call, finished):
    """Stops at a call in each pass; whole parts are not made again, and the end is that of an unbroken run."""
    config = CleanConfig(input=(str(raw),), bad_records="reject", workers=1)
    whole = _run(tmp_path / "whole", config)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _interrupted(getattr(owner, name), call))
        with pytest.raises(KeyboardInterrupt):
            _run(out, config)
    assert len(list((out / "parts").glob("*.parquet"))) == finished
    monkeypatch.setattr(parts, "_clean_batches", _interrupted(parts._clean_batches, 4 - finished + 1))
    assert _run(out, config) == whole
    assert _bytes(out) == _bytes(tmp_path / "whole")


def _interrupted(function, call):
    """``function``, but its ``call``-th call is interrupted."""
    calls = []

    def wrapper(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return wrapper


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
        _run(tmp_path / "out", CleanConfig(input=(str(tmp_path / "a.txt"),), workers=1))
    assert "\n" not in str(caught.value)
    assert len(_rows(tmp_path / "out", "rejects")) == 3
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(ValueError, match="no documents in 1 input files"):
        _run(tmp_path / "out2", CleanConfig(input=(str(tmp_path / "b.txt"),), workers=1))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_record_stops_with_its_place_unless_rejects_are_wanted(raw, tmp_path, workers):
    with pytest.raises(ValueError, match=r"2\.jsonl:4: broken JSON"):
        _run(tmp_path / "out", CleanConfig(input=(str(raw),), workers=workers))
