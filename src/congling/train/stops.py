"""How a training stops before its end: a signal, or no memory."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from congling.train.schedule import StepPlan


class Interrupted(ValueError):
    """The training was asked to stop, saved a checkpoint, and goes on with the same command."""

    resumable = True


class OutOfMemory(ValueError):
    """A step did not fit into memory; the message says what to lower."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that there was no memory: of CUDA, of torch's allocator on the CPU, or of Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "can't allocate memory" in text)


def smaller_micro_batch(batch_tokens: int, micro_batch_tokens: int, seq_len: int, ranks: int) -> int | None:
    """The largest micro-batch of at most half the present one that still divides the batch; None: it is one row."""
    rows = batch_tokens // (seq_len * ranks)
    fitting = [n for n in range(1, micro_batch_tokens // (2 * seq_len) + 1) if rows % n == 0]
    return fitting[-1] * seq_len if fitting else None


def out_of_memory(label: str, step: int, plan: StepPlan, ranks: int, saved: bool) -> OutOfMemory:
    """What to say when ``step`` (1 is the first) did not fit; ``saved``: the one before it is on disk."""
    micro = smaller_micro_batch(plan.batch_tokens, plan.micro_batch_tokens, plan.seq_len, ranks)
    state = f"saved after step {step - 1}" if saved else "the last checkpoint is intact"
    if micro is None:
        lower = "a micro-batch is one row already: set shorter lengths, or a smaller model"
    else:
        lower = (
            f"lower micro_batch_tokens from {plan.micro_batch_tokens} to {micro}: begin again with it, or ask "
            f"`congling control RUN micro_batch_tokens={micro}`, and the same command goes on"
        )
    return OutOfMemory(f"{label}: out of memory in step {step} at length {plan.seq_len}, {state}; {lower}")


@contextmanager
def stop_on_signal(ask: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C ask to stop at the next step; a second Ctrl-C stops at once."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return

    def handle(number: int, frame: object) -> None:
        ask()
        if number == signal.SIGINT:
            signal.signal(number, old[signal.SIGINT])

    old = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
