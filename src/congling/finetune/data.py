"""Dialogues as packed rows: several to a row, none looks into another, loss on the assistant's words only."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from congling.artifact import hash_json
from congling.chat import read_dialogues, render
from congling.model.loss import IGNORE
from congling.tokenizer.tokenizer import Tokenizer
from congling.train.data import Batch, permute


@dataclass(frozen=True)
class Example:
    """One dialogue: ids [T], and which of them are learned."""

    ids: NDArray[np.int64]
    learned: NDArray[np.bool_]


@dataclass
class Dialogues:
    """Rendered dialogues, split by a hash of their text, with the counts for the summary."""

    train: list[Example]
    valid: list[Example]
    cut: int = 0  # longer than a row: their end is lost
    empty: int = 0  # left out: nothing to learn within a row


def load_dialogues(files: Sequence[Path], tokenizer: Tokenizer, max_len: int, valid_share: float) -> Dialogues:
    """Reads, renders and splits the dialogues. Raises ValueError when nothing is left to learn from."""
    found = Dialogues([], [])
    for file in files:
        for messages in read_dialogues(file):
            ids, learned = render(messages, tokenizer)
            example = Example(np.array([tokenizer.end_id, *ids]), np.array([False, *learned]))
            found.cut += len(example.ids) > max_len
            example = Example(example.ids[:max_len], example.learned[:max_len])
            if not example.learned.any():
                found.empty += 1
                continue
            (found.valid if _share(messages) < valid_share else found.train).append(example)
    if not found.train or not found.valid:
        raise ValueError(
            f"{', '.join(map(str, files))}: {len(found.train)} dialogues to learn and {len(found.valid)} to hold out "
            f"({found.empty} had no assistant text within {max_len} tokens); give more dialogues, or raise "
            "sft.lengths or sft.valid_share"
        )
    return found


def _share(messages: Sequence[object]) -> float:
    """A number in [0, 1) that depends on the dialogue's text alone."""
    return int(hash_json(list(messages))[:8], 16) / 2**32


class PackedDialogues:
    """A ``BatchSource`` of rows filled first-fit with dialogues in a seeded order; rows are shuffled each epoch."""

    def __init__(self, examples: Sequence[Example], row_len: int, seed: int, pad_id: int) -> None:
        self._row_len, self._seed, self._pad = row_len, seed, pad_id
        order = [permute(i, len(examples), f"pack/{seed}") for i in range(len(examples))]
        self._rows = pack([examples[i] for i in order], row_len)
        self.num_rows = len(self._rows)
        self.fingerprint = _fingerprint(examples, row_len, seed)

    def batch(self, position: int, num_rows: int, seq_len: int) -> Batch:
        assert seq_len == self._row_len
        first = position // self._row_len
        return make_batch([self._row(first + n) for n in range(num_rows)], self._row_len, self._pad)

    def _row(self, number: int) -> list[Example]:
        epoch, index = divmod(number, self.num_rows)
        return self._rows[permute(index, self.num_rows, f"{self._seed}/{epoch}")]


def pack(examples: Iterable[Example], row_len: int, open_rows: int = 64) -> list[list[Example]]:
    """First-fit into the last ``open_rows`` unfilled rows of ``row_len`` tokens."""
    rows: list[list[Example]] = []
    room: list[tuple[int, int]] = []  # (row, tokens left), oldest first
    for example in examples:
        size = len(example.ids)
        place = next((n for n, (_, left) in enumerate(room) if left >= size), None)
        if place is None:
            rows.append([example])
            room.append((len(rows) - 1, row_len - size))
        else:
            row, left = room[place]
            rows[row].append(example)
            room[place] = (row, left - size)
        room = [(row, left) for row, left in room if left > 4][-open_rows:]
    return rows


def make_batch(rows: Sequence[Sequence[Example]], row_len: int, pad_id: int) -> Batch:
    """ids, targets (the next token where it is learned) and document numbers (padding: −1), all [B, row_len]."""
    shape = (len(rows), row_len)
    ids = np.full(shape, pad_id, np.int64)
    targets = np.full(shape, IGNORE, np.int64)
    documents = np.full(shape, -1, np.int64)
    for r, row in enumerate(rows):
        start = 0
        for number, example in enumerate(row):
            end = start + len(example.ids)
            ids[r, start:end] = example.ids
            targets[r, start : end - 1] = np.where(example.learned[1:], example.ids[1:], IGNORE)
            documents[r, start:end] = number
            start = end
    return Batch(torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(documents))


def valid_batches(examples: Sequence[Example], row_len: int, pad_id: int, max_tokens: int) -> Iterator[Batch]:
    """The held-out dialogues, packed, about ``max_tokens`` tokens."""
    rows = pack(examples, row_len)[: max(max_tokens // row_len, 1)]
    for first in range(0, len(rows), 16):
        yield make_batch(rows[first : first + 16], row_len, pad_id)


def _fingerprint(examples: Sequence[Example], row_len: int, seed: int) -> str:
    digest = hashlib.blake2b(f"{row_len}/{seed}".encode(), digest_size=16)
    for example in examples:
        digest.update(example.ids.tobytes())
        digest.update(example.learned.tobytes())
    return digest.hexdigest()
