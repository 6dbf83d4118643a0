import errno
import shutil

import pytest
import torch

from congling import artifact
from congling.artifact import ArtifactError
from congling.train.checkpoint import Checkpoint, Checkpoints, random_state, set_random_state


def checkpoint(step: int, ends_phase: bool = False) -> Checkpoint:
    weights = {"w": torch.full((3, 2), float(step))}
    return Checkpoint(step, weights, {"adam.w/step": torch.tensor(float(step))}, {"ends_phase": ends_phase})


def saved(folder, *steps: int, keep: int = 9) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoints", "data", keep)
    for step in steps:
        checkpoints.save(checkpoint(step))
    return checkpoints


def test_saved_and_loaded(tmp_path):
    checkpoints = saved(tmp_path, 4, 8)
    found = checkpoints.latest()
    assert found.step == 8
    assert torch.equal(found.weights["w"], torch.full((3, 2), 8.0))
    assert found.optimizer["adam.w/step"].shape == ()
    assert Checkpoints(tmp_path / "none", "data", 1).latest() is None


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
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
    with pytest.raises(ArtifactError) as caught:
        checkpoints.latest()
    message = str(caught.value)
    assert str(file) in message
    assert message.endswith(f"delete {file.parent} and give the same command to go on from step 8")
    assert "\n" not in message
    shutil.rmtree(file.parent)
    assert checkpoints.latest().step == 8


def test_the_offer_skips_damaged_ones(tmp_path):
    checkpoints = saved(tmp_path, 4, 8, 12)
    for step in (8, 12):
        (tmp_path / "checkpoints" / f"step-{step:07d}" / "state.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"delete .*step-0000008 and .*step-0000012 .* go on from step 4"):
        checkpoints.latest()
    (tmp_path / "checkpoints" / "step-0000004" / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"delete .*checkpoints and give the same command to begin again"):
        checkpoints.latest()


def test_other_data_is_refused(tmp_path):
    saved(tmp_path, 4)
    with pytest.raises(ArtifactError, match="other training data"):
        Checkpoints(tmp_path / "checkpoints", "other", 2).latest()


def test_retention_keeps_the_last_of_each_length(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", "data", 2)
    for step in range(1, 8):
        checkpoints.save(checkpoint(step, ends_phase=step in (2, 4)))
    kept = sorted(int(p.name[5:]) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [2, 4, 6, 7]


def test_a_full_disk_leaves_the_earlier_ones(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 4)

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(artifact, "atomic_write", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(checkpoint(8))
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-0000004"]
    assert checkpoints.latest().step == 4


def test_torn_folders_are_cleared(tmp_path):
    checkpoints = saved(tmp_path, 4)
    torn = tmp_path / "checkpoints" / ".step-0000008.tmp"
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"half")
    assert checkpoints.latest().step == 4
    assert not torn.exists()


def test_random_state_comes_back():
    state = random_state()
    first = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), first)
