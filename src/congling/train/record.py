"""What a training says of itself: rows of metrics.jsonl, lines of the log, the bar. None of it changes the training."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from congling.evaluate.bits import Measured
from congling.model.config import Architecture
from congling.reporter import Bar, Metrics, Reporter
from congling.train.cost import flops_per_token, mfu
from congling.train.devices import device_peak
from congling.train.schedule import Change, StepPlan

_MEASURE_AFTER = 10.0  # seconds of training: measuring an unknown device takes one, which tiny trainings should not pay


class Recorder:
    """Writes for the main rank; on others (``main`` False) it keeps silent."""

    def __init__(self, reporter: Reporter, metrics: Metrics, label: str, log_every: int, main: bool) -> None:
        self._reporter, self._metrics, self._label, self._every, self._main = reporter, metrics, label, log_every, main
        self._begun = time.perf_counter()
        self._paused = 0.0  # seconds of validation, samples and checkpoints
        self._seen = 0  # tokens since the start of this process
        self._warned: set[str] = set()
        self._reset()

    def _reset(self) -> None:
        self._nats, self._learned, self._bytes, self._tokens, self._pause = 0.0, 0, 0, 0, 0.0
        self._since = time.perf_counter()

    @contextmanager
    def progress(self, done: int, total: int) -> Iterator[Bar]:
        """The bar, in tokens; the clock of the rates starts here."""
        reporter = self._reporter if self._main else Reporter(quiet=True)
        with reporter.progress(self._label, total, "tokens", done) as bar:
            self._begun = self._since = time.perf_counter()
            yield bar

    def step(self, nats: float, learned: int, num_bytes: int, tokens: int) -> None:
        """Adds an accepted step: summed loss, learned targets and their raw bytes, tokens of the batch."""
        self._nats, self._learned, self._bytes = self._nats + nats, self._learned + learned, self._bytes + num_bytes
        self._tokens, self._seen = self._tokens + tokens, self._seen + tokens

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside does not count in the rates."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._pause, self._paused = self._pause + seconds, self._paused + seconds

    def rate(self) -> float | None:
        """Tokens a second since the start; None when there was no step."""
        seconds = time.perf_counter() - self._begun - self._paused
        return self._seen / max(seconds, 1e-9) if self._seen else None

    def interval_rate(self) -> float:
        """Tokens a second since the last row."""
        return self._tokens / max(time.perf_counter() - self._since - self._pause, 1e-9)

    def due(self, step: int) -> bool:
        """Whether a row is wanted after ``step`` steps."""
        return step % self._every == 0

    # -- rows ----------------------------------------------------------------------------------------------------------

    def train_row(self, step: int, tokens: int, left: int, plan: StepPlan, bar: Bar, **values: Any) -> None:
        """The steps since the last row, summed; ``left``: tokens to go; values: more columns."""
        found = Measured(self._nats, self._learned, self._bytes)
        rate = self.interval_rate()
        self._reset()
        if not found.tokens:
            return  # every step since the last row was left out
        self._write(
            "train",
            step=step,
            tokens=tokens,
            loss=found.loss,
            bits_per_byte=found.bits_per_byte,
            lr=plan.lr,
            seq_len=plan.seq_len,
            batch_tokens=plan.batch_tokens,
            tokens_per_second=rate,
            seconds_left=left / rate,
            **{key: value for key, value in values.items() if value is not None},
        )
        bar.advance(
            0,
            note=f"loss {found.loss:.3f}  {found.bits_per_byte:.3f} bits/byte  lr {plan.lr:.1e}  length {plan.seq_len}",
        )

    def valid_row(self, step: int, tokens: int, found: Measured) -> None:
        self._write("valid", step=step, tokens=tokens, loss=found.loss, bits_per_byte=found.bits_per_byte)

    def sample_row(self, step: int, tokens: int, prompt: str, text: str) -> None:
        self._write("sample", step=step, tokens=tokens, prompt=prompt, text=text)

    def note(self, step: int, text: str, **values: Any) -> None:
        """Something out of the ordinary: a warning in the log and a row."""
        self.warn(text)
        self._write("note", step=step, text=text, **values)

    def change(self, change: Change, step: int) -> None:
        """A live change that takes effect in the step that ends as ``step``."""
        values = {k: v for k, v in vars(change).items() if k != "step" and v}
        text = f"from step {step} on: " + ", ".join(f"{key} = {value}" for key, value in values.items())
        self.line(f"{self._label}: {text}, as asked")
        self._write("note", step=step, text=text, event="change")

    def _write(self, kind: str, **values: Any) -> None:
        if not self._main:
            return
        try:
            self._metrics.write(kind, **values)
        except OSError as error:  # a full disk: the training is worth more than a row
            self.warn_once(f"metrics are not written: {error}")

    def warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self.warn(text)

    def warn(self, text: str) -> None:
        if self._main:
            self._reporter.warn(text)

    def line(self, text: str) -> None:
        if self._main:
            self._reporter.line(text)


class Utilisation:
    """Model FLOPs utilisation of a training (``train/cost.py``)."""

    def __init__(self, architecture: Architecture, device: torch.device, dtype: torch.dtype, ranks: int) -> None:
        self._architecture, self._device, self._dtype, self._ranks = architecture, device, dtype, ranks
        self._peak: float | None = None  # FLOP/s of all ranks
        self._begun = time.perf_counter()

    def at(self, tokens_per_second: float, seq_len: int) -> float | None:
        """A share; None in the first seconds, before the device is measured."""
        if self._peak is None:
            if time.perf_counter() - self._begun < _MEASURE_AFTER:
                return None
            self._peak = self._ranks * device_peak(self._device, self._dtype)
        return mfu(tokens_per_second, flops_per_token(self._architecture, seq_len), self._peak)


def memory_bytes(device: torch.device) -> int:
    """The most that this process has used so far: on a GPU as torch's allocator says, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
