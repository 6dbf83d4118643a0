"""The teacher: a congling model, fine-tuned on people's labels, that labels a sample for the classifier to learn from.

The mean of the last hidden states under a linear head with three outputs; all weights are tuned (Howard and Ruder 2018
found no less to do). What the seed did by hand (SEED §1.3). Letters: B documents, T tokens, D model width.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from congling.clean.quality.grams import CHARACTERS
from congling.clean.quality.labels import LABELS
from congling.infer.model import Model
from congling.reporter import Reporter
from congling.tokenizer.tokenizer import Tokenizer
from congling.train.precision import autocast, choose_dtype

_TOKENS = 512  # read of a document
_BATCH = 16  # documents a step
_MAX_EPOCHS, _PATIENCE = 8, 2  # epochs; those without a better loss on the held-out before it ends
_RATE, _HEAD_RATE, _DECAY = 1e-4, 1e-3, 0.01  # AdamW, after a linear warm-up over a tenth of an epoch


@dataclass
class Teacher:
    """``probabilities`` of documents; ``report``: epochs, held-out loss by epoch."""

    body: nn.Module
    head: nn.Linear
    tokenizer: Tokenizer
    report: dict[str, Any]

    def probabilities(self, text: pa.Array, reporter: Reporter | None = None) -> NDArray[np.float32]:
        """P(low, mid, high) of N documents, [N, 3]."""
        self.body.eval()
        rows = _rows(self.tokenizer, text)
        out = np.empty((len(rows), len(LABELS)), np.float32)
        with (
            torch.inference_mode(),
            (reporter or Reporter(quiet=True)).progress("teacher", len(rows), "documents") as bar,
        ):
            for chosen in _batches(np.arange(len(rows)), rows, 2 * _BATCH):
                out[chosen] = self.logits([rows[i] for i in chosen]).softmax(1).cpu().numpy()
                bar.advance(len(chosen))
        return out

    def logits(self, rows: list[NDArray[np.int64]]) -> Tensor:
        """[B, 3] of B documents' ids. Padding stands behind: causal attention never shows it to a token."""
        device = self.head.weight.device
        length = max(map(len, rows))
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.from_numpy(row)
        sizes = torch.tensor([len(row) for row in rows])
        real = (torch.arange(length) < sizes[:, None]).to(device)  # [B, T]
        with autocast(device.type, choose_dtype("auto", device.type)):
            hidden = self.body(ids.to(device))  # [B, T, D]
        mean = (hidden.float() * real[..., None]).sum(1) / sizes.to(device)[:, None]  # [B, D]
        logits: Tensor = self.head(mean)
        return logits


def fine_tune(
    folder: Path, text: pa.Array, labels: NDArray[np.int64], stop: NDArray[np.bool_], seed: int, reporter: Reporter
) -> Teacher:
    """A teacher from the model in ``folder``, tuned on N labelled documents.

    labels: numbers into LABELS [N]; stop: [N], documents that are not learned from, but end the training when their
    loss grows; the weights of the best epoch are kept. On the GPU where there is one. On a CPU the same seed gives the
    same teacher. Raises ArtifactError when the folder holds no model, ValueError when nothing is left to learn from.
    """
    if stop.all() or not stop.any():
        raise ValueError(f"{len(stop)} labels are too few for a teacher: label more documents")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model.load(folder, device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout, where the model has any
        head = nn.Linear(model.transformer.architecture.dim, len(LABELS), device=device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        teacher = Teacher(model.transformer, head, model.tokenizer, {})
        _tune(teacher, text, torch.from_numpy(labels).to(device), stop, seed, reporter)
    return teacher


def _tune(
    teacher: Teacher, text: pa.Array, labels: Tensor, stop: NDArray[np.bool_], seed: int, reporter: Reporter
) -> None:
    rows, learned = _rows(teacher.tokenizer, text), np.flatnonzero(~stop)
    counts = torch.bincount(labels[torch.from_numpy(~stop).to(labels.device)], minlength=len(LABELS)).float()
    balance = torch.where(counts > 0, counts.sum() / counts.clamp(min=1) / (counts > 0).sum(), 0.0)
    parts = nn.ModuleList([teacher.body, teacher.head])
    groups = [
        {"params": list(teacher.body.parameters()), "lr": _RATE},
        {"params": list(teacher.head.parameters()), "lr": _HEAD_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=_DECAY)
    steps = math.ceil(len(learned) / _BATCH)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / max(1, steps // 10)))
    best, kept, losses = math.inf, copy.deepcopy(parts.state_dict()), list[float]()
    with reporter.progress("fine-tune teacher", _MAX_EPOCHS * len(learned), "documents") as bar:
        for epoch in range(_MAX_EPOCHS):
            parts.train()
            order = np.random.default_rng((seed, epoch)).permutation(learned)
            for chosen in _batches(order, rows, _BATCH, seed + epoch):
                loss = F.cross_entropy(teacher.logits([rows[i] for i in chosen]), labels[chosen], balance)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
                optimizer.step()
                warm_up.step()
                bar.advance(len(chosen))
            losses.append(_loss(teacher, rows, labels, np.flatnonzero(stop)))
            bar.advance(0, f"held-out loss {losses[-1]:.3f}")
            if losses[-1] < best:
                best, kept = losses[-1], copy.deepcopy(parts.state_dict())
            elif epoch - int(np.argmin(losses)) >= _PATIENCE:
                break
    parts.load_state_dict(kept)
    teacher.report.update({"epochs": int(np.argmin(losses)) + 1, "losses": losses, "learned": len(learned)})


@torch.inference_mode()
def _loss(teacher: Teacher, rows: list[NDArray[np.int64]], labels: Tensor, chosen: NDArray[np.int64]) -> float:
    """Nats a document, all classes as they come."""
    teacher.body.eval()
    total = sum(
        F.cross_entropy(teacher.logits([rows[i] for i in some]), labels[some], reduction="sum").item()
        for some in _batches(chosen, rows, _BATCH)
    )
    return float(total) / len(chosen)


def _rows(tokenizer: Tokenizer, text: pa.Array) -> list[NDArray[np.int64]]:
    """Ids of each document, its first ones, behind the end of a document as in pretraining."""
    ids, offsets = tokenizer.encode_batch(pc.utf8_slice_codeunits(text, 0, CHARACTERS))
    start = [tokenizer.end_id] if tokenizer.special else []
    return [np.array([*start, *ids[a : min(b, a + _TOKENS - 1)]] or [0], np.int64) for a, b in pairwise(offsets)]


def _batches(
    order: NDArray[np.int64], rows: list[NDArray[np.int64]], size: int, seed: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Documents of like length together, so that little is padding; in random order where there is a seed."""
    sizes = np.array([len(rows[i]) for i in order])
    blocks = 32 * size  # sorted within a block: a batch is still a random draw
    found = []
    for start in range(0, len(order), blocks if seed is not None else max(1, len(order))):
        block = slice(start, start + blocks if seed is not None else None)
        ordered = order[block][np.argsort(sizes[block], kind="stable")]
        found += [ordered[i : i + size] for i in range(0, len(ordered), size)]
    if seed is not None:
        found = [found[i] for i in np.random.default_rng(seed).permutation(len(found))]
    yield from found
