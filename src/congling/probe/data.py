"""Rows of probes to train on, each a pure function of (seed, place in the training)."""

from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from congling.evaluate.config import probe_len
from congling.evaluate.probes import Examples, Symbols, examples
from congling.model.loss import IGNORE
from congling.probe.config import ProbeConfig
from congling.train.data import Batch

_Row = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]  # ids, targets, document numbers
_TRAIN, _VALID = 0, 1


class ProbeRows:
    """Rows that several probes share, each a document of its own; only outputs are targets (a ``BatchSource``).

    The longest input of a row grows with its place: 1/8 of ``longest`` at first, all of it from ``growth`` of the
    training on. Half of the rows begin with an input of the longest length; other lengths are drawn evenly.
    """

    def __init__(self, config: ProbeConfig, symbols: Symbols, seed: int) -> None:
        self._config, self._symbols, self._seed = config, symbols, seed
        drawn = f"{config.smallest_alphabet} {config.alphabet}" if config.repeats else f"{config.alphabet} once"
        self.fingerprint = f"probe {config.task} {config.longest} {drawn} {config.growth} {config.tokens} {seed}"

    def batch(self, position: int, num_rows: int, seq_len: int) -> Batch:
        """Rows from ``position`` tokens into the training, a multiple of ``seq_len``."""
        growth = self._config.growth * self._config.tokens
        rows = []
        for place in range(position, position + num_rows * seq_len, seq_len):
            grown = 1.0 if growth == 0 else min(1.0, place / growth)
            rows.append(self._row((_TRAIN, place // seq_len), seq_len, grown))
        return _stack(rows)

    def valid(self, seq_len: int) -> Iterator[Batch]:
        """Held-out rows, about ``valid_tokens``; the same at every call."""
        count = max(self._config.valid_tokens // seq_len, 1)
        rows = (self._row((_VALID, number), seq_len, 1.0) for number in range(count))
        return iter([_stack(list(rows))])

    def _row(self, key: tuple[int, int], seq_len: int, grown: float) -> _Row:
        rng = np.random.default_rng([self._seed, *key])
        c, room = self._config, seq_len
        parts: list[Examples] = []
        longest = max(1, round(c.longest * max(grown, 1 / 8)))
        smallest = c.smallest_alphabet if c.repeats else 0
        fixed = probe_len(c.task, 0) - 1  # places of a probe beside its symbols; the last id is only a target
        each = probe_len(c.task, 1) - 1 - fixed
        while (fits := min(longest, (room - fixed) // each)) > 0:
            length = fits if not parts and rng.random() < 0.5 else int(rng.integers(1, fits + 1))
            parts.append(examples(c.task, length, 1, self._symbols, rng, smallest))
            room -= parts[-1].ids.shape[1] - 1
        ids, targets = np.full(seq_len, self._symbols.end), np.full(seq_len, IGNORE)
        documents = np.full(seq_len, len(parts))
        stops = accumulate(part.ids.shape[1] - 1 for part in parts)
        for number, (part, stop) in enumerate(zip(parts, stops, strict=True)):
            start = stop - part.ids.shape[1] + 1
            ids[start:stop], documents[start:stop] = part.ids[0, :-1], number
            targets[stop - part.answer : stop] = part.ids[0, -part.answer :]
        return ids, targets, documents


def _stack(rows: list[_Row]) -> Batch:
    ids, targets, documents = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
    return Batch(ids, targets, documents)
