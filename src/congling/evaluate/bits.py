"""Bits per byte: a loss that can be compared across tokenizers, because raw bytes are counted."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from congling.corpus.tokens import TokenDataset
from congling.model.loss import IGNORE
from congling.model.transformer import Transformer
from congling.train.data import Batch, windows_batch
from congling.train.precision import autocast


@dataclass(frozen=True)
class Measured:
    """Summed loss over some targets."""

    nats: float
    tokens: int
    bytes: int  # raw bytes that the targets stand for; special tokens have none

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / max(self.tokens, 1)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / max(self.bytes, 1)


@torch.no_grad()
def measure(
    transformer: Transformer, batches: Iterable[Batch], token_bytes: NDArray[np.int32], dtype: torch.dtype
) -> Measured:
    """Loss of the model over ``batches``; token_bytes [V]: raw bytes of each id. Leaves the model's mode as it was."""
    training = transformer.training
    transformer.eval()
    device = transformer.embedding.device
    sizes = torch.from_numpy(token_bytes.astype(np.int64))
    nats, tokens, num_bytes = 0.0, 0, 0
    for batch in batches:
        documents = None if batch.documents is None else batch.documents.to(device)
        with autocast(device.type, dtype):
            found = transformer.loss(batch.ids.to(device), batch.targets.to(device), documents)
        nats, tokens = nats + float(found.nats), tokens + int(found.learned)
        num_bytes += count_bytes(batch, sizes)
    transformer.train(training)
    return Measured(nats, tokens, num_bytes)


def count_bytes(batch: Batch, sizes: torch.Tensor) -> int:
    """Raw bytes that the learned targets of ``batch`` stand for; sizes [V]."""
    return int((sizes[batch.targets.clamp(min=0)] * (batch.targets != IGNORE)).sum())


def windows(
    dataset: TokenDataset, seq_len: int, max_tokens: int, end_id: int | None = None, num_rows: int = 16
) -> Iterator[Batch]:
    """Consecutive windows from the start, about ``max_tokens`` tokens; ``end_id`` as in ``TokenWindows``.

    Raises ValueError, when called, if there is not one.
    """
    available = min((dataset.total - 1) // seq_len, max(max_tokens // seq_len, 1))
    if available < 1:
        raise ValueError(
            f"{dataset.folder}: {dataset.total} held-out tokens are too few for one window of {seq_len}; "
            "raise tokenize.valid_fraction"
        )
    return (
        windows_batch(np.stack([dataset.read(row * seq_len, seq_len + 1) for row in rows]), end_id)
        for rows in (range(n, min(n + num_rows, available)) for n in range(0, available, num_rows))
    )


def bits_per_byte(
    transformer: Transformer, dataset: TokenDataset, token_bytes: NDArray[np.int32], seq_len: int, max_tokens: int
) -> tuple[float, float]:
    """(bits per byte, nats per token) in float32 over windows of ``dataset``."""
    found = measure(transformer, windows(dataset, seq_len, max_tokens), token_bytes, torch.float32)
    return found.bits_per_byte, found.loss
