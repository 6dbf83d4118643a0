"""Checkpoints: whole or none, refused in one line when they do not fit, kept as long as they are needed."""

import errno
import os
import random
import shutil
import subprocess

import pytest
import torch

from congling import artifact
from congling.artifact import ArtifactError
from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.model.config import ModelConfig
from congling.model.transformer import Transformer
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary
from congling.train import checkpoint as module
from congling.train.checkpoint import PINNED, Checkpoint, Checkpoints
from train.broken_disk import Disk

SMALL = ModelConfig(dim=8, num_layers=1, num_heads=1, head_dim=8, ffn_dim=8)


def checkpoint(step: int, ends_phase: bool = False, needs: tuple[int, ...] = ()) -> Checkpoint:
    weights = {"w": torch.full((3, 2), float(step))}
    state = {"ends_phase": ends_phase, "guard": {"losses": [0.1, 1e-300], "good": None}}
    return Checkpoint(step, weights, {"adam.w/step": torch.tensor(float(step))}, state, needs)


def saved(folder, *steps: int, keep: int = 9, **options) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoints", "data", keep, **options)
    for step in steps:
        checkpoints.save(checkpoint(step))
    return checkpoints


def one_line(checkpoints: Checkpoints) -> str:
    with pytest.raises(ArtifactError) as caught:
        checkpoints.latest()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def model_and_vocabulary(tmp_path):
    tokenizer = Tokenizer(Vocabulary("congling", ["从前", "有"], [-1_000_000] * 2, [5, 3]))
    tokenizer.save(tmp_path / "vocabulary.txt")
    return Transformer(SMALL.resolve(tokenizer.vocab_size), 3), tmp_path / "vocabulary.txt"


# -- whole -------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path):
    checkpoints = saved(tmp_path, 4, 8)
    found = checkpoints.latest()
    assert found.step == 8
    assert torch.equal(found.weights["w"], torch.full((3, 2), 8.0))
    assert found.optimizer["adam.w/step"].shape == ()
    assert found.state == checkpoint(8).state
    assert checkpoints.latest(at_most=7).step == checkpoints.load(4).step == 4
    assert checkpoints.latest(at_most=3) is None
    assert Checkpoints(tmp_path / "none", "data", 1).latest() is None


def test_what_is_loaded_may_be_changed_and_outlives_the_file(tmp_path):
    checkpoints = saved(tmp_path, 4)
    found = checkpoints.latest()
    found.weights["w"].add_(1)
    assert float(checkpoints.latest().weights["w"][0, 0]) == 4.0
    shutil.rmtree(tmp_path / "checkpoints")
    assert float(found.weights["w"].sum()) == 30.0


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["byte", "cut", "gone"])
def test_damage_is_refused_and_the_last_good_one_offered(tmp_path, name, damage):
    checkpoints = saved(tmp_path, 4, 8, 12)
    file = tmp_path / "checkpoints" / "step-0000012" / name
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[:-3])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    message = one_line(checkpoints)
    assert str(file) in message
    assert message.endswith(f"delete {file.parent} and give the same command to go on from step 8")
    shutil.rmtree(file.parent)
    assert checkpoints.latest().step == 8


def test_any_flipped_bit_is_found(tmp_path, model_and_vocabulary):
    model, vocabulary = model_and_vocabulary
    checkpoints = saved(tmp_path, 4, architecture=model.architecture, vocabulary=vocabulary, stage="pretrain")
    folder, rng = checkpoints.path(4), random.Random(1)
    for name in sorted(p.name for p in folder.iterdir()):
        whole = (folder / name).read_bytes()
        for _ in range(25):
            data = bytearray(whole)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(data)
            assert "step-0000004" in one_line(checkpoints)
        (folder / name).write_bytes(whole)
    assert checkpoints.latest().step == 4


