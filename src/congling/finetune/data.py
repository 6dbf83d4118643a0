"""Dialogues as packed rows: several to a row, none looks into another, loss on the assistant's words only."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from congling.artifact import hash_json
from congling.chat import Message, read_dialogues, render
from congling.model.loss import IGNORE
from congling.tokenizer.tokenizer import Tokenizer
from congling.train.data import Batch, permute


@dataclass(frozen=True)
class Examples:
    """N rendered dialogues, one behind the other: five bytes a token, so that millions fit into memory."""

    ids: NDArray[np.uint32]  # [tokens]
    learned: NDArray[np.bool_]  # [tokens]
    offsets: NDArray[np.int64]  # [N + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, n: int) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        part = slice(self.offsets[n], self.offsets[n + 1])
        return self.ids[part], self.learned[part]

    def select(self, numbers: NDArray[np.int64]) -> "Examples":
        """Some of them, in the order of ``numbers``."""
        parts = [self[n] for n in numbers]
        ids, learned = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        return Examples(ids, learned, np.cumsum([0, *(len(part[0]) for part in parts)], dtype=np.int64))


@dataclass(frozen=True)
class Dialogues:
    """Rendered dialogues, split by a hash of their text, with the counts for the summary."""

    train: Examples
    valid: Examples
    cut: int  # longer than a row: lost their last messages
    too_long: int  # left out: not even their first answer fits into a row
    silent: int  # left out: the assistant says nothing


def load_dialogues(files: Sequence[Path], tokenizer: Tokenizer, row_len: int, valid_share: float) -> Dialogues:
    """Reads, renders and splits the dialogues. Raises ValueError when there is nothing to learn or to hold out."""
    ids, learned, sizes, shares = bytearray(), bytearray(), [0], []
    cut = too_long = silent = 0
    for messages in (m for file in files for m in read_dialogues(file)):
        if not any(m["role"] == "assistant" and m["content"] for m in messages):
            silent += 1
            continue
        kept, row, mask = _fit(messages, tokenizer, row_len)
        if not any(mask):
            too_long += 1
            continue
        cut += kept < len(messages)
        ids += np.array(row, np.uint32).tobytes()
        learned += np.array(mask, np.bool_).tobytes()
        sizes.append(len(row))
        shares.append(_share(messages))
    if len(shares) < 2:
        raise ValueError(
            f"{', '.join(map(str, files))}: {len(shares)} dialogues to learn from, at least 2 are needed "
            f"({silent} without assistant text, {too_long} whose first answer does not fit into {row_len} tokens); "
            "give other dialogues, or raise sft.lengths"
        )
    every = Examples(np.frombuffer(ids, np.uint32), np.frombuffer(learned, np.bool_), np.cumsum(sizes, dtype=np.int64))
    held_out = _held_out(np.array(shares), valid_share)
    train, valid = (every.select(np.flatnonzero(chosen)) for chosen in (~held_out, held_out))
    return Dialogues(train, valid, cut, too_long, silent)


def _fit(messages: Sequence[Message], tokenizer: Tokenizer, row_len: int) -> tuple[int, list[int], list[bool]]:
    """The longest beginning, in whole messages, that fits into a row: number of messages, ids, learned."""
    for kept in range(len(messages), 0, -1):
        ids, learned = render(messages[:kept], tokenizer)
        if len(ids) < row_len:  # the end of the text before it comes first, as when the model is asked
            return kept, [tokenizer.end_id, *ids], [False, *learned]
    return 0, [], []


def _share(messages: Sequence[Message]) -> float:
    """A number in [0, 1) that depends on the dialogue's text alone."""
    return int(hash_json(list(messages))[:8], 16) / 2**32


def _held_out(shares: NDArray[np.float64], valid_share: float) -> NDArray[np.bool_]:
    """Which dialogues are held out; at least one, and never all."""
    chosen = shares < valid_share
    chosen[shares.argmin()] = True
    chosen[shares.argmax()] = False
    return chosen


class PackedDialogues:
    """A ``BatchSource`` of rows filled first-fit with dialogues in a seeded order; rows are shuffled each epoch."""

    def __init__(self, examples: Examples, row_len: int, seed: int, pad_id: int) -> None:
        self._examples, self._row_len, self._seed, self._pad = examples, row_len, seed, pad_id
        order = [permute(n, len(examples), f"pack/{seed}") for n in range(len(examples))]
        self._rows = pack(np.diff(examples.offsets), order, row_len)
        self.num_rows = len(self._rows)
        self.fingerprint = _fingerprint(examples, row_len)

    def batch(self, position: int, num_rows: int, seq_len: int) -> Batch:
        """The ``num_rows`` rows from ``position`` tokens into the training; seq_len is the length of the rows."""
        if seq_len != self._row_len:
            raise ValueError(f"the dialogues are packed into rows of {self._row_len} tokens")
        first = position // self._row_len
        rows = [self._rows[self._number(first + n)] for n in range(num_rows)]
        return make_batch(self._examples, rows, self._row_len, self._pad)

    def _number(self, row: int) -> int:
        epoch, index = divmod(row, self.num_rows)
        return permute(index, self.num_rows, f"{self._seed}/{epoch}")


def pack(sizes: NDArray[np.int64], order: Sequence[int], row_len: int, open_rows: int = 64) -> list[list[int]]:
    """Numbers of the examples of each row: first-fit, in ``order``, into the last ``open_rows`` unfilled rows."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (row, tokens left), oldest first
    for number in order:
        size = int(sizes[number])
        place = next((n for n, (_, left) in enumerate(room) if left >= size), None)
        if place is None:
            rows.append([])
            room = [*room[1 - open_rows :], (len(rows) - 1, row_len)]
            place = len(room) - 1
        row, left = room[place]
        rows[row].append(number)
        room[place] = (row, left - size)
    return rows


def make_batch(examples: Examples, rows: Sequence[Sequence[int]], row_len: int, pad_id: int) -> Batch:
    """ids, targets (the next token where it is learned) and document numbers (padding: −1), all [B, row_len]."""
    shape = (len(rows), row_len)
    ids = np.full(shape, pad_id, np.int64)
    targets = np.full(shape, IGNORE, np.int64)
    documents = np.full(shape, -1, np.int64)
    for r, row in enumerate(rows):
        start = 0
        for number in row:
            text, learned = examples[number]
            end = start + len(text)
            ids[r, start:end] = text
            targets[r, start : end - 1] = np.where(learned[1:], text[1:].astype(np.int64), IGNORE)
            documents[r, start:end] = number
            start = end
    return Batch(torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(documents))


def valid_batches(examples: Examples, row_len: int, pad_id: int, max_tokens: int) -> Iterator[Batch]:
    """The held-out dialogues, packed, about ``max_tokens`` tokens."""
    rows = pack(np.diff(examples.offsets), range(len(examples)), row_len)[: max(max_tokens // row_len, 1)]
    for first in range(0, len(rows), 16):
        yield make_batch(examples, rows[first : first + 16], row_len, pad_id)


def _fingerprint(examples: Examples, row_len: int) -> str:
    digest = hashlib.blake2b(str(row_len).encode(), digest_size=16)
    for array in (examples.ids, examples.learned, examples.offsets):
        digest.update(array.data)
    return digest.hexdigest()
