"""What happens at which step: sequence length and learning rate, as pure functions of the configuration."""

import math
from itertools import accumulate

from congling.train.config import LoopConfig


class Schedule:
    """``num_steps`` optimizer steps, each of ``batch_tokens`` tokens whatever the length."""

    def __init__(self, config: LoopConfig) -> None:
        self.config = config
        self.num_steps = max(config.tokens // config.batch_tokens, 1)
        shares = config.length_shares or (1.0,) * len(config.lengths)
        ends = accumulate(shares)
        self._phase_ends = [round(self.num_steps * end / sum(shares)) for end in ends]  # steps

    def phase(self, step: int) -> int:
        """Index of the length phase of ``step`` (0 ≤ step < num_steps)."""
        return next((n for n, end in enumerate(self._phase_ends) if step < end), len(self._phase_ends) - 1)

    def seq_len(self, step: int) -> int:
        """Sequence length of ``step``, in tokens."""
        return self.config.lengths[self.phase(step)]

    def ends_phase(self, step: int) -> bool:
        """Whether ``step`` is the last of its phase."""
        return step + 1 == self.num_steps or self.phase(step + 1) != self.phase(step)

    def lr(self, step: int) -> float:
        """Warm-up: lr·S(u), u = (step + 1)/warmup_steps, with the seed's quadratic S-curve (SEED §4)
        S(u) = 2u² below ½, else 1 − 2(1 − u)². Then ``cosine``: half a cosine to lr_final; ``wsd``: constant, and a
        line to lr_final over the last cooldown_share (Hu et al. 2024); ``seed``: the same along S in place of the line;
        ``constant``.
        """
        c = self.config
        if step < c.warmup_steps:
            return c.lr * s_curve((step + 1) / c.warmup_steps)
        done = (step - c.warmup_steps) / max(self.num_steps - 1 - c.warmup_steps, 1)  # 0 … 1
        if c.schedule == "cosine":
            return c.lr_final + (c.lr - c.lr_final) * 0.5 * (1 + math.cos(math.pi * done))
        if c.schedule == "constant":
            return c.lr
        left = min(1.0, (1 - done) / c.cooldown_share)  # 1 … 0 within the cooldown
        return c.lr_final + (c.lr - c.lr_final) * (left if c.schedule == "wsd" else s_curve(left))


def s_curve(u: float) -> float:
    """Two parabolas from (0, 0) to (1, 1)."""
    return 2 * u * u if u < 0.5 else 1 - 2 * (1 - u) ** 2
