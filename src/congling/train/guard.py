"""The spike guard: which steps must not reach the weights, and when to go back to before.

It sees the loss and the gradient norm of a step before the update. Its decisions are a pure function of what it has
seen, and its memory is in the checkpoint: a killed run decides alike.
"""

import math
from statistics import median
from typing import Any, Literal

from congling.train.config import LoopConfig

Verdict = Literal["ok", "skip", "rewind"]

_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
# A calm run has a tiny spread: a deviation is at least this share of the median. With guard_deviations = 8 a loss 8 %
# above the median is a spike, and a norm nine times the median: norms are heavy-tailed, clipped, and recover by
# themselves (three times the median skipped 1 % of the steps of a sound run for nothing: benchmarks/spikes.py).
_LEAST = {"loss": 0.01, "norm": 1.0}
# Nats above the median that are no spike: near zero a loss is heavy-tailed (0.001 with now and then 0.05).
_CALM = 0.1


class Guard:
    """Judges steps by the median and the median absolute deviation (MAD) of the last accepted ones.

    A loss or norm that is no number is skipped in any mode. A spike is a value more than guard_deviations times
    max(1.4826·MAD, a share of the median) above the median of ``guard_window`` accepted steps; before so many have been
    seen there is none (the warm-up). A tenth of a nat is never one, nor a norm that is not even clipped. After
    ``guard_patience`` spikes in a row it is no bad batch: ``rewind`` goes back, if there is a checkpoint to go to, and
    ``skip`` takes the new level as normal.
    """

    def __init__(self, config: LoopConfig) -> None:
        self._config = config
        self._losses: list[float] = []  # of accepted steps, newest last
        self._norms: list[float] = []
        self._kind = ""
        self._spikes = 0  # in a row, steps without a finite gradient included
        self.bad_steps = 0  # in a row without a finite gradient
        self._fresh: list[int] = []  # checkpoints since which the run has not been calm for long enough
        self.good: int | None = None  # step of the checkpoint to go back to
        self.rewinds = 0  # to ``good``
        self.reason = ""  # of the last verdict that was not "ok"

    def judge(self, loss: float, norm: float, kind: str = "") -> Verdict:
        """What to do with a step: "ok" (update), "skip" (leave it out) or "rewind" (go back to ``good``).

        kind: of batch, such as its length and size; what was normal for another says nothing about it.
        """
        if kind != self._kind:
            self._forget()
            self._kind = kind
        finite = math.isfinite(loss) and math.isfinite(norm)
        self.bad_steps = 0 if finite else self.bad_steps + 1
        self.reason = self._spike(loss, norm) if finite else f"loss {loss}, gradient norm {norm}"
        if not self.reason:
            self._accept(loss, norm)
            return "ok"
        self._spikes += 1
        if self._spikes >= self._config.guard_patience:
            if self._config.guard == "rewind" and self.good is not None:
                return "rewind"
            if finite:
                self._forget()
                self._accept(loss, norm)
                return "ok"
        return "skip"

    def _spike(self, loss: float, norm: float) -> str:
        """Why a step is one; "" when it is not."""
        if self._config.guard == "off" or len(self._losses) < self._config.guard_window:
            return ""
        for name, value, seen in (("loss", loss, self._losses), ("norm", norm, self._norms)):
            middle = median(seen)
            spread = max(_SIGMA * median(abs(x - middle) for x in seen), _LEAST[name] * middle)
            limit = middle + self._config.guard_deviations * spread
            limit = max(limit, middle + _CALM if name == "loss" else self._config.grad_clip)
            if value > limit:
                full = "loss" if name == "loss" else "gradient norm"
                return f"{full} {value:.4g} is above {limit:.4g}; the median of {len(seen)} steps is {middle:.4g}"
        return ""

    def _accept(self, loss: float, norm: float) -> None:
        keep = self._config.guard_window - 1
        self._losses, self._norms = [*self._losses[-keep:], loss], [*self._norms[-keep:], norm]
        self._spikes = 0

    def _forget(self) -> None:
        self._losses, self._norms, self._spikes = [], [], 0

    # -- what it is told -----------------------------------------------------------------------------------------------

    def passed(self, step: int, checkpoint: bool) -> None:
        """``step`` steps are done, the last one accepted, and ``checkpoint``: one of these is on disk now.

        A checkpoint becomes the one to go back to when the run stayed calm for ``guard_patience`` steps after it.
        """
        if self._config.guard != "rewind":
            return
        ready = [s for s in self._fresh if step - s >= self._config.guard_patience]
        if ready and ready[-1] != self.good:
            self.good, self.rewinds = ready[-1], 0
        self._fresh = [s for s in self._fresh if s not in ready] + ([step] if checkpoint else [])

    def rewound(self) -> None:
        """The weights are those of ``good`` again; checkpoints after it are not to be gone back to."""
        self._fresh, self._spikes, self.bad_steps = [], 0, 0
        self.rewinds += 1

    def lost(self) -> None:
        """There is no ``good`` on the disk, which was full: high losses are the new level then."""
        self.good, self._spikes = None, 0
        self._fresh = []

    @property
    def needed(self) -> tuple[int, ...]:
        """Checkpoints that a rewind may want: they must be kept."""
        return (*(() if self.good is None else (self.good,)), *self._fresh)

    def state(self) -> dict[str, Any]:
        """Its memory, as JSON."""
        return {
            "losses": self._losses,
            "norms": self._norms,
            "kind": self._kind,
            "spikes": self._spikes,
            "bad_steps": self.bad_steps,
            "fresh": self._fresh,
            "good": self.good,
            "rewinds": self.rewinds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what ``state`` gave."""
        self._losses, self._norms, self._fresh = list(state["losses"]), list(state["norms"]), list(state["fresh"])
        self._kind, self._spikes, self.bad_steps = state["kind"], state["spikes"], state["bad_steps"]
        self.good, self.rewinds = state["good"], state["rewinds"]
