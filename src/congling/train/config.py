"""What pretraining and tuning share: the fields of the loop."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from congling.config import Config, option

_Beta = Annotated[float, Field(ge=0, lt=1)]


class LoopConfig(Config):
    """Dials of the training loop. All lengths and batches are in tokens, all intervals in optimizer steps."""

    tokens: int = option(2_000_000, "tokens to train on", gt=0)
    lengths: tuple[int, ...] = option(
        (64, 128, 256), "sequence lengths, one phase each; all divide the last", min_length=1
    )
    length_shares: tuple[float, ...] = option((), "share of the tokens for each phase; empty: equal")
    batch_tokens: int = option(8192, "tokens of an optimizer step, at every length", gt=0)
    micro_batch_tokens: int = option(4096, "tokens computed at once; the rest by gradient accumulation", gt=0)
    lr: float = option(2e-3, "learning rate at its peak", gt=0)
    lr_final: float = option(1e-4, "learning rate at the end", ge=0)
    warmup_steps: int = option(30, "steps of the S-curve up to the peak", ge=0)
    schedule: Literal["cosine", "wsd", "seed", "constant"] = option("cosine", "the learning rate after the warm-up")
    cooldown_share: float = option(0.2, "wsd, seed: share of the steps in which the rate falls to lr_final", gt=0, le=1)
    weight_decay: float = option(0.1, "decoupled, on matrices and embeddings", ge=0)
    betas: tuple[_Beta, _Beta] = option((0.9, 0.98), "AdamW's averages")
    eps: float = option(1e-8, "AdamW's guard against division by zero", gt=0)
    muon_step: int | None = option(None, "step at which Muon takes over the matrices (0: all along); none: never", ge=0)
    muon_momentum: float = option(0.95, "Muon's average", ge=0, lt=1)
    grad_clip: float = option(1.0, "largest norm of the gradient; 0: off", ge=0)
    max_bad_steps: int = option(10, "stop after so many steps in a row with a gradient that is no number", gt=0)
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "of activations; weights are float32 always")
    log_every: int = option(10, "steps between rows of metrics.jsonl", gt=0, affects_result=False)
    valid_every: int = option(100, "steps between validations", gt=0, affects_result=False)
    valid_tokens: int = option(65_536, "held-out tokens of a validation", gt=0, affects_result=False)
    sample_every: int = option(100, "steps between samples", gt=0, affects_result=False)
    sample_prompts: tuple[str, ...] = option(("从前", "今天"), "what the samples begin with", affects_result=False)
    sample_tokens: int = option(48, "length of a sample", gt=0, affects_result=False)
    checkpoint_every: int = option(50, "steps between checkpoints, at most", gt=0, affects_result=False)
    checkpoint_seconds: float = option(900, "seconds between checkpoints, at most", gt=0, affects_result=False)
    keep_checkpoints: int = option(
        2, "newest checkpoints kept, besides the last of each length", gt=0, affects_result=False
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        longest = self.lengths[-1]
        for length in self.lengths:
            if length < 2 or longest % length:
                raise ValueError(f"lengths {list(self.lengths)}: each must be ≥ 2 and divide the last, the longest")
            if self.micro_batch_tokens % length:
                raise ValueError(f"micro_batch_tokens {self.micro_batch_tokens} is no multiple of length {length}")
        if self.batch_tokens % self.micro_batch_tokens:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is no multiple of micro_batch_tokens {self.micro_batch_tokens}"
            )
        if self.length_shares and (
            len(self.length_shares) != len(self.lengths) or min(self.length_shares) < 0 or sum(self.length_shares) <= 0
        ):
            raise ValueError(
                f"length_shares {list(self.length_shares)}: one share ≥ 0 for each of {len(self.lengths)} lengths"
            )
        return self
