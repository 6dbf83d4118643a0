import errno
import json
import os
from pathlib import Path

import pytest

from congling import artifact
from congling.artifact import ArtifactError
from congling.config import Config, option


class Section(Config):
    size: int = option(1, "a dial")
    workers: int = option(1, "processes", affects_result=False)


def build(path: Path, section: Section | None = None, text: str = "data", **more):
    """Runs a stage that writes one file; returns (ran, resumed, manifest)."""
    with artifact.stage(path, "demo", {"demo": section or Section()}, more.pop("inputs", {}), 1, **more) as (
        now,
        summary,
    ):
        if now is None:
            return False, False, summary
        artifact.atomic_write(now.path / "out.txt", text.encode())
        summary["count"] = len(text)
    return True, now.resumed, artifact.read_manifest(path)


def test_a_finished_stage_is_not_run_again(tmp_path):
    first = build(tmp_path / "a")
    assert first[0]
    assert first[2]["summary"] == {"count": 4}
    assert build(tmp_path / "a") == (False, False, first[2])
    assert build(tmp_path / "a", Section(workers=9))[0] is False
    assert build(tmp_path / "a", Section(size=2))[0] is True


def test_an_unfinished_stage_goes_on_only_with_the_same_key(tmp_path):
    for size, resumed in ((1, False), (1, True), (2, False)):
        with (
            pytest.raises(RuntimeError),
            artifact.stage(tmp_path / "a", "demo", {"demo": Section(size=size)}, {}, 1) as (now, _),
        ):
            assert now.resumed is resumed
            assert (now.path / "part").exists() is resumed
            artifact.atomic_write(now.path / "part", b"x")
            raise RuntimeError("killed")
    with pytest.raises(ArtifactError, match="no finished stage"):
        artifact.read_manifest(tmp_path / "a")


def test_a_changed_input_runs_the_stage_again(tmp_path):
    build(tmp_path / "a")
    inputs = {"a": tmp_path / "a"}
    assert build(tmp_path / "b", inputs=inputs)[0]
    assert not build(tmp_path / "b", inputs=inputs)[0]
    build(tmp_path / "a", Section(size=3))  # the same bytes out: what reads it need not run
    assert not build(tmp_path / "b", inputs=inputs)[0]
    build(tmp_path / "a", Section(size=4), text="other")
    assert build(tmp_path / "b", inputs=inputs)[0]


def test_raw_files_count_by_content(tmp_path):
    raw = tmp_path / "raw.txt"
    raw.write_text("one")
    assert build(tmp_path / "a", raw={"files": [raw]})[0]
    os.utime(raw, (1, 1))
    assert not build(tmp_path / "a", raw={"files": [raw]})[0]
    raw.write_text("two")
    assert build(tmp_path / "a", raw={"files": [raw]})[0]


def test_trainings_are_set_aside_never_deleted(tmp_path):
    for size in (1, 2, 3):
        build(tmp_path / "a", Section(size=size), text=f"weights {size}", keep_old=True)
    assert (tmp_path / "a.1" / "out.txt").read_text() == "weights 1"
    assert (tmp_path / "a.2" / "out.txt").read_text() == "weights 2"
    assert artifact.read_manifest(tmp_path / "a.2")["config"]["demo"]["size"] == 2


def test_verify_finds_a_flipped_byte_and_a_missing_file(tmp_path):
    manifest = build(tmp_path / "a")[2]
    artifact.verify(tmp_path / "a", manifest)
    (tmp_path / "a" / "out.txt").write_text("dbta")
    with pytest.raises(ArtifactError, match=r"out.txt: damaged"):
        artifact.verify(tmp_path / "a", manifest)
    (tmp_path / "a" / "out.txt").unlink()
    with pytest.raises(ArtifactError, match=r"out.txt: missing"):
        artifact.verify(tmp_path / "a", manifest)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(ArtifactError, match="no such folder"):
        artifact.read_manifest(tmp_path / "none")
    build(tmp_path / "run" / "clean")
    with pytest.raises(ArtifactError, match="finished stages in it: clean"):
        artifact.read_manifest(tmp_path / "run")
    with pytest.raises(ArtifactError, match="needed: sft"):
        artifact.read_manifest(tmp_path / "run" / "clean", "sft")
    file = tmp_path / "run" / "clean" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(ArtifactError, match="format 99"):
        build(tmp_path / "run" / "clean")
    file.write_text("{")
    with pytest.raises(ArtifactError, match="not a manifest"):
        artifact.read_manifest(tmp_path / "run" / "clean")
    assert (tmp_path / "run" / "clean" / "out.txt").read_text() == "data"


def test_two_processes_cannot_work_in_one_stage(tmp_path):
    with (
        artifact.stage(tmp_path / "a", "demo", {}, {}, 1),
        pytest.raises(ArtifactError, match="another congling process"),
        artifact.stage(tmp_path / "a", "demo", {}, {}, 1),
    ):
        pass


def test_atomic_open_leaves_the_old_file_when_writing_fails(tmp_path):
    target = tmp_path / "file"
    artifact.atomic_write(target, b"old")
    with pytest.raises(OSError), artifact.atomic_open(target) as file:
        file.write(b"half of the ne")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
