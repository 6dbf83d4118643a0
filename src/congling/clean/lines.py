"""Lines that stand in many documents: menus, footers, 点击关注. A line is known by the hash of its letters.

Each task leaves the hashes of its part, sorted, one entry a document that the line stands in. They are merged a stretch
of the hash space at a time, so that memory has a bound; the order of parts does not matter.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.letters import MIX, NEWLINE, PRIME, Letters, letters_of

_AT_ONCE = 1 << 24  # hashes in memory
_1, _2, _3, _4 = (np.uint64(n) for n in (1, 2, 3, 4))


def hash_lines(text: pa.Array, letters: int) -> NDArray[np.uint64]:
    """The hashes of the lines of a batch that have ``letters`` Chinese letters at least, each once a document [M]."""
    return _hash(text, letters)[0]


def _hash(text: pa.Array, letters: int) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """The hashes, and the row of the document of each [M]."""
    spelled = letters_of(text, NEWLINE)
    hashes, documents = np.empty(len(spelled.ends), np.uint64), np.empty(len(spelled.ends), np.int32)
    count = _hash_lines(*spelled, letters, hashes, documents)
    return hashes[:count].copy(), documents[:count].copy()


@njit(nogil=True, cache=True)
def _hash_lines(
    letters: Letters,
    bounds: NDArray[np.int64],
    ends: NDArray[np.int64],
    least: int,
    hashes: NDArray[np.uint64],
    documents: NDArray[np.int32],
) -> int:
    count = k = 0
    for d in range(len(bounds) - 1):
        begin, first = bounds[d], count
        while k < len(ends) and ends[k] < bounds[d + 1]:
            if count_han(letters, begin, ends[k], least) >= least:
                hashes[count] = hash_line(letters, begin, ends[k])
                count += 1
            begin = ends[k]
            k += 1
        count = first + _distinct(hashes[first:count])
        documents[first:count] = d
    return count


@njit(nogil=True, cache=True)
def count_han(letters: Letters, begin: int, end: int, least: int) -> int:
    """Chinese letters in letters[begin:end], counted until there are ``least``."""
    count = 0
    for i in range(np.uint64(begin), np.uint64(end if end - begin >= least else begin)):
        count += 0x3400 <= letters[i] < 0xA000
        if count == least:
            break
    return count


@njit(nogil=True, cache=True)
def hash_line(letters: Letters, begin: int, end: int) -> np.uint64:
    """The hash of letters[begin:end], four at a time."""
    h, i, last = PRIME * np.uint64(end - begin), np.uint64(begin), np.uint64(end)
    while i + _4 <= last:
        four = np.uint64(letters[i]) | np.uint64(letters[i + _1]) << np.uint64(16)
        four |= np.uint64(letters[i + _2]) << np.uint64(32) | np.uint64(letters[i + _3]) << np.uint64(48)
        h = (h ^ four) * MIX
        h ^= h >> np.uint64(32)
        i += _4
    while i < last:
        h = (h ^ np.uint64(letters[i])) * MIX
        h ^= h >> np.uint64(32)
        i += _1
    return h


@njit(nogil=True, cache=True)
def _distinct(hashes: NDArray[np.uint64]) -> int:
    """Brings the different ones to the front and returns their number."""
    if len(hashes) < 2:
        return len(hashes)
    hashes.sort()
    count = 1
    for k in range(1, len(hashes)):
        hashes[count] = hashes[k]
        count += hashes[k] != hashes[count - 1]
    return count


def save_hashes(path: Path, hashes: Iterable[NDArray[np.uint64]]) -> None:
    """Writes what ``hash_lines`` found in the batches of a part, sorted."""
    with atomic_open(path) as file:
        np.save(file, np.sort(np.concatenate([np.empty(0, np.uint64), *hashes])))


def frequent_lines(files: Sequence[Path], documents: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hashes, sorted, of the lines that stand in at least ``documents`` documents, and in how many they do [L].

    files: of ``save_hashes``, in any order.
    """
    parts = [np.load(file, mmap_mode="r") for file in files]
    stretches = max(1, 2 * sum(map(len, parts)) // _AT_ONCE)
    bounds = np.array([k * 2**64 // stretches for k in range(1, stretches)], np.uint64)
    cuts = [np.concatenate([[0], np.searchsorted(part, bounds), [len(part)]]) for part in parts]
    found = [(np.empty(0, np.uint64), np.empty(0, np.int64))]
    for k in range(stretches):
        slices = [part[cut[k] : cut[k + 1]] for part, cut in zip(parts, cuts, strict=True)]
        lines, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *slices]), return_counts=True)
        found.append((lines[counts >= documents], counts[counts >= documents]))
    return np.concatenate([lines for lines, _ in found]), np.concatenate([counts for _, counts in found])


def find_lines(text: pa.Array, hashes: NDArray[np.uint64], letters: int) -> dict[int, str]:
    """Of the lines of some sorted ``hashes`` those in a batch, as they stand there: {place in ``hashes``: line}."""
    found: dict[int, str] = {}
    of_batch, documents = _hash(text, letters)
    for row in np.unique(documents[np.isin(of_batch, hashes)]).tolist():
        lines = pa.array(text[row].as_py().split("\n"), pa.large_string())
        for h, k in zip(*_hash(lines, letters), strict=True):
            place = int(np.searchsorted(hashes, h))
            if place < len(hashes) and hashes[place] == h:
                found.setdefault(place, lines[k].as_py().strip())
    return found