def test_the_offer_skips_damaged_ones(tmp_path):
    checkpoints = saved(tmp_path, 4, 8, 12)
    for step in (8, 12):
        (checkpoints.path(step) / "manifest.json").write_text("{}")
    assert one_line(checkpoints).endswith(
        f"delete {checkpoints.path(8)} and {checkpoints.path(12)} and give the same command to go on from step 4"
    )
    (checkpoints.path(4) / "model.safetensors").unlink()
    assert one_line(checkpoints).endswith(f"delete {checkpoints.folder} and give the same command to begin again")


def test_a_kill_leaves_no_half(tmp_path):
    checkpoints = saved(tmp_path, 4)
    torn = tmp_path / "checkpoints" / ".step-0000008.tmp"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    assert checkpoints.latest().step == 4
    assert torn.exists()  # another process may be writing it
    checkpoints.save(checkpoint(8))
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step-0000004", "step-0000008"]


def test_other_names_are_left_alone(tmp_path):
    checkpoints = saved(tmp_path, 4)
    for name in ("step-0000009 copy", "step-12.bak", "notes"):
        (checkpoints.folder / name).mkdir()
    assert checkpoints.latest().step == 4
    shutil.copytree(checkpoints.path(4), checkpoints.path(6))
    assert "is that of step 4, renamed" in one_line(checkpoints)


# -- of another training -----------------------------------------------------------------------------------------------


def test_other_data_is_refused(tmp_path):
    saved(tmp_path, 4)
    folder = tmp_path / "checkpoints"
    message = one_line(Checkpoints(folder, "other", 2))
    assert message == (
        f"checkpoint {folder}/step-0000004: was made with other training data; bring that back, "
        f"or delete the folder {folder} to begin again"
    )


def test_another_model_is_refused_by_its_first_other_dial(tmp_path):
    here = SMALL.resolve(64)
    saved(tmp_path, 4, architecture=here)
    other = here.model_copy(update={"dim": 16, "ffn_dim": 9})
    found = one_line(Checkpoints(tmp_path / "checkpoints", "data", 2, architecture=other))
    assert "was made with another model (dim 8 there, 16 here); bring that back" in found
    assert Checkpoints(tmp_path / "checkpoints", "data", 2, architecture=here).latest().step == 4
    saved(tmp_path / "bare", 4)
    found = one_line(Checkpoints(tmp_path / "bare" / "checkpoints", "data", 2, architecture=here))
    assert "another model (vocab_size unknown there, 64 here)" in found


def test_another_vocabulary_is_refused(tmp_path):
    for name, text in (("a", "一个\n"), ("b", "两个\n")):
        (tmp_path / name).write_text(text)
    saved(tmp_path, 4, vocabulary=tmp_path / "a")
    folder = tmp_path / "checkpoints"
    assert f"was made with another vocabulary than {tmp_path}/b" in one_line(
        Checkpoints(folder, "data", 2, vocabulary=tmp_path / "b")
    )
    assert Checkpoints(folder, "data", 2, vocabulary=tmp_path / "a").latest().step == 4


def test_another_format_is_refused(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 4)
    monkeypatch.setattr(module, "FORMAT", 3)
    checkpoints.save(checkpoint(8))
    monkeypatch.undo()
    message = one_line(checkpoints)
    assert "step-0000008: written in format 3, this version reads 2; use the version that wrote it" in message


# -- a checkpoint is a model -------------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_model_folder(tmp_path, model_and_vocabulary):
    model, vocabulary = model_and_vocabulary
    checkpoints = Checkpoints(
        tmp_path / "pretrain" / "checkpoints",
        "data",
        2,
        architecture=model.architecture,
        vocabulary=vocabulary,
        stage="pretrain",
    )
    weights = {name: p.detach() for name, p in model.named_parameters()}
    checkpoints.save(Checkpoint(120, weights, {"m": torch.zeros(9)}, {}))
    folder = checkpoints.path(120)
    loaded = Model.load(folder)
    assert not loaded.tuned  # it knows no chat template
    assert torch.equal(loaded.logits([1, 20]), Model(model, Tokenizer.load(vocabulary)).logits([1, 20]))
    assert isinstance(loaded.generate("从前", SampleConfig(max_tokens=3)), str)
    manifest = artifact.read_manifest(folder, "pretrain")  # so a later stage may begin from it
    artifact.verify(folder, manifest)
    with pytest.raises(ArtifactError, match=r"not finished; .*; models here: .*checkpoints/step-0000120$"):
        Model.load(tmp_path / "pretrain")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="damaged"):
        Model.load(folder)


