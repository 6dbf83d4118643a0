"""Between pass 1 and 2: what can be judged only when all documents are known: quantile limits, and duplicates."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.config import CleanConfig
from congling.clean.duplicates.search import find_duplicates
from congling.clean.parts import STAYS, part_counts, part_file
from congling.clean.rules import FIRST_RULE, REASONS, has_quantiles, judge, resolve_limits
from congling.corpus.executor import Pool
from congling.reporter import Reporter

DUPLICATE, NEAR_DUPLICATE = REASONS.index("duplicate"), REASONS.index("near_duplicate")


@dataclass(frozen=True)
class Parts:
    """All parts in order. A document's id is its row among all of them: its place in the input."""

    files: tuple[Path, ...]

    @cached_property
    def counts(self) -> list[dict[str, Any]]:
        return [part_counts(file) for file in self.files]

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """The id of the first document of each part, and the number of all [P + 1]."""
        return np.cumsum([0, *(counts["rows"] for counts in self.counts)])

    def load(self, number: int, name: str) -> NDArray[Any]:
        """A side file of a part, memory-mapped."""
        array: NDArray[Any] = np.load(part_file(self.files[number], name), mmap_mode="r")
        return array

    def slice(self, number: int) -> slice:
        """The ids of a part."""
        return slice(int(self.first[number]), int(self.first[number + 1]))


@dataclass(frozen=True)
class Compared:
    """The verdicts so far on N documents, in files of ``folder`` (``limits.npy`` is written last)."""

    folder: Path

    def load(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array

    @property
    def limits(self) -> NDArray[np.float64]:
        """[R, 2]"""
        return np.array(self.load("limits"))

    @property
    def reason(self) -> NDArray[np.int16]:
        """[N], STAYS or an index into REASONS"""
        return self.load("reason")

    @property
    def kept(self) -> NDArray[np.int64]:
        """[N], the id of the document that stands for each; its own where it stays"""
        return self.load("duplicates/kept")

    @property
    def similarity(self) -> NDArray[np.float32]:
        """[N], Jaccard similarity to that one"""
        return self.load("duplicates/similarity")


def compare(parts: Parts, folder: Path, config: CleanConfig, pool: Pool, reporter: Reporter) -> Compared:
    """Writes the verdicts unless they are there."""
    compared = Compared(folder)
    if (folder / "limits.npy").exists():
        return compared
    limits = resolve_limits(config, sum(parts.load(i, "histograms.npy")[1] for i in range(len(parts.files))))
    reason = np.empty(parts.first[-1], np.int16)
    for i in range(len(parts.files)):
        reason[parts.slice(i)] = _within(parts, i, limits, has_quantiles(config))
    alive = [reason[parts.slice(i)] == STAYS for i in range(len(parts.files))]
    found = find_duplicates(parts.files, alive, config.jaccard, config.shingle, folder / "duplicates", pool, reporter)
    twin = (found.kept != np.arange(len(found.kept))) & (reason == STAYS)
    reason[twin] = np.where(found.exact[twin], DUPLICATE, NEAR_DUPLICATE)
    for name, array in (("reason", reason), ("limits", limits)):
        with atomic_open(folder / f"{name}.npy") as file:
            np.save(file, array)
    return compared


def _within(parts: Parts, number: int, limits: NDArray[np.float64], quantiles: bool) -> NDArray[np.int16]:
    """The reasons of a part, those of quantile limits too."""
    reason = np.array(parts.load(number, "rows.npy")["reason"])
    if quantiles:
        stays = np.flatnonzero(reason == STAYS)
        broken = judge(np.asarray(parts.load(number, "measures.npy")[stays]), limits)
        reason[stays] = np.where(broken == STAYS, STAYS, broken + FIRST_RULE)
    return reason
