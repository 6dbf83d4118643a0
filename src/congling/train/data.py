"""The order of the data: a pure function of the seed and of the number of tokens trained on.

The token stream is cut into blocks as long as the longest sequence; a keyed permutation orders the blocks of an
epoch. Token position p of the training lies in block p // block_len of that order, at p % block_len. A sequence of
length L (a divisor of block_len) that begins at position p, a multiple of L, is therefore known without any state:
resuming is exact whatever the batch, the length, the ranks or the number of loader threads were before. After a live
change of length the loop goes on at the next multiple of the new one (``align``).
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from congling.artifact import hash_file
from congling.corpus.tokens import TokenDataset


@dataclass(frozen=True)
class Batch:
    """ids and targets [B, T] int64 (target IGNORE: not learned); documents [B, T] for packed rows, else None."""

    ids: Tensor
    targets: Tensor
    documents: Tensor | None = None


class BatchSource(Protocol):
    """Where batches come from; ``fingerprint`` names the data, so that a checkpoint refuses other data."""

    fingerprint: str

    def batch(self, position: int, num_rows: int, seq_len: int) -> Batch:
        """The ``num_rows`` sequences that begin ``position`` tokens into the training, a multiple of ``seq_len``.

        Always the same for the same arguments, and from several threads. Raises ValueError for a length that this
        source does not have.
        """
        ...


class Request(NamedTuple):
    """Arguments of ``BatchSource.batch``."""

    position: int
    num_rows: int
    seq_len: int


def align(position: int, seq_len: int) -> int:
    """The next multiple of ``seq_len``: where sequences of that length may begin."""
    return -(-position // seq_len) * seq_len


class Loader:
    """Batches of ``source``, prepared ahead by ``threads``; which ones are ready changes nothing but the waiting."""

    def __init__(self, source: BatchSource, threads: int, pin: bool = False) -> None:
        """pin: put them into page-locked memory, from which a GPU copies without waiting."""
        self._source, self._pin = source, pin
        self._pool = ThreadPoolExecutor(threads, "congling-loader") if threads else None
        self._ahead: dict[Request, Future[Batch]] = {}

    def expect(self, requests: Sequence[Request]) -> None:
        """Begins to prepare ``requests``, in this order; what was expected before and is not among them is dropped."""
        if self._pool is None:
            return
        for request in self._ahead.keys() - set(requests):
            self._ahead.pop(request).cancel()
        for request in requests:
            if request not in self._ahead:
                self._ahead[request] = self._pool.submit(self._make, request)

    def get(self, request: Request) -> Batch:
        """The batch of ``request``."""
        ahead = self._ahead.pop(request, None)
        return self._make(request) if ahead is None else ahead.result()

    def close(self) -> None:
        """Ends the threads."""
        self.expect(())
        if self._pool is not None:
            self._pool.shutdown()

    def _make(self, request: Request) -> Batch:
        batch = self._source.batch(*request)
        if not self._pin:
            return batch
        documents = None if batch.documents is None else batch.documents.pin_memory()
        return Batch(batch.ids.pin_memory(), batch.targets.pin_memory(), documents)


class TokenWindows:
    """Windows of a token stream, each token once an epoch.

    end_id: attention stays within a document, of which this id is the last; None: a window is one text. vocab_size: ids
    from it on belong to another vocabulary. Raises ValueError for such ids, and when there is no whole block.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        block_len: int,
        seed: int,
        end_id: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self._dataset, self._block_len, self._seed, self._end_id = dataset, block_len, seed, end_id
        # A window needs one token more, for its last target; what no block fills is where an epoch may begin later.
        self._num_blocks, self._spare = divmod(dataset.total - 1, block_len)
        if self._num_blocks < 1:
            raise ValueError(
                f"{dataset.folder}: {dataset.total} {dataset.split} tokens are too few for one sequence of "
                f"{block_len}; clean more text, or set shorter lengths"
            )
        if vocab_size is not None:
            dataset.check_ids(vocab_size)
        self.epoch_tokens = self._num_blocks * block_len
        vocabulary = dataset.folder / "vocabulary.txt"  # the same ids mean another text under another one
        self.fingerprint = dataset.fingerprint + (f" {hash_file(vocabulary)}" if vocabulary.exists() else "")

    def batch(self, position: int, num_rows: int, seq_len: int) -> Batch:
        """Rows of ``seq_len``, a divisor of ``block_len``, from ``position``, a multiple of it."""
        if seq_len < 1 or self._block_len % seq_len:
            raise ValueError(f"the data are cut for lengths that divide {self._block_len}, the longest of lengths")
        assert position % seq_len == 0
        windows = np.stack([self._window(position + row * seq_len, seq_len) for row in range(num_rows)])
        return windows_batch(windows, self._end_id)

    def _window(self, position: int, seq_len: int) -> NDArray[np.unsignedinteger]:
        block, offset = divmod(position, self._block_len)
        epoch, index = divmod(block, self._num_blocks)
        key = f"{self._seed}/{epoch}"
        start = permute(index, self._num_blocks, key) * self._block_len + keyed_hash(key) % (self._spare + 1) + offset
        return self._dataset.read(start, seq_len + 1)


def windows_batch(windows: NDArray[np.unsignedinteger], end_id: int | None) -> Batch:
    """Ids and the next ids as targets of windows [B, T + 1]; documents numbered where ``end_id`` is given."""
    both = torch.from_numpy(windows.astype(np.int64))
    ids = both[:, :-1].contiguous()
    documents = None
    if end_id is not None:
        ends = (ids == end_id).long()
        documents = ends.cumsum(1) - ends  # the end belongs to its document
    return Batch(ids, both[:, 1:].contiguous(), documents)


def permute(index: int, size: int, key: str) -> int:
    """The ``index``-th element of a keyed permutation of 0 … size − 1, without building it.

    A four-round Feistel network on the next power of four; results outside are sent through again ("cycle walking",
    Black & Rogaway 2002), which keeps it a permutation. Raises AssertionError for an index outside.
    """
    assert 0 <= index < size
    half = max(1, ((size - 1).bit_length() + 1) // 2)  # bits
    while True:
        left, right = index >> half, index & ((1 << half) - 1)
        for number in range(4):
            left, right = right, left ^ (keyed_hash(f"{key}/{number}/{right}") & ((1 << half) - 1))
        index = left << half | right
        if index < size:
            return index


def keyed_hash(text: str) -> int:
    """64 bits that depend on ``text`` alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
