"""What the tasks of a search share: where the parts are, and how the files of the search are written and read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from congling.clean.duplicates.fingerprint import PERMUTATIONS

Keys = NDArray[np.uint64]
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)  # an entry is 32 bits of a key or an id, and then an id of 32 bits
_TYPES: dict[str, tuple[type, tuple[int, ...]]] = {
    "rows": (np.int64, ()),
    "priority": (np.uint64, ()),
    "signatures": (np.uint8, (PERMUTATIONS,)),
    "order": (np.uint32, ()),
}


@dataclass(frozen=True)
class Job:
    """A search. A *row* is that of a document among all of all parts; a *candidate* one that may have near-duplicates.

    Files of the candidates, in the order of the rows: ``rows``, ``priority`` (less is better), ``signatures``, and
    ``rank.npy`` (uint32, from best to worst); in the order of rank: ``order``, their place among the candidates.
    """

    files: tuple[Path, ...]  # Parquet, with a column "text"
    first: NDArray[np.int64]  # [parts + 1], the row of each part's first document
    folder: Path
    jaccard: float
    shingle: int
    memory: int  # bytes that a task may take for what grows with the number of documents

    def path(self, name: str) -> Path:
        return self.folder / "work" / name

    def load(self, name: str) -> NDArray[Any]:
        """A file of the search, memory-mapped: ``.npy``, or one of those above."""
        if name not in _TYPES:
            array: NDArray[Any] = np.load(self.path(f"{name}.npy"), mmap_mode="r")
            return array
        dtype, shape = _TYPES[name]
        return np.memmap(self.path(name), dtype, "r").reshape(-1, *shape)

    def slice_bits(self, count: int, each: int) -> int:
        """The least b at which 2^-b of ``count`` things of ``each`` bytes fit into the memory."""
        return max(0, int(np.ceil(np.log2(max(1, count) * each / self.memory))))


def spans(count: int, size: int) -> Iterator[slice]:
    """``range(count)`` in slices of ``size``."""
    return (slice(begin, min(begin + size, count)) for begin in range(0, count, size))


def entries(keys: Keys, ids: NDArray[Any], bits: int, number: int) -> Keys:
    """Of the keys that begin with the ``bits`` of slice ``number``: the 32 bits behind them, and the id."""
    chosen = (keys >> HALF) >> np.uint64(32 - bits) == number
    return (keys[chosen] << np.uint64(bits)) & ~LOW | ids[chosen].astype(np.uint64)


def repeated(found: list[Keys]) -> Keys:
    """The entries, sorted, whose 32 bits of key come more than once. Empties the list, to save memory."""
    these = np.concatenate(found) if found else np.empty(0, np.uint64)
    found.clear()
    these.sort()
    same = np.zeros(len(these) + 1, np.bool_)
    same[1:-1] = these[1:] >> HALF == these[:-1] >> HALF
    return these[same[1:] | same[:-1]]