# -- retention ---------------------------------------------------------------------------------------------------------


def test_retention(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", "data", 2, keep_every=6)
    for step in range(1, 15):
        checkpoints.save(checkpoint(step, ends_phase=step in (2, 4), needs=(3,) if 4 <= step <= 11 else ()))
        if step == 7:
            checkpoints.pin(7)
        if step == 12:  # 11, which needs 3, is among the newest two
            assert checkpoints.steps() == [2, 3, 4, 6, 7, 11, 12]
    # ends of phases, every sixth, the pinned, the newest two
    assert checkpoints.steps() == [2, 4, 6, 7, 12, 13, 14]
    assert (checkpoints.path(7) / PINNED).read_bytes() == b""
    assert checkpoints.load(7).step == 7
    assert not list(checkpoints.folder.glob(".*"))


def test_a_damaged_one_is_not_deleted(tmp_path):
    checkpoints = saved(tmp_path, 1)
    (checkpoints.path(1) / "manifest.json").write_text("{")
    for step in (2, 3):
        saved(tmp_path, step, keep=1)
    assert checkpoints.steps() == [1, 3]


def test_saved_twice_is_saved_once(tmp_path):
    checkpoints = saved(tmp_path, 4)
    before = (checkpoints.path(4) / "model.safetensors").stat().st_ino
    checkpoints.save(checkpoint(4))
    assert (checkpoints.path(4) / "model.safetensors").stat().st_ino == before


# -- full disks --------------------------------------------------------------------------------------------------------


def test_a_disk_full_at_any_byte_leaves_the_earlier_ones(tmp_path, monkeypatch):
    saved(tmp_path / "size", 4)
    checkpoints = saved(tmp_path, 4)
    size = sum(p.stat().st_size for p in (tmp_path / "size" / "checkpoints" / "step-0000004").iterdir())
    for room in (0, 1, *random.Random(2).sample(range(size), 25), size - 1):
        with monkeypatch.context() as patch:
            Disk(room).install(patch)
            with pytest.raises(OSError, match="No space left"):
                checkpoints.save(checkpoint(8))
        assert [p.name for p in checkpoints.folder.iterdir()] == ["step-0000004"]
    assert checkpoints.latest().step == 4
    Disk(size).install(monkeypatch)
    checkpoints.save(checkpoint(8))
    assert checkpoints.latest().step == 8


def test_space_is_checked_before_writing(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 4)
    disk = Disk().install(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5))
    with pytest.raises(OSError, match=r"0.00 GB needed, 0.00 GB free: .*checkpoints") as caught:
        checkpoints.save(checkpoint(8))
    assert caught.value.errno == errno.ENOSPC
    assert disk.written == 0
    assert checkpoints.steps() == [4]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_really_full_disk(small_disk, monkeypatch):
    checkpoints = Checkpoints(small_disk / "checkpoints", "data", 1)
    large = {"w": torch.ones(1 << 19)}  # 2 MiB
    checkpoints.save(Checkpoint(4, large, {}, {}))
    with pytest.raises(OSError, match=r"0.00 GB needed, 0.00 GB free"):
        checkpoints.save(Checkpoint(8, large, {}, {}))
    monkeypatch.setattr(Checkpoints, "_check_space", lambda *_: None)  # somebody else filled it meanwhile
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.save(Checkpoint(8, large, {}, {}))
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-0000004"]
    assert float(checkpoints.latest().weights["w"].sum()) == 1 << 19
    checkpoints.save(Checkpoint(8, {"w": torch.ones(9)}, {}, {}))
    assert checkpoints.steps() == [8]
