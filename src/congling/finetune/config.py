"""Section ``[sft]``."""

from typing import Self

from pydantic import model_validator

from congling.config import option
from congling.train.config import LoopConfig


class SftConfig(LoopConfig):
    """The loop's fields, and the dialogues."""

    input: tuple[str, ...] = option((), "dialogue files, folders or globs (JSONL); empty: the fetched ones")
    valid_share: float = option(0.01, "share of the dialogues held out, chosen by their text", gt=0, lt=1)
    epochs: float | None = option(None, "passes over the packed rows, in place of tokens; none: tokens counts", gt=0)
    tokens: int = option(500_000, "tokens to train on, padding included", gt=0)
    lengths: tuple[int, ...] = option(
        (256,), "length of the packed rows; a longer dialogue loses its last messages", min_length=1
    )
    lr: float = option(1e-3, "learning rate at its peak", gt=0)
    lr_final: float = option(1e-5, "learning rate at the end", ge=0)
    warmup_steps: int = option(10, "steps of the S-curve up to the peak", ge=0)
    sample_prompts: tuple[str, ...] = option(
        ("一心一意是什么意思？", "你好"), "questions that the samples answer", affects_result=False
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if len(self.lengths) != 1:
            raise ValueError(f"lengths {list(self.lengths)}: one length, that of the packed rows")
        return self
