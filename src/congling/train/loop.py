"""The training loop: one for pretraining and tuning, which differ in their batch source and nothing else.

A step is a pure function of the state before it: weights, optimizer, guard, and three counters; live changes are in the
journal. So a run killed at any moment and started again ends with the same bits (on a CPU with the same threads).
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from congling.evaluate.bits import Measured, measure
from congling.model.transformer import Transformer
from congling.reporter import Bar, Metrics, Reporter
from congling.train.checkpoint import Checkpoint, Checkpoints
from congling.train.compile import compile_layers, eager
from congling.train.config import LoopConfig
from congling.train.control import Control
from congling.train.data import Batch, BatchSource, Request, align
from congling.train.distributed import World
from congling.train.gradients import Gradients
from congling.train.guard import Guard
from congling.train.journal import Journal
from congling.train.optimizers import Optimizer
from congling.train.precision import choose_dtype
from congling.train.record import Recorder, Utilisation, memory_bytes
from congling.train.saver import Saver
from congling.train.schedule import StepPlan
from congling.train.stops import Interrupted, OutOfMemory, is_out_of_memory, out_of_memory, stop_on_signal


@dataclass
class Job:
    """All that a training needs. ``valid`` gives the held-out batches; ``sample`` a text for a prompt."""

    model: Transformer
    source: BatchSource
    config: LoopConfig
    checkpoints: Checkpoints
    reporter: Reporter
    metrics: Metrics  # the journal and the requests of people lie beside it
    token_bytes: NDArray[np.int32]  # [V] raw bytes of each id
    valid: Callable[[], Iterable[Batch]]
    sample: Callable[[str], str]
    label: str
    seed: int
    world: World | None = None  # None: this process alone


@dataclass
class Progress:
    """Where a training stands, between two steps."""

    step: int = 0  # steps done, those that the guard left out included
    tokens: int = 0  # trained on: the clock of the schedule
    position: int = 0  # place in the data order: tokens, and what was left out, rewound or passed over
    skipped_steps: int = 0


@dataclass
class _Totals:
    """Sums over the batch of a step, of all ranks."""

    nats: float
    learned: int  # targets
    bytes: int

    @property
    def loss(self) -> float:
        return self.nats / max(self.learned, 1)


class Trainer:
    """Runs a job from its newest checkpoint to the end."""

    def __init__(self, job: Job) -> None:
        self.job, self.config = job, job.config
        self.world = job.world or World(device=job.model.embedding.device)
        self.device, self.main = self.world.device, self.world.is_main
        self.dtype = choose_dtype(job.config.precision, self.device.type)
        compile_layers(job.model, job.config.compile, self.device.type)
        self.loss = self.world.wrap(job.model, job.config.strategy, self.dtype)
        self.optimizer = Optimizer(job.model, job.config, self.dtype, self.world)
        self.guard = Guard(job.config)
        self.gradients = Gradients(self.loss, job.source, job.config, self.world, self.dtype, job.token_bytes, job.seed)
        self.saver = Saver(job.checkpoints, job.reporter) if self.main else None
        journal = Journal(job.metrics.path.parent, writable=self.main)
        self.control = Control(journal, job.config, job.source, self.world.size)
        self.record = Recorder(job.reporter, job.metrics, job.label, job.config.log_every, self.main)
        self.utilisation = Utilisation(job.model.architecture, self.device, self.dtype, self.world.size)
        self.at = Progress()
        self._stop = self._overdue = False  # alike on all ranks, from the end of a step on
        self._asked_to_stop = self._changed = False  # this rank's, told to the others in the next step
        self._updating = False  # weights are between two steps
        self._norm, self._norms, self._updates = 0.0, dict[str, float](), dict[str, float]()  # of the last update
        self._held_out: Measured | None = None  # at the end
        self._saved = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Trains; returns steps, tokens, held-out loss and bits per byte, and the mean rate in tokens a second."""
        try:
            self._resume()
            self._take_requests()
            self._agree([0.0] * 3)
            self.control.check_all(self.at.step, self.at.tokens)
            self.job.model.train()
            with (
                stop_on_signal(self._ask_to_stop),
                self.record.progress(self.at.tokens, self.config.tokens) as bar,
            ):
                while not self.control.schedule.finished(self.at.step, self.at.tokens):
                    self._guarded_step(bar)
        finally:
            self.gradients.close()
            if self.saver is not None:
                self.saver.close()
        return self._summary()

    def _guarded_step(self, bar: Bar) -> None:
        """A step, what comes after it, and the ways out: a signal, no memory."""
        plan = self.control.schedule.at(self.at.step, self.at.tokens)
        if not self._enough_memory_for(plan, bar):
            raise self._out_of_memory(plan)  # outside of the handler, whose traceback holds the tensors
        if self._stop and not self.control.schedule.finished(self.at.step, self.at.tokens):
            raise self._interrupted()

    def _enough_memory_for(self, plan: StepPlan, bar: Bar) -> bool:
        try:
            accepted = self._step(plan, bar)
            self._after(plan, accepted, bar)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    # -- one step ----------------------------------------------------------------------------------------------------

    def _step(self, plan: StepPlan, bar: Bar) -> bool:
        """Forward, backward, and the update unless the guard objects; returns whether there was one."""
        self._announce_changes()
        self.at.position = align(self.at.position, plan.seq_len)
        sums = self.gradients.add(self.gradients.requests(plan, self.at.position), self._next_requests(plan))
        self._take_requests(plan)
        totals = _Totals(*self._agree(sums))
        if totals.learned == 0:
            raise ValueError(
                f"{self.job.label}: step {self.at.step + 1} has no target to learn; are all labels masked?"
            )
        norms = {group: norm / totals.learned for group, norm in self.optimizer.grad_norms().items()}
        norm = math.hypot(*norms.values())
        verdict = self.guard.judge(totals.loss, norm, kind=f"{plan.batch_tokens} of {plan.seq_len}")
        if verdict == "ok":
            self._update(plan, totals.learned, norm)
            self._norm, self._norms = norm, norms
            self.at.tokens += plan.batch_tokens
            self.record.step(totals.nats, totals.learned, totals.bytes, plan.batch_tokens)
        self.at.step += 1
        self.at.position += plan.batch_tokens
        if verdict != "ok":
            self._leave_out(totals.loss, norm)
        if verdict == "rewind":
            self._rewind(bar)
        return verdict == "ok"

    def _next_requests(self, plan: StepPlan) -> list[Request]:
        """Those of the step after this one, if nothing comes between."""
        if plan.last:
            return []
        after = self.control.schedule.at(self.at.step + 1, self.at.tokens + plan.batch_tokens)
        return self.gradients.requests(after, align(self.at.position + plan.batch_tokens, after.seq_len))

    def _agree(self, sums: list[float]) -> tuple[float, int, int]:
        """Sums over the ranks, which also learn alike of a signal, a changed journal, a checkpoint due by time."""
        overdue = self.main and time.monotonic() - self._saved > self.config.checkpoint_seconds
        flags = [self._asked_to_stop, self._changed, overdue]
        nats, learned, num_bytes, *agreed = self.world.sum([*sums, *map(float, flags)])
        self._stop, changed, self._overdue = (flag > 0 for flag in agreed)
        if changed and not self.main:
            self.control.reload()
        self._changed = False
        return nats, int(learned), int(num_bytes)

    def _update(self, plan: StepPlan, learned: int, norm: float) -> None:
        """Makes the summed gradients means, limits their norm, and applies them."""
        clip = self.config.grad_clip
        factor = clip / norm if clip and norm > clip else 1.0
        self.optimizer.scale_gradients(factor / learned)
        self._updating = True
        shown = self.record.due(self.at.step + 1) or plan.ends_phase
        before = self.optimizer.weight_norms() if shown else {}
        updates = self.optimizer.step(self.at.step, plan.lr, measure=shown)
        self._updates = {group: norm / max(before[group], 1e-12) for group, norm in updates.items()}
        self._updating = False

    # -- what the guard decides --------------------------------------------------------------------------------------

    def _leave_out(self, loss: float, norm: float) -> None:
        """The step's gradient never reaches the weights, and that is said."""
        self.optimizer.clear()
        self.at.skipped_steps += 1
        reason = self.guard.reason
        self.record.note(
            self.at.step, f"step {self.at.step} skipped: {reason}", event="skip", loss=loss, grad_norm=norm
        )
        self._journal("skip", loss=loss, grad_norm=norm, reason=reason)
        if self.guard.bad_steps >= self.config.max_bad_steps:
            raise ValueError(
                f"{self.job.label}: {self.guard.bad_steps} steps in a row without a finite gradient; lower "
                "lr, or set precision=fp32; the last checkpoint is intact"
            )

    def _rewind(self, bar: Bar) -> None:
        """Weights, optimizer and clock of the last good checkpoint; the data since it are passed over."""
        good, step = self.guard.good, self.at.step
        assert good is not None
        if self.saver is not None:
            self.saver.wait()
        self.world.barrier()
        if good not in self.job.checkpoints.steps():
            self.record.note(step, f"step {step}: no rewind, the checkpoint of step {good} was not saved", event="lost")
            self.guard.lost()
            return
        if self.guard.rewinds >= self.config.max_rewinds:
            raise ValueError(
                f"{self.job.label}: the loss is high again after {self.guard.rewinds} rewinds to step {good}: lower lr"
            )
        found = self.job.checkpoints.load(good)
        self._load(found)
        passed = self.at.position - found.state["position"]
        bar.advance(found.state["tokens"] - self.at.tokens)
        self.at.tokens = found.state["tokens"]
        self.guard.rewound()
        text = f"step {step}: rewound to step {good}, {passed:,} tokens passed over: {self.guard.reason}"
        self.record.note(step, text, event="rewind", to=good)
        self._journal("rewind", to=good, skip=passed, reason=self.guard.reason)

    def _journal(self, kind: str, **values: Any) -> None:
        try:
            self.control.journal.record(kind, self.at.step, **values)
        except OSError as error:
            self.record.warn(f"journal: {error}")

    # -- between steps -----------------------------------------------------------------------------------------------

    def _take_requests(self, plan: StepPlan | None = None) -> None:
        """What people ask takes effect before the next step, which follows one of ``plan``."""
        if not self.main:
            return
        ahead = 0 if plan is None else plan.batch_tokens
        step = self.at.step + (plan is not None)
        taken = self.control.take(step, self.at.tokens + ahead, self.at.position + ahead, self._refuse)
        self._changed = self._changed or taken

    def _refuse(self, text: str) -> None:
        self.record.note(self.at.step, f"{self.job.label}: {text}", event="refused")

    def _announce_changes(self) -> None:
        for change in self.control.schedule.changes:
            if change.step == self.at.step:
                self.record.change(change, self.at.step + 1)

    def _after(self, plan: StepPlan, accepted: bool, bar: Bar) -> None:
        """Rows of metrics, validation, samples, checkpoint: none of it changes the training."""
        c, done = self.config, self.at.step
        ends = last = False
        if accepted:
            bar.advance(plan.batch_tokens)
            # Again: a change that was asked for meanwhile may end the phase here.
            plan = self.control.schedule.at(done - 1, self.at.tokens - plan.batch_tokens)
            ends, last = plan.ends_phase, plan.last
        milestone = done % c.checkpoint_every == 0 or ends
        if accepted:
            self.guard.passed(done, milestone)
        if self.record.due(done) or ends:
            self._log(plan, bar)
        with self.record.pause():
            if done % c.valid_every == 0 or last:
                self._validate()
            if done % c.sample_every == 0 or last:
                self._sample()
            if milestone or self._overdue:
                self._save(ends)  # after all rows of this step: a resumed run keeps them

    def _log(self, plan: StepPlan, bar: Bar) -> None:
        at, rate = self.at, self.record.interval_rate()
        self.record.train_row(
            at.step,
            at.tokens,
            max(self.config.tokens - at.tokens, 0),
            plan,
            bar,
            grad_norm=self._norm,
            grad_norms=self._norms,
            update_norms=self._updates or None,
            mfu=self.utilisation.at(rate, plan.seq_len),
            memory=memory_bytes(self.device),
            optimizer="muon" if self.optimizer.muon_names(at.step - 1) else "adamw",
        )

    def _validate(self) -> None:
        self._held_out = self._measure()
        self.record.valid_row(self.at.step, self.at.tokens, self._held_out)

    def _measure(self) -> Measured:
        with eager(), self.loss.whole():
            return measure(self.job.model, self.job.valid(), self.job.token_bytes, self.dtype)

    def _sample(self) -> None:
        self.job.model.eval()
        with eager(), self.loss.whole():
            for prompt in self.config.sample_prompts:
                self.record.sample_row(self.at.step, self.at.tokens, prompt, self.job.sample(prompt))
        self.job.model.train()

    def _summary(self) -> dict[str, Any]:
        held_out = self._held_out or self._measure()  # measured already, unless nothing was left to do
        return {
            "steps": self.at.step,
            "tokens": self.at.tokens,
            "parameters": sum(p.numel() for p in self.job.model.parameters()),
            "loss": held_out.loss,
            "bits_per_byte": held_out.bits_per_byte,
            "tokens_per_second": self.record.rate(),
            "skipped_steps": self.at.skipped_steps,
            "precision": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save(self, ends_phase: bool = False, wait: bool = False) -> bool:
        """Has a checkpoint written, in the background unless ``wait``; returns False when that failed."""
        weights, optimizer = self.world.full_state(self.job.model), self.optimizer.state()
        self._saved = time.monotonic()
        if weights is None or self.saver is None:
            return True  # the main rank writes
        state = {
            **asdict(self.at),
            "ends_phase": ends_phase,
            "guard": self.guard.state(),
            "threads": torch.get_num_threads(),
            "ranks": self.world.size,
        }
        del state["step"]
        needs = tuple(step for step in self.guard.needed if step < self.at.step)
        return self.saver.save(Checkpoint(self.at.step, weights, optimizer, state, needs), wait=wait)

    def _resume(self) -> None:
        """Goes to the newest checkpoint, if there is one."""
        found = self.job.checkpoints.latest()
        if self.main:
            self.job.metrics.rewind(found.step if found else 0)
        if found is None:
            return
        self._load(found)
        self.guard.load_state(found.state["guard"])
        self.at = Progress(found.step, *(found.state[key] for key in ("tokens", "position", "skipped_steps")))
        self.record.line(f"{self.job.label}: goes on from step {found.step}")
        now = {"threads": torch.get_num_threads(), "ranks": self.world.size}
        for name, number in now.items():
            if found.state[name] != number:
                self.record.warn(f"{found.state[name]} {name} before, {number} now: the last bits may differ")

    def _load(self, found: Checkpoint) -> None:
        self.world.load_full_state(self.job.model, found.weights)
        self.optimizer.load_state(found.optimizer)

    # -- ways out ----------------------------------------------------------------------------------------------------

    def _ask_to_stop(self) -> None:
        self._asked_to_stop = True

    def _interrupted(self) -> Interrupted:
        saved = "saved" if self._save(wait=True) else "not saved, the last checkpoint is intact"
        return Interrupted(f"{self.job.label}: stopped after step {self.at.step}, {saved}; the same command goes on")

    def _save_if_there_is_memory(self) -> bool:
        try:
            return self._save(wait=True)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False

    def _out_of_memory(self, plan: StepPlan) -> OutOfMemory:
        """Saves what the last finished step left, if this process can alone, and says what to lower."""
        self.optimizer.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        whole = self.world.size == 1 and not self._updating and self._save_if_there_is_memory()
        return out_of_memory(self.job.label, self.at.step + 1, plan, self.world.size, whole)
