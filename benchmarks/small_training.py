"""Trainings of a small model with the proportions of the 0.18 B presets, as rows of a file: what is in it is not
trained again, several processes may share a plan, and a killed one loses the run under way and no more."""

import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from congling.evaluate.bits import measure, windows
from congling.model.config import PRESETS, ModelConfig
from congling.model.transformer import Transformer
from congling.pretrain.config import PretrainConfig
from congling.reporter import Metrics, Reporter
from congling.train.checkpoint import Checkpoints
from congling.train.cost import flops_per_token, muon_flops, phase_steps
from congling.train.data import TokenWindows
from congling.train.loop import Job, Trainer
from shared_tokens import VOCAB_SIZE, shared_tokens

# As in the 0.18 B presets the inner width and the feed-forward are twice the model's, and the head has a third of the
# FLOPs. No dropout: no token is seen twice.
SMALL = {"dim": 128, "num_layers": 6, "num_heads": 4, "head_dim": 64, "ffn_dim": 256, "dropout": 0.0}
JERRY = {**PRESETS["jerry-0.18b"], **SMALL}
LOOP = {
    "lengths": (64, 128, 256), "length_shares": (0.4, 0.3, 0.3), "batch_tokens": 2048, "micro_batch_tokens": 2048,
    "warmup_steps": 20, "schedule": "cosine", "weight_decay": 0.1, "muon_step": 0,
    "valid_every": 10**6, "sample_every": 10**6, "checkpoint_every": 10**6, "sample_prompts": (), "log_every": 50,
}  # fmt: skip
SEED_OPTIMIZER = {"muon_step": None, "betas": (0.9, 0.98), "eps": 1e-7}  # AdamW, as SEED §4 has it


@dataclass(frozen=True)
class Run:
    """One training: dials of the model and of the loop that differ from ``base`` and LOOP, and its compute in FLOPs."""

    kind: str
    name: str
    seed: int
    flops: float
    model: dict = field(default_factory=dict)  # every dial of an architecture
    loop: dict = field(default_factory=dict)

    @property
    def key(self):
        return [self.kind, self.name, self.seed]


def mean_flops(model, tokens, loop):
    """FLOPs of a token, forward and backward, over the lengths of ``loop``: congling.train.cost's formula."""
    architecture = ModelConfig(**model).resolve(VOCAB_SIZE)
    config = PretrainConfig(**{**LOOP, **loop, "tokens": tokens})
    phases = phase_steps(config)
    total = sum(n * b * flops_per_token(architecture, length) for (n, b), length in zip(phases, config.lengths))  # noqa: B905
    return total / sum(n * b for n, b in phases)


def train(run, tokens_folder):
    """Trains; returns the row."""
    tokenizer, data, held_out = shared_tokens(tokens_folder)
    settings = {**LOOP, "lr": 3e-3, **run.loop}
    settings.setdefault("lr_final", settings["lr"] / 30)
    batch = settings["batch_tokens"]
    tokens = int(run.flops / mean_flops(run.model, 1_000_000, run.loop)) // batch * batch
    config = PretrainConfig(**settings, tokens=tokens)
    architecture = ModelConfig(**run.model).resolve(VOCAB_SIZE)
    model = Transformer(architecture, run.seed)
    source = TokenWindows(data, config.lengths[-1], run.seed, None)
    wall, processor = time.perf_counter(), time.process_time()
    with TemporaryDirectory() as name:
        job = Job(
            model=model, source=source, config=config, reporter=Reporter(quiet=True), label=run.name, seed=run.seed,
            checkpoints=Checkpoints(Path(name) / "checkpoints", source.fingerprint, 1),
            metrics=Metrics(Path(name) / "metrics.jsonl"), token_bytes=tokenizer.token_bytes,
            valid=lambda: windows(held_out, config.lengths[-1], 2048), sample=lambda prompt: "",
        )  # fmt: skip
        summary = Trainer(job).run()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    found = measure(model, windows(held_out, config.lengths[-1], 10**9), tokenizer.token_bytes, torch.bfloat16)
    muon = 0 if config.muon_step is None else muon_flops(architecture) * tokens / batch
    return {
        "kind": run.kind, "name": run.name, "seed": run.seed, "bits_per_byte": round(found.bits_per_byte, 5),
        "tokens": tokens, "flops": tokens * mean_flops(run.model, tokens, run.loop), "muon_flops": muon,
        "parameters": summary["parameters"], "skipped_steps": summary["skipped_steps"], "lr": config.lr,
        "tokens_per_second": round(tokens / wall), "tokens_per_processor_second": round(tokens / processor),
    }  # fmt: skip


def rows(work):
    """Those of finished runs."""
    file = Path(work) / "rows.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def train_missing(runs, work, tokens_folder=None):
    """Trains what has no row yet and is not being trained by another process."""
    work = Path(work)
    (work / "locks").mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for run in runs:
        with _claim(work / "locks" / f"{run.kind}-{run.name}-{run.seed}".replace("/", "_")) as mine:
            if mine and run.key not in [[row["kind"], row["name"], row["seed"]] for row in rows(work)]:
                row = train(run, tokens_folder or work / "tokens")
                with (work / "rows.jsonl").open("a") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                print(row, flush=True)


@contextmanager
def _claim(file):
    """Yields whether this process has the lock; a killed process loses it."""
    handle = os.open(file, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)
