"""Probes: copying, reversing and adding sequences of any length, scored by exact match (SEED §3 names the tasks).

A probe is one sequence of ids, ``end input separator output end``: nothing in it numbers the places. Inputs are drawn
from an alphabet, each symbol once at most ("no repeats") or with replacement. Where symbols come again, only those
beside them tell the places apart: see ``collisions``. Letters: N sequences, T ids, n length of the input.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from congling.evaluate.config import ProbeTask
from congling.model.transformer import Transformer
from congling.tokenizer.tokenizer import Tokenizer

_SCORES_AT_ONCE = 1 << 25  # attention scores of one layer that a batch may hold


@dataclass(frozen=True)
class Symbols:
    """The ids that probes are written in."""

    end: int
    separator: int
    plus: int
    digits: NDArray[np.int64]  # [10]
    alphabet: NDArray[np.int64]

    @classmethod
    def of(cls, tokenizer: Tokenizer, size: int) -> "Symbols":
        """``=``, ``+`` and the digits; as alphabet the ``size`` first pieces of one character that are none of them.

        Raises ValueError when the vocabulary has fewer.
        """
        separator, plus, *digits = (tokenizer.encode(character)[0] for character in "=+0123456789")
        first, pieces = tokenizer.vocabulary.first_id, tokenizer.vocabulary.pieces
        alone = [first + n for n, piece in enumerate(pieces) if len(piece) == 1 and piece not in "=+0123456789"]
        if len(alone) < size:
            raise ValueError(
                f"probes want an alphabet of {size} symbols, the vocabulary has {len(alone)} pieces of one character; "
                "lower the alphabet"
            )
        return cls(tokenizer.end_id, separator, plus, np.array(digits), np.array(alone[:size]))


class Examples(NamedTuple):
    """ids: [N, T]; the output and its end are the last ``answer`` of the T."""

    ids: NDArray[np.int64]
    answer: int


def examples(
    task: ProbeTask, length: int, count: int, symbols: Symbols, rng: np.random.Generator, smallest: int = 0
) -> Examples:
    """``count`` probes with inputs of ``length`` ≥ 1 symbols (add: two numbers of ``length`` digits each).

    copy: x₁ … xₙ → the same. reverse: xₙ … x₁. add: digits least significant first, n + 1 of them in the sum.
    smallest: 0: no repeats; else with replacement, each sequence from a random part of the alphabet, whose size is
    log-uniform from this to the whole. Raises ValueError without repeats when the alphabet is too small.
    """
    end, separator = (np.full((count, 1), x) for x in (symbols.end, symbols.separator))
    if task == "add":
        terms = rng.integers(0, 10, (2, count, length))
        plus = np.full((count, 1), symbols.plus)
        a, b, total = (symbols.digits[x] for x in (terms[0], terms[1], _add(terms)))
        return Examples(np.concatenate((end, a, plus, b, separator, total, end), axis=1), length + 2)
    x = _inputs(length, count, symbols.alphabet, rng, smallest)
    y = x if task == "copy" else x[:, ::-1]
    return Examples(np.concatenate((end, x, separator, y, end), axis=1), length + 1)


def _inputs(
    length: int, count: int, alphabet: NDArray[np.int64], rng: np.random.Generator, smallest: int
) -> NDArray[np.int64]:
    """[N, n] symbols."""
    parts = np.stack([rng.permutation(alphabet) for _ in range(count)])
    if smallest == 0:
        if length > len(alphabet):
            raise ValueError(f"{length} symbols without repeats need an alphabet that large, not of {len(alphabet)}")
        return parts[:, :length]
    sizes = np.exp(rng.uniform(np.log(smallest), np.log(len(alphabet)), count)).round()
    picks = (rng.random((count, length)) * sizes[:, None]).astype(np.int64)
    return np.take_along_axis(parts, picks, axis=1)


def _add(terms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Digits [N, n + 1] of the sums of two numbers [2, N, n], all least significant first."""
    columns, carry = [], np.zeros(terms.shape[1], np.int64)
    for column in terms.sum(0).T:
        carry, digit = np.divmod(column + carry, 10)
        columns.append(digit)
    return np.stack([*columns, carry], axis=1)


class Score(NamedTuple):
    """Shares, 0–1: of sequences without one error, and of their ids (the end included) that are right."""

    exact: float
    symbols: float


@torch.no_grad()
def score(model: Transformer, probes: Examples) -> Score:
    """How the model, in float32, answers. Leaves its mode as it was.

    One pass over the finished sequence: an answer of which every id is the likeliest after the ones before is the
    greedy answer, so that the share of exact ones is that of greedy decoding. ``symbols`` is with the right ids before.
    """
    training, device = model.training, model.embedding.device
    model.eval()
    rows = max(1, _SCORES_AT_ONCE // (model.architecture.num_heads * probes.ids.shape[1] ** 2))
    hits = [_hits(model, torch.from_numpy(part).to(device), probes.answer) for part in _split(probes.ids, rows)]
    model.train(training)
    found = torch.cat(hits)
    return Score(float(found.all(dim=1).float().mean()), float(found.float().mean()))


def _hits(model: Transformer, ids: torch.Tensor, answer: int) -> torch.Tensor:
    """[N, answer] whether the likeliest id is the right one."""
    hidden = model(ids[:, :-1])[:, -answer:]  # [N, answer, D]
    return (model.logits(hidden).argmax(-1) == ids[:, -answer:]).cpu()


def _split(ids: NDArray[np.int64], rows: int) -> Iterable[NDArray[np.int64]]:
    return (ids[first : first + rows] for first in range(0, len(ids), rows))


def extrapolation(
    model: Transformer, task: ProbeTask, lengths: Sequence[int], sequences: int, symbols: Symbols, repeats: bool = False
) -> dict[int, Score]:
    """The score at each length, over ``sequences`` probes from the whole alphabet: the same ones at every call."""
    found = {}
    for length in lengths:
        rng = np.random.default_rng([0, length])
        found[length] = score(
            model, examples(task, length, sequences, symbols, rng, len(symbols.alphabet) if repeats else 0)
        )
    return found


def collisions(length: int, alphabet: int, context: int) -> float:
    """Expected number of ordered pairs of places, in one input drawn with replacement, of which ``context`` symbols in
    a row are the same: where a model that looks at so many cannot know which one it is at."""
    return length * (length - 1) / alphabet**context


def table(task: ProbeTask, found: Mapping[int, Score]) -> list[str]:
    """Lines for people."""
    return [f"{task}: exact {s.exact:7.1%}, symbols {s.symbols:8.3%} at {n}" for n, s in found.items()]
