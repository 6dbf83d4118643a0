"""A tiny training of seconds, made by rule; as a script, one that kills itself at a chosen batch."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from congling.model.config import ModelConfig
from congling.model.transformer import Transformer
from congling.reporter import Metrics, Reporter
from congling.train.checkpoint import Checkpoints
from congling.train.config import LoopConfig
from congling.train.data import Batch
from congling.train.loop import Job, Trainer

VOCAB = 48
BASE = {
    "tokens": 64 * 20,
    "lengths": (8, 16),
    "batch_tokens": 64,
    "micro_batch_tokens": 32,
    "lr": 1e-2,
    "lr_final": 1e-3,
    "warmup_steps": 4,
    "muon_step": 6,
    "precision": "fp32",
    "log_every": 4,
    "valid_every": 8,
    "valid_tokens": 64,
    "sample_every": 8,
    "sample_prompts": ("甲",),
    "checkpoint_every": 4,
    "loader_threads": 0,  # a source that kills does it when its batch is wanted
}


class Counting:
    """Rows that count on from a number known by the row's position alone; ``at`` is called with each position."""

    fingerprint = "counting"

    def __init__(self, at=lambda position: None) -> None:
        self.at = at

    def batch(self, position: int, num_rows: int, seq_len: int) -> Batch:
        self.at(position)
        starts = range(position, position + num_rows * seq_len, seq_len)
        first = np.array([np.random.default_rng(start).integers(VOCAB) for start in starts])
        rows = torch.from_numpy((first[:, None] + np.arange(seq_len + 1)) % VOCAB)
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


def tiny_model(dropout: float = 0.1, **changes) -> Transformer:
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "head_dim": 8, "ffn_dim": 32, "dropout": dropout}
    return Transformer(ModelConfig(**{**sizes, **changes}).resolve(VOCAB), seed=3)


def make_job(folder: Path, source=None, dropout: float = 0.1, **changes) -> Job:
    config = LoopConfig(**{**BASE, **changes})
    source = source or Counting()
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        model=tiny_model(dropout),
        source=source,
        config=config,
        checkpoints=Checkpoints(folder / "checkpoints", source.fingerprint, config.keep_checkpoints),
        reporter=Reporter(quiet=True),
        metrics=Metrics(folder / "metrics.jsonl"),
        token_bytes=np.full(VOCAB, 3, np.int32),
        valid=lambda: iter([Counting().batch(10**6, 4, 16)]),
        sample=lambda prompt: prompt + "乙",
        label="tiny",
        seed=5,
    )


def train(folder: Path, **changes) -> tuple[Job, dict]:
    job = make_job(folder, **changes)
    return job, Trainer(job).run()


def weights(job: Job) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in job.model.named_parameters()}


def kill_at(wanted: int):
    def at(position: int) -> None:
        if position >= wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return Counting(at)


if __name__ == "__main__":  # folder, position to be killed at, and keys of the configuration as JSON
    torch.set_num_threads(1)
    changes = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    changes = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    train(Path(sys.argv[1]), source=kill_at(int(sys.argv[2])), log_every=1, **changes)
