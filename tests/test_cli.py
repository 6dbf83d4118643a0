"""The command line as a user meets it: help, words and keys, one line and an exit code for each mistake."""

import errno
import json
import os
import re
from pathlib import Path

import pytest

import tiny
from congling import cli, config
from congling.cli import BAD_CONFIG, COMMANDS, FAILED, OK, RESUME_ME
from congling.recipe import Recipe
from congling.train.loop import Interrupted

ROOT = Path(__file__).parents[1]


def one_line(error: str, *needles: str) -> bool:
    lines = [line for line in error.splitlines() if line.startswith("congling: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    for needle in needles:
        assert needle in lines[0], lines[0]
    return True


def test_version_and_help(congling):
    assert congling("--version")[:2] == (OK, "congling 0.1.0\n")
    out = congling("--help")[1]
    for command in COMMANDS:
        assert command.name.split()[0] in out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_help_lists_every_key_with_its_default(congling, command):
    code, out, _ = congling(*command.name.split(), "--help")
    assert code == OK
    for section in command.sections:
        for key, _, default, _ in config.describe(Recipe.model_fields[section].annotation):
            assert re.search(rf"^\s+{re.escape(key)} = {re.escape(default)}", out, re.M), key


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.name)
def test_shipped_recipes_are_valid(recipe):
    config.load(Recipe, recipe, [])


@pytest.mark.parametrize(
    ("arguments", "code", "needles"),
    [
        (["clean", "min_char=3"], BAD_CONFIG, ["unknown key clean.min_char", "min_chars"]),
        (["clean", "min_chars=many"], BAD_CONFIG, ["clean.min_chars", "many"]),
        (["pretrain", "pretrain.lr=-1"], BAD_CONFIG, ["pretrain.lr", "greater than 0"]),
        (["pretrain", "lengths=[64,100]"], BAD_CONFIG, ["lengths", "divide"]),
        (["run", "none.toml"], BAD_CONFIG, ["none.toml", "no such file"]),
        (["run", "from=sft", "to=clean"], FAILED, ["run.from = sft", "run.to = clean"]),
        (["chat"], BAD_CONFIG, ["MODEL is missing"]),
        (["chat", "nowhere"], FAILED, ["nowhere", "no such folder"]),
        (["serve", "nowhere", "host=0.0.0.0"], BAD_CONFIG, ["serve", "api_key"]),
        (["report", "nowhere"], FAILED, ["nowhere"]),
        (["control", "nowhere", "seq_len=64"], FAILED, ["nowhere", "no training here"]),
        (["tokenizer", "encode", "nowhere.txt", "x"], FAILED, ["nowhere.txt", "no such vocabulary"]),
        (["pretrain", "run.name=empty"], FAILED, ["tokenize", "no such folder"]),
        (["clean", 'clean.input=["nowhere"]'], FAILED, ["nowhere"]),
        (["fetch", "nosuchset"], FAILED, ["nosuchset", "demo"]),
        (["frobnicate"], BAD_CONFIG, ["frobnicate"]),
        (["run", "--fast"], BAD_CONFIG, ["--fast"]),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(congling, arguments, code, needles):
    found, _, error = congling(*arguments)
    assert found == code, error
    one_line(error, *needles)


@pytest.mark.parametrize(
    ("error", "code", "needle"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), FAILED, "x/y: no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "x/y"), FAILED, "x/y: no permission"),
        (Interrupted("pretrain: stopped after step 3"), RESUME_ME, "after step 3"),
        (KeyboardInterrupt(), 130, "goes on from here"),
        (ValueError("two\nlines"), FAILED, "two lines"),
    ],
)
def test_what_the_machine_refuses_is_one_line_too(capsys, error, code, needle):
    def fails():
        raise error

    assert cli._guarded(fails) == code
    one_line(capsys.readouterr().err, needle)


def test_a_defect_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        cli._guarded(lambda: 1 // 0)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return tiny.make_raw(tmp_path_factory.mktemp("raw"), documents=80)


def clean(congling, raw, *more):
    return congling("clean", f'clean.input=["{raw}/corpus"]', "run.name=t", *more)


def test_a_change_is_asked_of_a_training(congling, tmp_path):
    folder = tmp_path / "runs" / "x" / "pretrain"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").touch()
    assert congling("control", "runs/x", "seq_len=64", "lr=1e-3")[0] == OK
    (request,) = (folder / "requests").glob("*.json")
    assert json.loads(request.read_text()) == {"seq_len": 64, "lr": 1e-3}
    code, _, error = congling("control", folder, "sequence=64")
    assert code == FAILED
    assert one_line(error, "sequence", "seq_len")
    assert congling("control", folder, "64")[0] == BAD_CONFIG


def test_a_finished_stage_is_skipped_and_says_so(congling, raw):
    assert clean(congling, raw)[0] == OK
    code, _, error = clean(congling, raw)
    assert code == OK
    assert "already done" in error


def test_an_edited_side_file_makes_the_stage_run_again(congling, raw, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("没有这个词\n")
    assert clean(congling, raw, f"clean.lexicon={words}")[0] == OK
    assert "already done" in clean(congling, raw, f"clean.lexicon={words}")[2]
    words.write_text("没有这个词\n也没有那个\n")
    assert "already done" not in clean(congling, raw, f"clean.lexicon={words}")[2]
    code, _, error = clean(congling, raw, "clean.lexicon=nowhere.txt")
    assert code == FAILED
    one_line(error, "clean.lexicon: nowhere.txt: no such file")


def test_clean_writes_its_page_and_explains_a_document(congling, raw):
    code, out, _ = clean(congling, raw)
    assert code == OK
    assert "runs/t/clean.html" in out
    assert "从零" in Path("runs/t/clean.html").read_text(encoding="utf-8")
    code, out, _ = congling("clean", "explain", "0", "run.name=t")
    assert code == OK
    assert out.startswith("source ")
    assert "verdict" in out
    assert congling("clean", "explain", "x", "run.name=t")[0] == BAD_CONFIG


def test_a_label_file_that_is_missing_is_told_before_the_work(congling, raw):
    code, _, error = clean(congling, raw, 'clean.labels=["nowhere.jsonl"]')
    assert code == FAILED
    one_line(error, "nowhere.jsonl", "no such file")


def test_a_full_disk_is_one_line_and_loses_nothing(congling, raw, monkeypatch):
    assert clean(congling, raw)[0] == OK
    before = sorted(p.name for p in Path("runs/t/clean").iterdir())
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, error = congling("tokenizer", "train", "run.name=t", "vocab_size=300", "min_count=1")
    assert code == FAILED
    one_line(error, "no space left", "same command")
    assert sorted(p.name for p in Path("runs/t/clean").iterdir()) == before
    monkeypatch.setattr(os, "fsync", real)
    assert congling("tokenizer", "train", "run.name=t", "vocab_size=300", "min_count=1")[0] == OK


def test_no_write_permission(congling, raw, monkeypatch):
    real = Path.mkdir

    def refuse(path: Path, *args, **kwargs):
        if "runs" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    code, _, error = clean(congling, raw)
    assert code == FAILED
    one_line(error, "no permission", "run.dir")


def test_a_corpus_too_small_for_the_vocabulary(congling, raw):
    assert clean(congling, raw)[0] == OK
    code, _, error = congling("tokenizer", "train", "run.name=t", "vocab_size=65536")
    assert code == FAILED
    one_line(error, "tokenizer.vocab_size = 65536", "set vocab_size to at most")


@pytest.mark.parametrize(
    ("name", "data", "needles"),
    [
        ("broken.jsonl", b'{"text": "\xe4\xb8\xad"}\n{"text": \n{"text": "b"}\n', ["broken.jsonl", "2"]),
        ("gbk.txt", "中文文档一行\n".encode("gb18030"), ["gbk.txt"]),
        ("empty.jsonl", b"", ["no document"]),
    ],
)
def test_files_that_hold_no_usable_document(congling, tmp_path, name, data, needles):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(data)
    code, _, error = congling("clean", 'clean.input=["in"]', "run.name=bad")
    assert code == FAILED, error
    one_line(error, *needles)


def test_a_run_folder_of_another_version(congling, raw):
    assert clean(congling, raw)[0] == OK
    manifest = Path("runs/t/clean/manifest.json")
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 7', 1))
    code, _, error = clean(congling, raw)
    assert code == FAILED
    one_line(error, "format 7", "another run.dir")
    assert any(Path("runs/t/clean").glob("corpus-*.parquet"))


def test_encode_and_decode_through_the_command_line(congling, raw):
    assert clean(congling, raw)[0] == OK
    assert congling("tokenizer", "train", "run.name=t", "vocab_size=400", "min_count=1")[0] == OK
    ids = congling("tokenizer", "encode", "runs/t/tokenizer", "月亮 <|im_end|>")[1].split()
    assert all(int(i) >= 16 for i in ids)
    code, _, error = congling("tokenizer", "decode", "runs/t/tokenizer", "1 x")
    assert code == FAILED
    one_line(error, "whole numbers")


def test_a_vocabulary_is_shown_and_exported(congling, raw):
    assert clean(congling, raw)[0] == OK
    assert congling("tokenizer", "train", "run.name=t", "vocab_size=400", "min_count=1")[0] == OK
    code, out, _ = congling("tokenizer", "inspect", "runs/t/tokenizer", "a=b", "月亮")  # a text may look like a key
    assert code == OK
    assert "月" in out
    assert "<0x3D>" in out
    code, out, _ = congling(
        "tokenizer",
        "inspect",
        "runs/t/tokenizer",
        "月亮",
        "page=page.html",
        f'files=["{next((raw / "corpus").iterdir())}"]',
    )
    assert (code, out.strip()) == (OK, "page.html")
    assert "月亮" in Path("page.html").read_text("utf-8")
    code, _, error = congling("tokenizer", "inspect", "runs/t/tokenizer", "page=page.html", 'files=["none.txt"]')
    assert code == FAILED
    one_line(error, "none.txt")
    code, _, error = congling("tokenizer", "export", "runs/t/tokenizer", "hf")  # too small to hold ASCII
    assert code == FAILED
    one_line(error, "no piece for", "at least 1296 ids")
    assert not Path("hf").exists()
    code, _, error = congling("tokenizer", "export", "runs/t/tokenizer", "hf", "format=gguf")
    assert code == BAD_CONFIG
    one_line(error, "format", "hf")
