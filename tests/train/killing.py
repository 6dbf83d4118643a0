"""A tiny training in a process of its own that is killed at a chosen moment. Preloaded by a fork server."""

import builtins
import functools
import json
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from congling import artifact, reporter
from congling.train import checkpoint, journal
from train.file_proxy import FileProxy
from train.tiny_job import VOCAB, Counting, train

_CALLS = ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir")
_WRITERS = (checkpoint, artifact, journal, reporter)  # modules whose ``open`` is watched

context = multiprocessing.get_context("forkserver")
# What torch imports at the first optimizer and step takes a second: once, not in every child.
context.set_forkserver_preload(["train.killing", "torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp"])


@dataclass(frozen=True)
class Moment:
    """When to die: at the n-th "batch", at the n-th thing done to the "disk", or after n milliseconds of "time".

    half: at the disk: in the middle of a write, or after a call that would else not have been made.
    """

    kind: str = "never"
    number: int = 0
    half: bool = False


class Watch:
    """Counts batches and what is done to the disk, and kills this process at the moment."""

    def __init__(self, moment: Moment) -> None:
        self.moment, self.counts, self._lock = moment, {"batch": 0, "disk": 0}, threading.Lock()

    def install(self) -> None:
        for name in _CALLS:
            setattr(os, name, functools.partial(self._call, getattr(os, name)))
        for module in _WRITERS:
            module.open = self._open
        if self.moment.kind == "time":
            timer = threading.Timer(self.moment.number / 1000, die)
            timer.daemon = True
            timer.start()

    def now(self, kind: str) -> bool:
        with self._lock:
            self.counts[kind] += 1
            return self.moment.kind == kind and self.counts[kind] == self.moment.number

    def _call(self, real, *args, **kwargs):
        now = self.now("disk")
        if now and not self.moment.half:
            die()
        found = real(*args, **kwargs)
        if now:
            die()
        return found

    def _open(self, path, mode="r", *args, **kwargs):
        file = builtins.open(path, mode, *args, **kwargs)  # noqa: SIM115 — closed by whom it is handed to
        return file if mode == "rb" else _Watched(file, self)


class _Watched(FileProxy):
    def __init__(self, file, watch: Watch) -> None:
        super().__init__(file)
        self._watch = watch

    def write(self, data):
        if self._watch.now("disk"):
            self._file.write(data[: len(data) // 2] if self._watch.moment.half else data[:0])
            self._file.flush()
            die()
        return self._file.write(data)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Spoilt(Counting):
    """From position ``bad[0]`` up to ``bad[1]`` the targets are not what they are elsewhere."""

    def __init__(self, at, bad: tuple[int, int]) -> None:
        super().__init__(at)
        self.bad = bad

    def batch(self, position, num_rows, seq_len):
        found = super().batch(position, num_rows, seq_len)
        if self.bad[0] <= position < self.bad[1]:
            found.targets.copy_((found.targets * 7 + 5) % VOCAB)
        return found


def child(folder: Path, settings: dict, moment: Moment, changes: dict[int, dict], bad: tuple[int, int]) -> None:
    """Trains, and asks for each of ``changes`` once when the data have come to its position; counts go to a file."""
    torch.set_num_threads(1)
    watch = Watch(moment)

    def at(position: int) -> None:
        if watch.now("batch"):
            die()
        for start, change in changes.items():
            if position >= start and not asked(folder, change):
                journal.request_change(folder, change)

    watch.install()
    train(folder, source=Spoilt(at, bad), **settings)
    (folder / "counts.json").write_text(json.dumps(watch.counts))


def asked(folder: Path, change: dict) -> bool:
    """Whether ``change`` waits for its answer, or is in the journal."""
    requests = [json.loads(file.read_bytes()) for file in (folder / "requests").glob("[!.]*.json")]
    return change in requests or change in [entry.get("set") for entry in journal.Journal(folder, False).entries]


def run(
    folder: Path,
    settings: dict,
    moment: Moment = Moment(),
    changes: dict[int, dict] | None = None,
    bad: tuple[int, int] = (0, 0),
) -> bool:
    """Trains in a child; True when it was killed. Any other end than success is an error."""
    folder.mkdir(exist_ok=True)
    process = context.Process(target=child, args=(folder, settings, moment, changes or {}, bad))
    process.start()
    process.join(60)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode in (0, -signal.SIGKILL), f"{moment}: exit code {process.exitcode}"
    return process.exitcode != 0
