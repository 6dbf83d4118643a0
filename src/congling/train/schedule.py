"""What happens at which step: length, batch and learning rate, as pure functions of configuration and live changes.

Progress is counted in tokens trained on, so that neither a change of the batch nor a skipped step moves anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from congling.train.config import LoopConfig

_WAVE_LOW = 0.1  # of the rate, at the bottom of the seed's wave (SEED §4)


@dataclass(frozen=True)
class Change:
    """A live change before ``step``; what is None stays as it was, and so does what an earlier change set."""

    step: int
    seq_len: int | None = None
    batch_tokens: int | None = None
    micro_batch_tokens: int | None = None
    lr: float | None = None  # the new peak: the schedule goes on from it
    transition_steps: int = 0  # S-curve from the old peak to it


@dataclass(frozen=True)
class StepPlan:
    """One step."""

    seq_len: int  # tokens
    batch_tokens: int
    micro_batch_tokens: int
    lr: float
    phase: int  # of the configuration's lengths
    ends_phase: bool  # the next step has another length, or there is none
    last: bool


class Schedule:
    """Steps of ``batch_tokens`` tokens, whatever the length, until the next one would go beyond ``config.tokens``."""

    def __init__(self, config: LoopConfig, changes: Sequence[Change] = ()) -> None:
        self.config, self.changes = config, sorted(changes, key=lambda change: change.step)
        self._phases = phases(config)
        self._batches = [phase.batch_tokens for phase in self._phases]
        self._warmup = config.warmup_steps * self._batches[0]  # tokens
        last = self._batches[-1]
        self._last_start = max(config.tokens // last - 1, 0) * last  # where the last step begins, without live changes

    def at(self, step: int, tokens: int) -> StepPlan:
        """The plan of ``step`` (0 is the first) when ``tokens`` have been trained on before it."""
        now = self._sizes(step, tokens)
        after = self._sizes(step + 1, tokens + now.batch_tokens)
        last = self.finished(step + 1, tokens + now.batch_tokens)
        ends = last or (after.phase, after.seq_len) != (now.phase, now.seq_len)
        lr = self.lr(step, tokens)
        return StepPlan(now.seq_len, now.batch_tokens, now.micro_batch_tokens, lr, now.phase, ends, last)

    def finished(self, step: int, tokens: int) -> bool:
        """Whether nothing is left to do; one step is done in any case."""
        return tokens > 0 and tokens + self._sizes(step, tokens).batch_tokens > self.config.tokens

    def sizes_ahead(self, step: int, tokens: int) -> list["Sizes"]:
        """Those of ``step``, and of the later phases as far as the changes up to ``step`` leave them."""
        return [self._phase_sizes(phase, step) for phase in range(phase_of(self._phases, tokens), len(self._batches))]

    def _sizes(self, step: int, tokens: int) -> "Sizes":
        return self._phase_sizes(phase_of(self._phases, tokens), step)

    def _phase_sizes(self, phase: int, step: int) -> "Sizes":
        found = Sizes(self.config.lengths[phase], self._batches[phase], self.config.micro_batch_tokens, phase)
        for change in self.changes:
            if change.step <= step:
                found = Sizes(
                    change.seq_len or found.seq_len,
                    change.batch_tokens or found.batch_tokens,
                    change.micro_batch_tokens or found.micro_batch_tokens,
                    phase,
                )
        return found

    # -- learning rate -------------------------------------------------------------------------------------------------

    def lr(self, step: int, tokens: int) -> float:
        """peak·S(u) in the warm-up, u = (tokens + batch)/warm-up, with the seed's quadratic S-curve (SEED §4)
        S(u) = 2u² below ½, else 1 − 2(1 − u)². Then, with x = 0 … 1 the way to the last step, lr_final + (peak −
        lr_final)·f: ``cosine`` f = (1 + cos πx)/2; ``wsd`` f = 1, and over the last cooldown_share a line (Hu et al.
        2024) or 1 − √ (Hägele et al. 2024) to 0; ``seed``: peak follows a cosine wave between all and a tenth of it if
        wave_steps asks, the cooldown follows S; ``constant``: peak.
        """
        c, peak = self.config, self._peak(step)
        if tokens < self._warmup:
            return peak * s_curve(min(1.0, (tokens + self._sizes(step, tokens).batch_tokens) / self._warmup))
        if c.schedule == "constant":
            return peak
        done = min(1.0, (tokens - self._warmup) / max(self._last_start - self._warmup, 1))
        if c.schedule == "cosine":
            return c.lr_final + (peak - c.lr_final) * 0.5 * (1 + math.cos(math.pi * done))
        left = min(1.0, (1 - done) / c.cooldown_share)  # 1 … 0 within the cooldown
        if c.schedule == "wsd":
            return c.lr_final + (peak - c.lr_final) * (
                left if c.cooldown_shape == "linear" else 1 - math.sqrt(1 - left)
            )
        return c.lr_final + (peak * self._wave(tokens) - c.lr_final) * s_curve(left)

    def _wave(self, tokens: int) -> float:
        """1 at the end of the warm-up and every wave_steps; it stands still in the cooldown."""
        if not self.config.wave_steps:
            return 1.0
        cooldown = self._warmup + (1 - self.config.cooldown_share) * (self._last_start - self._warmup)
        period = self.config.wave_steps * self._batches[0]  # tokens
        turn = 2 * math.pi * (min(tokens, cooldown) - self._warmup) / period
        return _WAVE_LOW + (1 - _WAVE_LOW) * 0.5 * (1 + math.cos(turn))

    def _peak(self, step: int) -> float:
        """config.lr and its live changes; a change that begins while another is under way starts from where that is."""
        peak = self.config.lr
        asked = [change for change in self.changes if change.lr is not None and change.step <= step]
        for n, change in enumerate(asked):
            until = asked[n + 1].step if n + 1 < len(asked) else step + 1
            assert change.lr is not None
            done = min(1.0, (until - change.step) / max(change.transition_steps, 1))
            peak += (change.lr - peak) * s_curve(done)
        return peak


class Phase(NamedTuple):
    """The share of the tokens in which a length of the configuration is trained."""

    end: float  # tokens
    batch_tokens: int


def phases(config: LoopConfig) -> list[Phase]:
    """One a length, in their order."""
    shares = config.length_shares or (1.0,) * len(config.lengths)
    batches = config.batch_schedule or (config.batch_tokens,) * len(config.lengths)
    ends = (config.tokens * end / sum(shares) for end in accumulate(shares))
    return [Phase(end, batch) for end, batch in zip(ends, batches, strict=True)]


def phase_of(phases: Sequence[Phase], tokens: int) -> int:
    """The number of the phase in which the middle of a step lies that begins at ``tokens``."""
    inside = (n for n, phase in enumerate(phases) if tokens + phase.batch_tokens / 2 < phase.end)
    return next(inside, len(phases) - 1)


@dataclass(frozen=True)
class Sizes:
    """Length and batches of a step, in tokens."""

    seq_len: int
    batch_tokens: int
    micro_batch_tokens: int
    phase: int

    def check(self, ranks: int) -> None:
        """Raises ValueError when the batch is no whole number of micro-batches for each rank, or those no rows."""
        micro, batch = self.micro_batch_tokens, self.batch_tokens
        if micro % self.seq_len:
            nearest = max(round(micro / self.seq_len), 1) * self.seq_len
            raise ValueError(f"micro_batch_tokens {micro} is no multiple of length {self.seq_len}; {nearest} is")
        if batch % (micro * ranks):
            nearest = max(round(batch / (micro * ranks)), 1) * micro * ranks
            raise ValueError(
                f"batch_tokens {batch} is no multiple of micro_batch_tokens {micro} × {ranks} "
                f"rank{'s' * (ranks > 1)}; {nearest} is"
            )


def s_curve(u: float) -> float:
    """Two parabolas from (0, 0) to (1, 1)."""
    return 2 * u * u if u < 0.5 else 1 - 2 * (1 - u) ** 2
