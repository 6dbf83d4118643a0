"""Finds texts of evaluation sets in documents: seed and extend.

Of each item (an object of the file, or a line of a text file) every string is taken, letters only. Each fourth
letter begins a seed; all runs of letters of a document that are seeds are looked up, first in a filter, and where one
is, both sides are compared letter by letter for as long as they agree. So any run of ``gram`` letters that item and
document share is found, and nothing else is: no error by hash.

A document is contaminated by an item when such runs hold at least half of the item's letters: a proverb or verse that
both quote is no leak, a question is. Brown et al. 2020 (GPT-3, appendix C) count shared 13-grams of words; not
followed, for 13 Chinese characters are a line of verse.
"""

from collections import Counter
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
from congling.clean.characters import Bytes
from congling.clean.letters import (
    MIX,
    NEWLINE,
    PRIME,
    Letters,
    letter_kinds,
    letters_of,
    longest,
    make_filter,
    may_hold,
    read_letters,
)
from congling.corpus.documents import text_buffers
from congling.corpus.readers import find_files, read_documents, read_objects
from congling.corpus.streams import COMPRESSED

_STRIDE = 4  # letters from seed to seed
_SHARE = 0.5  # of an item's letters that must be in the document
_TEMPLATE = 64  # what comes more often than this, a string or a seed, is the wording of the task
_ASCII = 128  # letters below count a quarter: a word of English, or of TeX, says as much as a Chinese character or two
_PLAIN = 4  # a seed of fewer different letters says nothing


class _Index(NamedTuple):
    """Seeds as arrays for the kernels."""

    letters: Letters  # of all strings, a 0 behind each
    item: NDArray[np.int32]  # [letters], of each letter
    least: NDArray[np.int64]  # [items], quarters of letters that contaminate
    size: int  # letters of a seed
    filter: NDArray[np.uint64]  # of them
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
        owners: list[int] = []
        for file in find_files(files):
            for number, item in enumerate(_items(file), 1):
                of_item = list(_strings(item))
                strings += of_item
                owners += [len(names)] * len(of_item)
                names.append(f"{file.name}:{number}")
        times = Counter(strings)
        kept = [k for k, string in enumerate(strings) if times[string] <= _TEMPLATE]
        strings, owners = [strings[k] for k in kept], [owners[k] for k in kept]
        letters, _ = letters_of(pa.array(strings, pa.large_string()))
        sizes = np.diff(np.flatnonzero(letters == 0), prepend=-1) - 1
        owner = np.array(owners, np.int32)
        long_enough = np.unique(owner[sizes >= gram])
        return cls(gram, letters, owner, names, len(names) - len(long_enough))

    def save(self, path: Path) -> None:
        """Writes everything to ``path`` (.npz)."""
        with atomic_open(path) as file:
            np.savez_compressed(
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

    def find(self, text: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of N documents: the letters in runs shared with the item of which most is there [N], ASCII counted a quarter;
        and that item's number where it is half of it or more [N], else −1."""
        data, offsets = text_buffers(text)
        overlap, item = np.zeros(len(text), np.int64), np.full(len(text), -1, np.int64)
        if len(self._index.hashes):
            _find(data, offsets, letter_kinds(), self._index, self.gram, overlap, item)
        return overlap, item

    @cached_property
    def _index(self) -> _Index:
        size = self.gram - _STRIDE + 1
        ends = np.flatnonzero(self.letters == 0)
        sizes = np.diff(ends, prepend=-1)
        item = np.repeat(self.items, sizes)
        hashes, places = np.empty(len(self.letters), np.uint64), np.empty(len(self.letters), np.int64)
        count = _seeds(self.letters, size, hashes, places)
        order = np.argsort(hashes[:count], kind="stable")
        hashes, places = hashes[order], places[order]
        _, group, times = np.unique(hashes, return_inverse=True, return_counts=True)
        told = times[group] <= _TEMPLATE if count else np.zeros(0, np.bool_)
        hashes, places = hashes[told], places[told]
        quarters = np.bincount(
            item, np.where(self.letters == 0, 0, np.where(self.letters < _ASCII, 1, 4)), len(self.names)
        )
        least = np.maximum(np.ceil(_SHARE * quarters), 4 * self.gram).astype(np.int64)
        return _Index(self.letters, item, least, size, make_filter(hashes), hashes, places)


def _items(file: Path) -> Iterator[Any]:
    name = file.stem if file.suffix.lower() in COMPRESSED else file.name
    if name.lower().endswith(".txt"):
        for batch in read_documents(file):
            yield from batch["text"].to_pylist()
        return
    yield from read_objects(file)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


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
    data: Bytes,
    offsets: NDArray[np.int64],
    kinds: Bytes,
    index: _Index,
    gram: int,
    overlap: NDArray[np.int64],
    item: NDArray[np.int64],
) -> None:
    """Fills overlap and item [N]."""
    size, filter, room = index.size, index.filter, longest(offsets)
    power = _power(size)
    letters, ends = np.empty(room, np.uint16), np.empty(room, np.int64)
    seen = np.zeros(len(index.letters), np.int32)  # the last document (from 1) that has this letter in a run
    shared, counted = np.zeros(len(index.least), np.int64), np.zeros(len(index.least), np.int32)
    for d in range(len(overlap)):
        n, _ = read_letters(data, offsets[d], offsets[d + 1], kinds, NEWLINE, letters, ends)
        h, best = np.uint64(0), -1
        for i in range(n):
            gone = np.uint64(letters[i - size]) if i >= size else np.uint64(0)
            h = h * PRIME + (np.uint64(letters[i]) - power * gone)
            if may_hold(filter, h * MIX) and i >= size - 1:
                best = _extend(letters[:n], i - size + 1, h * MIX, index, gram, d + 1, seen, shared, counted, best)
        if best >= 0:
            overlap[d] = shared[best] // 4
            item[d] = best if shared[best] >= index.least[best] else -1


@njit(nogil=True, cache=True)
def _extend(
    letters: Letters,
    i: int,
    h: np.uint64,
    index: _Index,
    gram: int,
    document: int,
    seen: NDArray[np.int32],
    shared: NDArray[np.int64],
    counted: NDArray[np.int32],
    best: int,
) -> int:
    """Adds the runs around letter i of a document, and around each place of the seed that it may be, to what document
    and item share; returns the item of which the document has most, ``best`` if that is still it."""
    text, k = index.letters, np.searchsorted(index.hashes, h)
    while k < len(index.hashes) and index.hashes[k] == h:
        place = index.places[k]
        k += 1
        if seen[place] == document:
            continue
        left, right = 0, 0
        while left < min(i, place) and letters[i - left - 1] == text[place - left - 1]:
            left += 1
        while i + right < len(letters) and letters[i + right] == text[place + right]:
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
