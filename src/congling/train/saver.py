"""Checkpoints written beside the training: one at a time, in order; a full disk does not end the training."""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from congling.reporter import Reporter
from congling.train.checkpoint import Checkpoint, Checkpoints


class Saver:
    """Writes the checkpoints of one training, on a thread of its own. For the one process that writes them.

    Copies are made into memory that is kept from one checkpoint to the next: fresh pages cost more than the copying.
    Wait (``wait``) before reading checkpoints back. What the disk refuses (OSError) is a warning, and the earlier
    checkpoints stay; any other error of the thread is raised by the next call.
    """

    def __init__(self, checkpoints: Checkpoints, reporter: Reporter) -> None:
        self._checkpoints, self._reporter = checkpoints, reporter
        self._thread = ThreadPoolExecutor(1, "saver")  # not a daemon: a write under way is finished before the exit
        self._pending: Future[bool] | None = None
        self._copies: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})  # of weights, of the optimizer's state
        self.failed = 0  # writes that the disk refused
        self.blocked = 0.0  # seconds that calls have waited for the disk
        checkpoints.clear_torn()

    def save(self, checkpoint: Checkpoint, wait: bool = False) -> bool:
        """Copies the tensors of ``checkpoint``, which may change afterwards, and begins to write the copies.

        Waits first for the write before it, if that has not ended. With ``wait`` nothing is copied, and it returns when
        this one is written; then the answer says whether it is on disk; else it is True.
        """
        self.wait()
        if not wait:
            self._copies = (
                snapshot(checkpoint.weights, self._copies[0]),
                snapshot(checkpoint.optimizer, self._copies[1]),
            )
            checkpoint = replace(checkpoint, weights=self._copies[0], optimizer=self._copies[1])
        self._pending = self._thread.submit(self._write, checkpoint)
        return self.wait() if wait else True

    def wait(self) -> bool:
        """Returns when nothing is being written; False when the write that it waited for failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return True
        started = time.perf_counter()
        written = pending.result()
        self.blocked += time.perf_counter() - started
        return written

    def close(self) -> None:
        """Waits for the last write; the saver takes no more."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, checkpoint: Checkpoint) -> bool:
        try:
            self._checkpoints.save(checkpoint)
            return True
        except OSError as error:
            self.failed += 1
            self._reporter.warn(self._problem(checkpoint, error))
            return False

    def _problem(self, checkpoint: Checkpoint, error: OSError) -> str:
        path, steps = self._checkpoints.path(checkpoint.step), self._checkpoints.steps()
        newest = f"the newest one is of step {steps[-1]}" if steps else "there is none yet"
        return (
            f"checkpoint {path} not saved: {error.strerror or error} ({error.filename or path}); it takes "
            f"{checkpoint.size / 1e9:.2f} GB: free space there, or correct the permissions; "
            f"the training goes on, {newest}"
        )


def snapshot(tensors: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that later steps do not change, complete when it returns.

    into: an earlier snapshot, whose memory is used again where shapes and types are the same. From CUDA through pinned
    memory, all copies under way at once.
    """
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        old = into.get(name)
        if old is None or (old.shape, old.dtype) != (tensor.shape, tensor.dtype):
            old = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
        copies[name] = old.copy_(tensor.detach(), non_blocking=True)
    for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
        torch.cuda.synchronize(device)
    return copies
