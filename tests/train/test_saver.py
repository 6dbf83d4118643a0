"""The saver: beside the training, one at a time, in order; a disk that refuses is a warning."""

import errno
import os
import threading
import time

import pytest
import torch

from congling.reporter import Reporter
from congling.train.checkpoint import Checkpoint, Checkpoints
from congling.train.saver import Saver, snapshot
from train.broken_disk import Disk


class Listening(Reporter):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((3, 2), float(step))}, {"m": torch.zeros(4)}, {})


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", "data", 2)


@pytest.fixture
def saver(checkpoints):
    made = Saver(checkpoints, Listening())
    yield made
    made._thread.shutdown()


class Gate:
    """Holds every save until it is opened; notes when each begins and ends."""

    def __init__(self, checkpoints, monkeypatch) -> None:
        self.open, self.begun, self.events, self.real = threading.Event(), threading.Event(), [], checkpoints.save
        monkeypatch.setattr(checkpoints, "save", self.save)

    def save(self, checkpoint) -> None:
        self.events.append(("begin", checkpoint.step))
        self.begun.set()
        assert self.open.wait(10)
        self.real(checkpoint)
        self.events.append(("end", checkpoint.step))


def test_the_caller_goes_on_while_it_writes(saver, checkpoints, monkeypatch):
    gate = Gate(checkpoints, monkeypatch)
    saver.save(checkpoint(4))
    assert gate.begun.wait(10)
    assert checkpoints.steps() == []
    gate.open.set()
    saver.wait()
    assert checkpoints.latest().step == 4
    assert saver.failed == 0


def test_one_at_a_time_and_in_order(saver, checkpoints, monkeypatch):
    gate = Gate(checkpoints, monkeypatch)
    gate.open.set()
    for step in (4, 8, 12, 16):
        saver.save(checkpoint(step))
    saver.close()
    assert gate.events == [(what, step) for step in (4, 8, 12, 16) for what in ("begin", "end")]
    assert checkpoints.steps() == [12, 16]


def test_the_second_waits_for_the_first(saver, checkpoints, monkeypatch):
    gate = Gate(checkpoints, monkeypatch)
    saver.save(checkpoint(4))
    threading.Timer(0.2, gate.open.set).start()
    started = time.perf_counter()
    saver.save(checkpoint(8))
    assert time.perf_counter() - started > 0.1
    assert saver.blocked > 0.1
    assert checkpoints.steps()[0] == 4


def test_what_changes_after_the_call_is_not_written(saver, checkpoints, monkeypatch):
    gate = Gate(checkpoints, monkeypatch)
    for step in (4, 8, 12):
        gate.begun.clear()
        made = checkpoint(step)
        saver.save(made)
        assert gate.begun.wait(10)
        for tensor in (*made.weights.values(), *made.optimizer.values()):
            tensor.fill_(-1)  # the next step of the training
        gate.open.set()
        saver.wait()
        gate.open.clear()
        found = checkpoints.load(step)
        assert torch.equal(found.weights["w"], checkpoint(step).weights["w"])
        assert torch.equal(found.optimizer["m"], torch.zeros(4))


def test_a_snapshot_uses_memory_again_where_it_fits():
    first = snapshot({"a": torch.ones(3), "b": torch.ones(3), "gone": torch.ones(1)}, {})
    second = snapshot({"a": torch.zeros(3), "b": torch.zeros(4), "new": torch.zeros(3)}, first)
    assert second["a"].data_ptr() == first["a"].data_ptr()
    assert {name: value.tolist() for name, value in second.items()} == {"a": [0] * 3, "b": [0] * 4, "new": [0] * 3}


def test_wait_is_for_what_must_be_on_disk(saver, checkpoints, monkeypatch):
    gate = Gate(checkpoints, monkeypatch)
    threading.Timer(0.1, gate.open.set).start()
    saver.save(checkpoint(4), wait=True)
    assert checkpoints.latest().step == 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("room", [0, 200, 500])
def test_a_disk_that_refuses_is_a_warning(saver, checkpoints, monkeypatch, code, room):
    saver.save(checkpoint(4), wait=True)
    with monkeypatch.context() as patch:
        Disk(room, code).install(patch)
        saver.save(checkpoint(8), wait=True)
    assert saver.failed == 1
    (warning,) = saver._reporter.warnings
    assert f"checkpoint {checkpoints.path(8)} not saved: " in warning
    assert os.strerror(code) in warning
    assert "safetensors" in warning or "manifest.json" in warning  # the file
    assert warning.endswith("the training goes on, the newest one is of step 4")
    assert "\n" not in warning
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-0000004"]
    assert saver.save(checkpoint(12), wait=True)  # and the next one is written
    assert checkpoints.latest().step == 12


def test_missing_space_is_said_in_bytes(saver, checkpoints, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 123_000_000})())
    large = Checkpoint(4, {"w": torch.empty(1).expand(500_000_000)}, {}, {})  # 2 GB that are nowhere
    saver.save(large, wait=True)
    (warning,) = saver._reporter.warnings
    assert "2.00 GB needed, 0.12 GB free" in warning
    assert warning.endswith("the training goes on, there is none yet")


def test_other_errors_are_raised_by_the_next_call(saver, checkpoints, monkeypatch):
    def crash(checkpoint):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(checkpoints, "save", crash)
    saver.save(checkpoint(4))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        saver.save(checkpoint(8))
    saver.wait()  # said once
    saver.save(checkpoint(8))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        saver.close()


def test_what_a_kill_left_is_cleared_at_the_start(checkpoints):
    (checkpoints.folder / ".step-0000004.tmp").mkdir(parents=True)
    Saver(checkpoints, Listening()).close()
    assert list(checkpoints.folder.iterdir()) == []


def test_a_snapshot_stays_as_it_is():
    tensors = {
        "a": torch.randn(4, 3),
        "view": torch.randn(4, 3).mT,
        "step": torch.tensor(3.0),
        "b": torch.ones(2).bfloat16(),
    }
    tensors["grad"] = torch.randn(3, requires_grad=True)
    expected = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    copies = snapshot(tensors, {})
    for tensor in tensors.values():
        tensor.detach().zero_()
    assert copies.keys() == expected.keys()
    for name, copy in copies.items():
        assert torch.equal(copy, expected[name])
        assert copy.dtype == expected[name].dtype
        assert copy.is_contiguous()
        assert not copy.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_snapshot_of_a_gpu():
    tensors = {"a": torch.randn(1 << 20, device="cuda"), "b": torch.randn(8, 3, device="cuda").mT}
    expected = {name: tensor.cpu() for name, tensor in tensors.items()}
    copies = snapshot(tensors, {})
    for tensor in tensors.values():
        tensor.zero_()
    assert all(torch.equal(copy, expected[name]) and copy.is_pinned() for name, copy in copies.items())
