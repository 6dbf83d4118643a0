"""``kill -9`` at any moment of any stage, the same command again, and the result is the same to the byte.

A child process runs one stage and kills itself at its n-th rename (before or after it) or after some milliseconds;
the next child goes on. Pretraining is killed twice in a row.
"""

import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

import tiny
from congling import artifact

STAGES = ("clean", "tokenizer", "tokenize", "pretrain", "sft", "evaluate")
NEEDS = {  # finished stages that must be there
    "clean": (),
    "tokenizer": ("clean",),
    "tokenize": ("clean", "tokenizer"),
    "pretrain": ("tokenize",),
    "sft": ("pretrain",),
    "evaluate": ("tokenize", "pretrain", "sft"),
}
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tiny", "congling.pipeline", "congling.finetune.run", "congling.evaluate.run"])


def child(overrides: list[str], stage: str, kill_at: int, after: bool, milliseconds: int | None, counter: str) -> None:
    """Runs ``stage``; kills this process at rename number ``kill_at`` (0: never), or after ``milliseconds``."""
    from congling import config, pipeline
    from congling.recipe import Recipe
    from congling.reporter import Reporter

    os.chdir(Path(counter).parent)
    count = 0
    real = {"replace": os.replace, "rename": os.rename}

    def counting(name):
        def rename(*args, **kwargs):
            nonlocal count
            count += 1
            if count == kill_at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            real[name](*args, **kwargs)
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        return rename

    os.replace, os.rename = counting("replace"), counting("rename")
    if milliseconds is not None:
        threading.Timer(milliseconds / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()
    pipeline.run_stage(config.load(Recipe, None, overrides), stage, Reporter(quiet=True))
    Path(counter).write_text(str(count))


def run(overrides, stage, counter, kill_at=0, after=False, milliseconds=None) -> int | None:
    process = _CONTEXT.Process(target=child, args=(overrides, stage, kill_at, after, milliseconds, str(counter)))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"{stage} did not end within 120 seconds")
    return process.exitcode


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A whole run without a kill, and the number of renames of each stage."""
    folder = tmp_path_factory.mktemp("reference")
    raw = tiny.make_raw(folder / "raw")
    renames = {}
    for stage in STAGES:
        assert run(tiny.overrides(raw, folder / "runs"), stage, folder / "count") == 0, stage
        renames[stage] = int((folder / "count").read_text())
    return raw, folder / "runs" / "tiny", renames


def result(folder: Path) -> str:
    """Hash of what the stage made; of a training, of its model; of an evaluation, of all but the measured speed."""
    manifest = artifact.read_manifest(folder)
    artifact.verify(folder, manifest)
    if manifest["stage"] == "evaluate":
        kept = {k: v for k, v in manifest["summary"].items() if k not in ("decode_tokens_per_second", "peak_memory")}
        return artifact.hash_json(kept)
    return manifest["outputs"].get("model.safetensors", {}).get("hash") or manifest["hash"]


def killed_then_finished(reference, tmp_path, stage, kills):
    raw, finished, _ = reference
    for needed in NEEDS[stage]:
        shutil.copytree(finished / needed, tmp_path / "runs" / "tiny" / needed)
    overrides = tiny.overrides(raw, tmp_path / "runs")
    for kill in kills:
        code = run(overrides, stage, tmp_path / "count", **kill)
        assert code in (-signal.SIGKILL, 0), code  # 0: it was done before the moment came
    assert run(overrides, stage, tmp_path / "count") == 0
    assert result(tmp_path / "runs" / "tiny" / stage) == result(finished / stage)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_a_rename(reference, tmp_path, stage, share):
    count = reference[2][stage]
    kill_at = 1 + round(share * (count - 1))
    kills = [{"kill_at": kill_at, "after": share == 0.5}]
    if stage == "pretrain":
        kills.append({"kill_at": max(2, (count - kill_at) // 2), "after": share == 0.0})  # twice in a row
    killed_then_finished(reference, tmp_path, stage, kills)


@pytest.mark.parametrize("stage", ["clean", "pretrain"])
def test_killed_at_some_moments(reference, tmp_path, stage):
    killed_then_finished(reference, tmp_path, stage, [{"milliseconds": ms} for ms in (150, 400, 900)])
