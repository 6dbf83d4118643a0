"""``congling clean explain``: what it says agrees with what the stage did."""

import json
import shutil

import pytest

from clean.quality.people import write_labels
from clean.stage import raw_files, rows
from congling import cli, pipeline
from congling.clean.explain import explain, find_document
from congling.config import load
from congling.recipe import Recipe
from congling.reporter import Reporter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished stage with every kind of judge: adverts, an evaluation set, labels."""
    tmp = tmp_path_factory.mktemp("explain")
    raw = raw_files(tmp / "raw")
    texts = [json.loads(line)["text"] for line in (raw / "0.jsonl").read_bytes().splitlines()]
    wanted = next(t for t in texts if len(t) > 60)
    (tmp / "eval.jsonl").write_text(json.dumps({"question": wanted[:40]}) + "\n")
    overrides = [
        f'clean.input=["{raw}"]',
        f'clean.decontaminate=["{tmp / "eval.jsonl"}"]',
        f'clean.labels=["{write_labels(tmp / "labels.jsonl")}"]',
        "clean.quality_keep=0.0",
        "clean.on_error=skip",
        "clean.traditional=keep",
        "clean.workers=1",
        f"run.dir={tmp / 'runs'}",
        "run.name=t",
    ]
    recipe = load(Recipe, None, overrides)
    pipeline.run_stage(recipe, "clean", Reporter(quiet=True))
    return pipeline.stage_folder(recipe, "clean")


def said(folder, id):
    return dict(explain(folder, id)), explain(folder, id)


def test_each_document_is_told_as_it_was_treated(folder):
    for row in rows(folder, "rejects"):
        steps, _ = said(folder, row["id"])
        assert steps["verdict"].startswith(f"dropped, {row['reason']}: {row['detail']}")
        if row["reason"] in ("bad_json", "bad_encoding", "no_text"):
            assert steps["read"] == "could not be read as text"
    broken = next(r for r in rows(folder, "rejects") if r["reason"] == "low_cjk")
    assert any("cjk share 0 (0.1 … –)  ← broken" in text for _, text in said(folder, broken["id"])[1])
    contaminated = [r for r in rows(folder, "rejects") if r["reason"] == "contaminated"]
    assert len(contaminated) == 1
    assert said(folder, contaminated[0]["id"])[0]["evaluation sets"].endswith("eval.jsonl:1")


def test_a_document_that_stays(folder):
    row = rows(folder, "corpus")[5]
    steps, _ = said(folder, row["id"])
    assert steps["verdict"].startswith("stays (corpus-00000.parquet, row 5)")
    assert row["text"][:30] in steps["read"]
    assert steps["masked"] == "nothing found"
    assert "least" in steps["quality"]
    assert find_document(folder, row["id"])[2]["text"] == row["text"]


def test_errors(folder, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"no document 999; ids are 0 to 76"):
        explain(folder, 999)
    with pytest.raises(SystemExit) as left:
        cli.main(["clean", "explain", "many"])
    assert left.value.code == cli.BAD_CONFIG
    assert "write congling clean explain DOCUMENT_ID" in capsys.readouterr().err


def test_without_the_source_the_verdict_remains(folder, tmp_path):
    moved = tmp_path / "clean"
    shutil.copytree(folder, moved)
    report = json.loads((moved / "evidence" / "report.json").read_bytes())
    report["files"] = {f"/nowhere/{name}": count for name, count in report["files"].items()}
    (moved / "evidence" / "report.json").write_text(json.dumps(report))
    steps, _ = said(moved, 5)
    assert "no longer there" in steps["read"]
    assert "verdict" in steps
