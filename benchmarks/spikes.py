"""What the spike guard is worth: a tiny model trained at a high learning rate on text with planted bad batches, with
guard = off, skip and rewind, with and without clipping, against the same training without bad batches.

Planted, after 100 of 400 steps: every 25th batch is random ids; from step 205 eight batches in a row with targets that
belong to other rows; at step 260 one layer gives infinities for a batch; at step 310 one update is wrong (the
embedding is scaled by 20, as a bug or a flipped bit might do).  One thread, about five minutes:
    python benchmarks/spikes.py
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from common import store
from congling.corpus.tokens import TokenDataset, TokenWriter
from congling.evaluate.bits import windows
from congling.model.config import ModelConfig
from congling.model.transformer import Transformer
from congling.reporter import Metrics, Reporter
from congling.tokenizer.config import TokenizerConfig
from congling.train.checkpoint import Checkpoints
from congling.train.config import LoopConfig
from congling.train.data import Batch, TokenWindows
from congling.train.loop import Job, Trainer
from texts import SHARED, corpus, first_bytes
from vocabularies import train_ours

VOCAB, LENGTH, BATCH, STEPS = 2048, 128, 1024, 400
MODEL = {"dim": 96, "num_layers": 3, "num_heads": 3, "head_dim": 32, "ffn_dim": 192, "dropout": 0.0}
RANDOM, FIRST, FOREIGN, INFINITE, WRONG = 25, 100, range(205, 213), 260, 310


class Planted:
    """The source, with bad batches at known positions."""

    def __init__(self, source, model) -> None:
        self.source, self.model, self.fingerprint = source, model, source.fingerprint + " planted"
        self.infinite = False
        model.layers[1].register_forward_hook(lambda module, inputs, outputs: self._spoil(outputs))

    def _spoil(self, outputs):
        x, values = outputs
        return (x * float("inf") if self.infinite and self.model.training else x), values

    def batch(self, position, num_rows, seq_len):
        step = position // BATCH
        self.infinite = step == INFINITE
        batch = self.source.batch(position, num_rows, seq_len)
        if step >= FIRST and step % RANDOM == 0:
            draw = torch.Generator().manual_seed(step)
            ids = torch.randint(0, VOCAB, (num_rows, seq_len + 1), generator=draw)
            return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        if step in FOREIGN:
            return Batch(batch.ids, batch.targets.roll(1, 0).flip(1).contiguous())
        return batch


def tokens(folder):
    train, held = corpus()
    coder = train_ours(first_bytes(train, 3_000_000), TokenizerConfig(vocab_size=VOCAB))
    texts = {
        "train": first_bytes(train, 3_000_000),
        "valid": [t for p in held.values() for t in first_bytes(p, 60_000)],
    }
    for split, part in texts.items():
        with TokenWriter(folder, split, np.uint16) as writer:
            for text in part:
                ids = np.array([*coder.encode(text), coder.end_id], np.uint16)
                writer.write(ids, np.array([0, len(ids)]))
    return coder, TokenDataset(folder, "train"), TokenDataset(folder, "valid")


def spoil_update(trainer):
    """The update of step WRONG, once, scales the embedding."""
    step, done = trainer.optimizer.step, []

    def wrong(number, lr, **options):
        found = step(number, lr, **options)
        if number >= WRONG and not done:
            done.append(number)
            with torch.no_grad():
                trainer.job.model.embedding.mul_(20)
        return found

    trainer.optimizer.step = wrong


def train(data, guard, clip, planted):
    coder, text, held_out = data
    config = LoopConfig(
        tokens=STEPS * BATCH, lengths=(LENGTH,), batch_tokens=BATCH, micro_batch_tokens=BATCH, lr=1e-2, lr_final=1e-4,
        warmup_steps=20, grad_clip=clip, guard=guard, guard_window=32, checkpoint_every=20, valid_every=10**6,
        sample_every=10**6, log_every=1, sample_prompts=(), loader_threads=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model = Transformer(ModelConfig(**MODEL).resolve(VOCAB), seed=1)
        source = TokenWindows(text, LENGTH, seed=1)
        source = Planted(source, model) if planted else source
        job = Job(
            model=model, source=source, config=config,
            checkpoints=Checkpoints(Path(folder) / "checkpoints", source.fingerprint, 1), reporter=Reporter(quiet=True),
            metrics=Metrics(Path(folder) / "metrics.jsonl"), token_bytes=coder.token_bytes,
            valid=lambda: windows(held_out, LENGTH, 60_000), sample=lambda prompt: "", label="spikes", seed=1,
        )  # fmt: skip
        job.reporter.warn = lambda text: None
        trainer = Trainer(job)
        if planted:
            spoil_update(trainer)
        summary = trainer.run()
        entries = trainer.control.journal.entries
    finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
    return {
        "bits_per_byte": round(summary["bits_per_byte"], 4),
        "skipped_steps": summary["skipped_steps"],
        "rewinds": [{"step": e["step"], "to": e["to"]} for e in entries if e["kind"] == "rewind"],
        "skipped": [e["step"] for e in entries if e["kind"] == "skip"],
        "steps": summary["steps"],
        "weights_finite": finite,
    }


def main():
    if not (SHARED / "data").is_dir():
        print(f"skipped: no {SHARED / 'data'}")
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = tokens(Path(folder))
        rows = {}
        for clip in (1.0, 0.0):
            for planted in (False, True):
                for guard in ("off", "skip", "rewind"):
                    name = f"{'bad batches' if planted else 'clean'}, clip {clip:g}, guard {guard}"
                    rows[name] = train(data, guard, clip, planted)
                    print(name, rows[name], flush=True)
    store("spikes", {"model": MODEL, "steps": STEPS, "batch_tokens": BATCH, "lr": 1e-2, "rows": rows})


if __name__ == "__main__":
    main()
