"""Finds texts of evaluation sets in documents: seed and extend.

Of each item (an object of the file, or a line of a text file) every string is taken, letters only. Each fourth
letter begins a seed; all runs of letters of a document that are seeds are looked up, first in a filter, and where one
is, both sides are compared letter by letter for as long as they agree. So any run of ``gram`` letters that item and
document share is found, and nothing else is: no error by hash.

A document is contaminated by an item when such runs hold at least half of the item's letters: a proverb or verse that
both quote is no leak, a question is. Brown et al. 2020 (GPT-3, appendix C) count shared 13-grams of words; not
followed, for 13 Chinese characters are a line of verse.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.letters import (
    MIX,
    NEWLINE,
    PRIME,
    Letters,
    Spelled,
    letters_of,
    make_filter,
    may_hold,
)
from congling.corpus.readers import find_files, read_documents, read_objects
from congling.corpus.streams import COMPRESSED

_STRIDE = 4  # letters from seed to seed
_SHARE = 0.5  # of an item's letters that must be in the document
_TEMPLATE = 64  # what comes more often than this, a string or a seed, is the wording of the task
_ASCII = 128  # letters below count a quarter: a word of English, or of TeX, says as much as a Chinese character or two
_WEIGHT = np.array([0, *[1] * (_ASCII - 1), 4])  # of each letter, and of all beyond ASCII
_PLAIN = 4  # a seed of fewer different letters says nothing


class _Index(NamedTuple):
    """Seeds as arrays for the kernels."""

    letters: Letters  # of all strings, a 0 behind each
    item: NDArray[np.int32]  # [letters], of each letter
    least: NDArray[np.int64]  # [items], quarters of letters that contaminate
    size: int  # letters of a seed
    filter: NDArray[np.uint64]  # of them, small enough for a cache
    second: NDArray[np.uint64]  # filter, for those that pass the first
    hashes: NDArray[np.uint64]  # [S], sorted
    places: NDArray[np.int64]  # [S], of the first letter


@dataclass(frozen=True)
class EvalGrams:
    """The items of evaluation sets, as what is looked for in documents."""

    gram: int
    letters: Letters  # of all strings, a 0 behind each
    items: NDArray[np.int32]  # [strings], the item of each
    names: list[str]  # [items], "file:item", from 1
    too_short: int  # items without a string of ``gram`` letters, which cannot be looked for

    @classmethod
    def build(cls, files: Sequence[str | Path], gram: int) -> "EvalGrams":
        """Reads the items of JSON, JSON-lines, Parquet and text files (also in folders). Raises ReadError."""
        names: list[str] = []
        strings: list[str] = []
        ends = [0]
        for file in find_files(files):
            for number, item in enumerate(_items(file), 1):
                _gather(item, strings)
                ends.append(len(strings))
                names.append(f"{file.name}:{number}")
        texts = pa.array(strings, pa.large_string())
        owner = np.repeat(np.arange(len(names), dtype=np.int32), np.diff(ends))
        kind = texts.dictionary_encode().indices.to_numpy()
        rare = np.bincount(kind)[kind] <= _TEMPLATE
        letters, bounds, _ = letters_of(texts, NEWLINE, rare)
        owner = owner[rare]
        long_enough = np.unique(owner[np.diff(bounds) > gram])
        return cls(gram, letters, owner, names, len(names) - len(long_enough))

    def save(self, path: Path) -> None:
        """Writes everything to ``path`` (.npz)."""
        with atomic_open(path) as file:
            np.savez(
                file,
                gram=self.gram,
                letters=self.letters,
                items=self.items,
                names="\n".join(self.names),
                too_short=self.too_short,
            )

    @classmethod
    def load(cls, path: Path) -> "EvalGrams":
        """Of a file that ``save`` wrote."""
        with np.load(path) as file:
            names = str(file["names"]).split("\n")
            return cls(int(file["gram"]), file["letters"], file["items"], names, int(file["too_short"]))

    def find(self, spelled: Spelled) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of N documents: the letters in runs shared with the item of which most is there [N], ASCII counted a quarter;
        and that item's number where it is half of it or more [N], else −1."""
        count = len(spelled.bounds) - 1
        overlap, item = np.zeros(count, np.int64), np.full(count, -1, np.int64)
        _find(spelled.letters, spelled.bounds, self._index, self.gram, *self._notes, overlap, item)
        return overlap, item

    @cached_property
    def _notes(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
        """Kept from batch to batch, as clearing it costs as much as the search (so one thread at a time). Of each
        letter: the last document that has it in a run, numbered over all batches, behind them the last number; of each
        item: the last document that shares a run, and how much it shares."""
        items = len(self.names)
        return np.zeros(len(self.letters) + 1, np.int32), np.zeros(items, np.int32), np.zeros(items, np.int64)

    @cached_property
    def _index(self) -> _Index:
        size = self.gram - _STRIDE + 1
        item = np.repeat(self.items, np.diff(np.flatnonzero(self.letters == 0), prepend=-1))
        hashes, places = np.empty(len(self.letters), np.uint64), np.empty(len(self.letters), np.int64)
        count = _seeds(self.letters, size, hashes, places)
        hashes, places = _without_templates(hashes[:count], places[:count])
        quarters = np.bincount(item, _WEIGHT[np.minimum(self.letters, _ASCII)], len(self.names))
        least = np.maximum(np.ceil(_SHARE * quarters), 4 * self.gram).astype(np.int64)
        filters = make_filter(hashes, 8), make_filter(hashes * PRIME, 32)
        return _Index(self.letters, item, least, size, *filters, hashes, places)


def _items(file: Path) -> Iterator[Any]:
    name = file.stem if file.suffix.lower() in COMPRESSED else file.name
    if name.lower().endswith(".txt"):
        for batch in read_documents(file):
            yield from batch["text"].to_pylist()
        return
    yield from read_objects(file)


def _gather(value: Any, strings: list[str]) -> None:
    """Appends all strings in a value."""
    if isinstance(value, str):
        strings.append(value)
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _gather(part, strings)


def _without_templates(
    hashes: NDArray[np.uint64], places: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Sorted, without the hashes that come more than _TEMPLATE times."""
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    times = np.diff(np.flatnonzero(np.diff(hashes, prepend=~hashes[:1])), append=len(hashes))
    told = np.repeat(times <= _TEMPLATE, times)
    return hashes[told], places[order[told]]


@njit(nogil=True, cache=True)
def _power(size: int) -> np.uint64:
    power = np.uint64(1)
    for _ in range(size):
        power *= PRIME
    return power


@njit(nogil=True, cache=True)
def _seeds(letters: Letters, size: int, hashes: NDArray[np.uint64], places: NDArray[np.int64]) -> int:
    """Fills the hashes and places of the seeds of each string; returns their number."""
    count, begin = 0, 0
    for end in range(len(letters)):
        if letters[end] != 0:
            continue
        for i in range(begin, end - size + 1, _STRIDE):
            different = 0
            for j in range(i, i + size):
                new = 1
                for k in range(i, j):
                    new &= letters[k] != letters[j]
                different += new
            if different < _PLAIN:
                continue
            h = np.uint64(0)
            for j in range(i, i + size):
                h = h * PRIME + np.uint64(letters[j])
            hashes[count], places[count] = h * MIX, i
            count += 1
        begin = end + 1
    return count


@njit(nogil=True, cache=True)
def _find(
    letters: Letters,
    bounds: NDArray[np.int64],
    index: _Index,
    gram: int,
    seen: NDArray[np.int32],
    counted: NDArray[np.int32],
    shared: NDArray[np.int64],
    overlap: NDArray[np.int64],
    item: NDArray[np.int64],
) -> None:
    """Fills overlap and item [N]."""
    begins, hashes = np.empty(len(letters), np.int64), np.empty(len(letters), np.uint64)
    first, d, best = seen[-1] + 1, 0, -1
    for k in range(_candidates(letters, index, begins, hashes)):
        while bounds[d + 1] <= begins[k]:
            d, best = d + 1, -1
        best = _extend(letters, begins[k], hashes[k], index, gram, first + d, seen, counted, shared, best)
        if best >= 0:
            overlap[d] = shared[best] // 4
            item[d] = best if shared[best] >= index.least[best] else -1
    seen[-1] += len(overlap)


@njit(nogil=True, cache=True)
def _candidates(letters: Letters, index: _Index, begins: NDArray[np.int64], hashes: NDArray[np.uint64]) -> int:
    """Fills the places where a seed may begin, and the hashes of what does; returns how many.

    Filters move the place to write to, for a branch would often go wrong. No seed has the 0 between documents in it.
    """
    count, size, h = np.uint64(0), np.uint64(min(index.size, len(letters))), np.uint64(0)
    power, filter = _power(index.size), index.filter
    for i in range(size):
        h = h * PRIME + np.uint64(letters[i])
    for i in range(size, np.uint64(len(letters))):
        mixed = h * MIX
        begins[count], hashes[count] = i - size, mixed
        count += np.uint64(may_hold(filter, mixed))
        h = h * PRIME + (np.uint64(letters[i]) - power * np.uint64(letters[i - size]))
    left = np.uint64(0)
    for k in range(count):
        begins[left], hashes[left] = begins[k], hashes[k]
        left += np.uint64(may_hold(index.second, hashes[k] * PRIME))
    return int(left)


@njit(nogil=True, cache=True)
def _extend(
    letters: Letters,
    i: int,
    h: np.uint64,
    index: _Index,
    gram: int,
    document: int,
    seen: NDArray[np.int32],
    counted: NDArray[np.int32],
    shared: NDArray[np.int64],
    best: int,
) -> int:
    """Adds the runs around letter i, and around each place of the seed that may begin there, to what document and item
    share; returns the item of which the document has most, ``best`` if that is still it."""
    text, k = index.letters, np.searchsorted(index.hashes, h)
    while k < len(index.hashes) and index.hashes[k] == h:
        place = index.places[k]
        k += 1
        if seen[place] == document:
            continue
        left, right = 0, 0
        while left < min(i, place) and letters[i - left - 1] == text[place - left - 1] != 0:
            left += 1
        while letters[i + right] == text[place + right] != 0:  # a 0 ends both
            right += 1
        if left + right < gram or right < index.size:
            continue
        owner = index.item[place]
        if counted[owner] != document:
            counted[owner], shared[owner] = document, 0
        for j in range(place - left, place + right):
            shared[owner] += (1 if text[j] < _ASCII else 4) if seen[j] != document else 0
            seen[j] = document
        if best < 0 or shared[owner] * index.least[best] > shared[best] * index.least[owner]:
            best = owner
    return best
