"""Section ``[probe]``."""

from typing import Literal, Self

from pydantic import model_validator

from congling.config import option
from congling.evaluate.config import ProbeTask, probe_len
from congling.train.config import LoopConfig


class ProbeConfig(LoopConfig):
    """The loop's fields with defaults for a small model, the task, and what is measured at the end."""

    task: ProbeTask = option("reverse", "copy, reverse, or add two numbers (digits, least significant first)")
    longest: int = option(64, "longest input to train on, in symbols (add: digits a number)", gt=0)
    alphabet: int = option(1024, "symbols that inputs are drawn from (add: ten digits)", gt=1)
    repeats: bool = option(False, "whether a symbol may come twice in an input")
    smallest_alphabet: int = option(
        16, "repeats: a training sequence draws from a random part of the alphabet, this large or larger", gt=1
    )
    growth: float = option(0.3, "share of the training over which inputs grow to the longest", ge=0, le=1)
    probe_lengths: tuple[int, ...] = option((64, 128, 256, 512, 1024), "input lengths measured at the end")
    probe_sequences: int = option(64, "sequences a length", gt=0)
    tokens: int = option(6_240_000, "tokens to train on", gt=0)
    lengths: tuple[int, ...] = option((130,), "tokens a row, which several sequences share", min_length=1)
    batch_tokens: int = option(2080, "tokens of an optimizer step", gt=0)
    micro_batch_tokens: int = option(2080, "tokens computed at once", gt=0)
    lr: float = option(6e-3, "learning rate at its peak", gt=0)
    lr_final: float = option(0.0, "learning rate at the end", ge=0)
    warmup_steps: int = option(50, "steps of the S-curve up to the peak", ge=0)
    muon_step: int | None = option(0, "step at which Muon takes over the matrices; none: never", ge=0)
    # Near zero a loss has a long tail: the steps that a guard would leave out are those that have something to teach.
    guard: Literal["off", "skip", "rewind"] = option("off", "what is done about a step far above those before it")
    valid_tokens: int = option(13_000, "held-out tokens of a validation", gt=0, affects_result=False)
    sample_prompts: tuple[str, ...] = option((), "no samples are written", max_length=0, affects_result=False)

    @model_validator(mode="after")
    def _rows_hold_the_longest(self) -> Self:
        needed = probe_len(self.task, self.longest) - 1  # the last id is only a target
        if min(self.lengths) < needed:
            raise ValueError(f"lengths {list(self.lengths)}: a row needs {needed} tokens for longest = {self.longest}")
        longest = max(self.longest, *self.probe_lengths)
        if not self.repeats and self.task != "add" and self.alphabet < longest:
            raise ValueError(f"alphabet {self.alphabet}: inputs of {longest} symbols without repeats need as many")
        if self.repeats and self.smallest_alphabet > self.alphabet:
            raise ValueError(f"smallest_alphabet {self.smallest_alphabet} is more than alphabet {self.alphabet}")
        return self
