"""The model card says what the manifests of the run say, and nothing of another run."""

import json
import shutil

import pytest

from congling.interop.card import write_card
from congling.interop.config import ExportConfig
from congling.interop.lineage import find_lineage, trained_length
from report.fake_run import PLANTED, SUMMARIES, make_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    packages = [{"name": "a|b", "version": "1.0", "licence": "MIT", "bytes": 1}]
    samples = [{"prompt": "从前", "text": PLANTED}]
    monkeypatch.setitem(SUMMARIES, "fetch", {**SUMMARIES["fetch"], "packages": packages})
    monkeypatch.setitem(SUMMARIES, "evaluate", {**SUMMARIES["evaluate"], "samples": samples})
    return make_run(tmp_path / "runs")


def card(folder, lineage, **config):
    folder.mkdir(exist_ok=True)
    write_card(folder, "mine", lineage, ExportConfig(**config))
    return (folder / "README.md").read_text("utf-8")


def test_the_whole_lineage_is_found_and_shown(run, tmp_path):
    lineage = find_lineage(run / "sft")
    assert set(lineage) == {"sft", "pretrain", "tokenize", "clean", "fetch", "tokenizer", "evaluate"}
    assert next(iter(lineage)) == "sft"
    assert trained_length(lineage) == max(
        length for stage in ("pretrain", "sft") for length in lineage[stage]["config"][stage]["lengths"]
    )
    text = card(tmp_path / "card", lineage)
    for wanted in (
        "a&#124;b", "许可 · licence: MIT", "68,770 篇", "50,084 篇", "dropped: duplicate | 16,778",
        "8,192", "5,769,056", "5,243,136", "1.602", "0.941", "28,000", f"`{lineage['pretrain']['hash']}`",
        "apply_chat_template", "## 局限 · Limits",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "<script>" not in text


def test_a_base_model_knows_no_chat_and_no_sft(run, tmp_path):
    lineage = find_lineage(run / "pretrain")
    assert "sft" not in lineage
    text = card(tmp_path / "card", lineage, licence="mit")
    assert "apply_chat_template" not in text
    assert "指令微调" not in text
    assert 'license: "mit"' in text


def test_a_run_that_moved_and_one_that_changed(run, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.move(run.parent, moved)
    assert {"clean", "tokenizer", "pretrain"} <= set(find_lineage(moved / run.name / "sft"))
    manifest = moved / run.name / "pretrain" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "hash": "0"}))
    found = find_lineage(moved / run.name / "sft")
    assert "pretrain" not in found  # trained anew since
    assert "clean" not in found


def test_without_manifests(tmp_path):
    assert find_lineage(tmp_path) == {}
    text = card(tmp_path / "card", {})
    assert "No manifest beside this model" in text
    assert "请自查" in text
