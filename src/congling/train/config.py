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
    batch_schedule: tuple[int, ...] = option((), "batch_tokens of each phase; empty: batch_tokens in all")
    micro_batch_tokens: int = option(4096, "tokens computed at once; the rest by gradient accumulation", gt=0)
    lr: float = option(2e-3, "learning rate at its peak", gt=0)
    lr_final: float = option(1e-4, "learning rate at the end", ge=0)
    warmup_steps: int = option(30, "steps of the S-curve up to the peak", ge=0)
    schedule: Literal["cosine", "wsd", "seed", "constant"] = option("cosine", "the learning rate after the warm-up")
    cooldown_share: float = option(
        0.2, "wsd, seed: share of the tokens in which the rate falls to lr_final", gt=0, le=1
    )
    cooldown_shape: Literal["linear", "sqrt"] = option("linear", "wsd: a line, or 1 − √ of the way")
    wave_steps: int = option(0, "seed: steps of a cosine wave between all and a tenth of the rate; 0: none", ge=0)
    weight_decay: float = option(0.1, "decoupled, on matrices and embeddings", ge=0)
    betas: tuple[_Beta, _Beta] = option((0.9, 0.98), "AdamW's averages")
    eps: float = option(1e-8, "AdamW's guard against division by zero", gt=0)
    muon_step: int | None = option(None, "step at which Muon takes over the matrices (0: all along); none: never", ge=0)
    muon_momentum: float = option(0.95, "Muon's average", ge=0, lt=1)
    z_loss: float = option(0.0, "weight of (ln Z)² in the loss: keeps logits small; 0: off", ge=0)
    grad_clip: float = option(1.0, "largest norm of the gradient; 0: off", ge=0)
    guard: Literal["off", "skip", "rewind"] = option(
        "rewind", "spikes of loss or gradient: skip the step; rewind: and go back to before when the loss stays high"
    )
    guard_window: int = option(64, "accepted steps whose median and spread say what is normal", ge=4)
    guard_deviations: float = option(8.0, "a spike lies so many deviations above the median", gt=0)
    guard_patience: int = option(5, "spikes in a row after which guard=rewind goes back, guard=skip takes them", gt=0)
    max_rewinds: int = option(3, "stop when one checkpoint was gone back to so often", gt=0)
    max_bad_steps: int = option(10, "stop after so many steps in a row with a gradient that is no number", gt=0)
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "of activations; weights are float32 always")
    compile: Literal["auto", "on", "off"] = option("auto", "torch.compile of the layers; auto: on CUDA")
    strategy: Literal["ddp", "fsdp"] = option("ddp", "several GPUs: weights on each, or in shards")
    loader_threads: int = option(1, "threads that prepare batches ahead; 0: none", ge=0, affects_result=False)
    log_every: int = option(10, "steps between rows of metrics.jsonl", gt=0, affects_result=False)
    valid_every: int = option(100, "steps between validations", gt=0, affects_result=False)
    valid_tokens: int = option(65_536, "held-out tokens of a validation", gt=0, affects_result=False)
    sample_every: int = option(100, "steps between samples", gt=0, affects_result=False)
    sample_prompts: tuple[str, ...] = option(("从前", "今天"), "what the samples begin with", affects_result=False)
    sample_tokens: int = option(48, "length of a sample", gt=0, affects_result=False)
    checkpoint_every: int = option(
        50, "steps between checkpoints, at most; guard=rewind goes back to one of these", gt=0, affects_result=False
    )
    checkpoint_seconds: float = option(900, "seconds between checkpoints, at most", gt=0, affects_result=False)
    keep_checkpoints: int = option(
        2, "newest checkpoints kept, besides the last of each length", gt=0, affects_result=False
    )
    dry_run: bool = option(False, "say what the training will cost, and leave", affects_result=False)
    device: str = option(
        "this", "dry_run: on which device; this machine's, or rtx-4090, h100, … by name", affects_result=False
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        longest = self.lengths[-1]
        for length in self.lengths:
            if length < 2 or longest % length:
                raise ValueError(f"lengths {list(self.lengths)}: each must be ≥ 2 and divide the last, the longest")
            if self.micro_batch_tokens % length:
                raise ValueError(f"micro_batch_tokens {self.micro_batch_tokens} is no multiple of length {length}")
        for batch in (self.batch_tokens, *self.batch_schedule):
            if batch <= 0 or batch % self.micro_batch_tokens:
                name = "batch_tokens" if batch == self.batch_tokens else "batch_schedule"
                raise ValueError(f"{name} {batch} is no multiple of micro_batch_tokens {self.micro_batch_tokens}")
        if self.batch_schedule and len(self.batch_schedule) != len(self.lengths):
            raise ValueError(f"batch_schedule {list(self.batch_schedule)}: one for each of {len(self.lengths)} lengths")
        if self.length_shares and (
            len(self.length_shares) != len(self.lengths) or min(self.length_shares) < 0 or sum(self.length_shares) <= 0
        ):
            raise ValueError(
                f"length_shares {list(self.length_shares)}: one share ≥ 0 for each of {len(self.lengths)} lengths"
            )
        return self
