"""The training loop: one for pretraining and tuning, which differ in their batch source and nothing else.

A step is a pure function of the state before it: weights, optimizer, random state and the step's number. So a run
killed at any moment and started again ends with the same bits (on a CPU with the same number of threads).
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from congling.evaluate.bits import Measured, count_bytes, measure
from congling.model.transformer import Transformer
from congling.reporter import Bar, Metrics, Reporter
from congling.train.checkpoint import Checkpoint, Checkpoints, random_state, set_random_state
from congling.train.config import LoopConfig
from congling.train.data import Batch, BatchSource
from congling.train.optimizers import Optimizer
from congling.train.precision import autocast, choose_dtype
from congling.train.schedule import Schedule


class Interrupted(ValueError):
    """The training was asked to stop, saved a checkpoint, and goes on with the same command."""

    resumable = True


@dataclass
class Job:
    """All that a training needs. ``valid`` gives the held-out batches; ``sample`` a text for a prompt."""

    model: Transformer
    source: BatchSource
    config: LoopConfig
    checkpoints: Checkpoints
    reporter: Reporter
    metrics: Metrics
    token_bytes: NDArray[np.int32]  # [V] raw bytes of each id
    valid: Callable[[], Iterable[Batch]]
    sample: Callable[[str], str]
    label: str
    seed: int


@dataclass
class _Interval:
    """What has been summed since the last row of metrics."""

    nats: float = 0.0
    tokens: int = 0  # learned targets
    bytes: int = 0
    seen: int = 0  # tokens of the batches
    started: float = field(default_factory=time.perf_counter)
    paused: float = 0.0  # seconds of validation, samples and checkpoints

    def add(self, nats: float, tokens: int, num_bytes: int) -> None:
        self.nats, self.tokens, self.bytes = self.nats + nats, self.tokens + tokens, self.bytes + num_bytes

    @property
    def measured(self) -> Measured:
        return Measured(self.nats, self.tokens, self.bytes)

    def rate(self) -> float:
        return self.seen / max(time.perf_counter() - self.started - self.paused, 1e-9)


class Trainer:
    """Runs a job from its newest checkpoint to the end."""

    def __init__(self, job: Job) -> None:
        self.job, self.config = job, job.config
        self.schedule = Schedule(job.config)
        self.device = job.model.embedding.device
        self.dtype = choose_dtype(job.config.precision, self.device.type)
        self.optimizer = Optimizer(job.model, job.config, self.dtype)
        self._sizes = torch.from_numpy(job.token_bytes.astype(np.int64))
        self._bad_steps = self._skipped = 0  # in a row; in all
        self._stop = False
        self._norm = 0.0  # of the last gradient that was used
        self._held_out: Measured | None = None  # at the end
        self._paused = 0.0  # seconds of validation, samples and checkpoints since the start
        self._saved = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Trains; returns steps, tokens, held-out loss and bits per byte, and the mean rate in tokens a second."""
        first, last = self._resume(), self.schedule.num_steps
        self.job.model.train()
        tokens = self.config.batch_tokens
        interval, started = _Interval(), time.perf_counter()
        with (
            _stop_on_signal(self._ask_to_stop),
            self.job.reporter.progress(self.job.label, last * tokens, "tokens", first * tokens) as bar,
        ):
            for step in range(first, last):
                self._step(step, interval)
                interval = self._after(step, interval, bar)
                if self._stop and step + 1 < last:
                    self._save(step)
                    raise Interrupted(
                        f"{self.job.label}: stopped after step {step + 1}, saved; the same command goes on"
                    )
        seconds = time.perf_counter() - started - self._paused
        return self._summary((last - first) * tokens / seconds if last > first else None)

    def _summary(self, rate: float | None) -> dict[str, Any]:
        held_out = self._held_out or self._measure()  # measured already, unless nothing was left to do
        return {
            "steps": self.schedule.num_steps,
            "tokens": self.schedule.num_steps * self.config.batch_tokens,
            "parameters": sum(p.numel() for p in self.job.model.parameters()),
            "loss": held_out.loss,
            "bits_per_byte": held_out.bits_per_byte,
            "tokens_per_second": rate,
            "skipped_steps": self._skipped,
            "precision": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }

    # -- one step ----------------------------------------------------------------------------------------------------

    def _step(self, step: int, interval: _Interval) -> None:
        """Forward, backward, update: gradients of the mean loss over the learned targets of the batch."""
        nats, learned, num_bytes = self._accumulate(step)
        if learned == 0:
            raise ValueError(f"{self.job.label}: step {step + 1} has no target to learn; are all labels masked?")
        norm = self._scale_and_clip(learned)
        if math.isfinite(norm) and math.isfinite(nats):
            self._norm = norm
            self.optimizer.step(step, self.schedule.lr(step))
            self._bad_steps = 0
            interval.add(nats, learned, num_bytes)
        else:
            self._skip(step, nats / learned, norm)
        interval.seen += self.config.batch_tokens

    def _accumulate(self, step: int) -> tuple[float, int, int]:
        """Adds the gradients of the step's micro-batches; returns the sums of nats, learned targets, and bytes."""
        seq_len, micro = self.schedule.seq_len(step), self.config.micro_batch_tokens
        losses, learned, num_bytes = [], 0, 0
        for start in range(0, self.config.batch_tokens, micro):
            batch = self.job.source.batch(step * self.config.batch_tokens + start, micro // seq_len, seq_len)
            with autocast(self.device.type, self.dtype):
                loss, count = self.job.model.loss(*self._to_device(batch))
            loss.backward()
            losses.append(loss.detach())
            learned += count
            num_bytes += count_bytes(batch, self._sizes)
        return float(torch.stack(losses).sum()), learned, num_bytes

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        documents = None if batch.documents is None else batch.documents.to(self.device)
        return batch.ids.to(self.device), batch.targets.to(self.device), documents

    def _scale_and_clip(self, learned: int) -> float:
        """Divides summed gradients by the number of targets and limits their norm; returns the norm before."""
        gradients = [p.grad for p in self.job.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) / learned
        clip = self.config.grad_clip
        factor = clip / norm if clip and norm > clip else 1.0
        torch._foreach_mul_(gradients, factor / learned)
        return norm

    def _skip(self, step: int, loss: float, norm: float) -> None:
        """A gradient that is no number never reaches the weights: the step is left out, and said so."""
        for parameter in self.job.model.parameters():
            parameter.grad = None
        self._bad_steps, self._skipped = self._bad_steps + 1, self._skipped + 1
        text = f"step {step + 1} skipped: loss {loss}, gradient norm {norm}"
        self.job.reporter.warn(text)
        self.job.metrics.write("note", step=step + 1, text=text)
        if self._bad_steps >= self.config.max_bad_steps:
            raise ValueError(
                f"{self.job.label}: {self._bad_steps} steps in a row without a finite gradient; lower "
                "lr, or set precision=fp32; the last checkpoint is intact"
            )

    # -- between steps -----------------------------------------------------------------------------------------------

    def _after(self, step: int, interval: _Interval, bar: Bar) -> _Interval:
        """Rows of metrics, validation, samples, checkpoint: none of it changes the training."""
        c, done = self.config, step + 1
        last = done == self.schedule.num_steps
        milestone = last or self.schedule.ends_phase(step)
        bar.advance(c.batch_tokens)
        if done % c.log_every == 0 or milestone:
            self._log(step, interval, bar)
            interval = _Interval()
        paused = time.perf_counter()
        if done % c.valid_every == 0 or last:
            self._validate(done)
        if done % c.sample_every == 0 or last:
            self._sample(done)
        overdue = time.monotonic() - self._saved > c.checkpoint_seconds
        if done % c.checkpoint_every == 0 or milestone or overdue:
            self._save(step)  # after all rows of this step: a resumed run keeps them
        paused = time.perf_counter() - paused
        interval.paused, self._paused = interval.paused + paused, self._paused + paused
        return interval

    def _log(self, step: int, interval: _Interval, bar: Bar) -> None:
        found, lr, seq_len = interval.measured, self.schedule.lr(step), self.schedule.seq_len(step)
        if not found.tokens:
            return  # every step since the last row was skipped
        self.job.metrics.write(
            "train",
            step=step + 1,
            tokens=(step + 1) * self.config.batch_tokens,
            loss=found.loss,
            bits_per_byte=found.bits_per_byte,
            lr=lr,
            seq_len=seq_len,
            grad_norm=self._norm,
            tokens_per_second=interval.rate(),
            optimizer="muon" if self.optimizer.muon_names(step) else "adamw",
        )
        bar.advance(
            0, note=f"loss {found.loss:.3f}  {found.bits_per_byte:.3f} bits/byte  lr {lr:.1e}  length {seq_len}"
        )

    def _validate(self, done: int) -> None:
        self._held_out = found = self._measure()
        self.job.metrics.write(
            "valid",
            step=done,
            tokens=done * self.config.batch_tokens,
            loss=found.loss,
            bits_per_byte=found.bits_per_byte,
        )

    def _measure(self) -> Measured:
        return measure(self.job.model, self.job.valid(), self.job.token_bytes, self.dtype)

    def _sample(self, done: int) -> None:
        self.job.model.eval()
        for prompt in self.config.sample_prompts:
            text = self.job.sample(prompt)
            self.job.metrics.write(
                "sample", step=done, tokens=done * self.config.batch_tokens, prompt=prompt, text=text
            )
        self.job.model.train()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        state = {
            "tokens": (step + 1) * self.config.batch_tokens,
            "threads": torch.get_num_threads(),
            "skipped_steps": self._skipped,
            "ends_phase": self.schedule.ends_phase(step),
        }
        weights = {n: p.detach().cpu() for n, p in self.job.model.named_parameters()}
        optimizer = {**self.optimizer.state(), "random": random_state()}
        self.job.checkpoints.save(Checkpoint(step + 1, weights, optimizer, state))
        self._saved = time.monotonic()

    def _resume(self) -> int:
        """Loads the newest checkpoint, if any; returns the number of steps done."""
        found = self.job.checkpoints.latest()
        self.job.metrics.rewind(found.step if found else 0)
        torch.manual_seed(self.job.seed)
        if found is None:
            return 0
        self.job.model.load_state_dict(found.weights)
        set_random_state(found.optimizer.pop("random"))
        self.optimizer.load_state(found.optimizer)
        self._skipped = found.state["skipped_steps"]
        self.job.reporter.line(f"{self.job.label}: goes on from step {found.step}")
        if found.state["threads"] != torch.get_num_threads():
            self.job.reporter.warn(
                f"{found.state['threads']} threads before, {torch.get_num_threads()} now: the last bits may differ"
            )
        return found.step

    def _ask_to_stop(self) -> None:
        self._stop = True


@contextmanager
def _stop_on_signal(ask: Callable[[], None]) -> Iterator[None]:
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
