"""Pairs that may be near-duplicates, by banding (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, §3.4).

A signature is cut into bands of r bytes; two documents that agree in a whole band fall into one bucket, found by
sorting one band at a time, or a slice of its keys where there are many. In a bucket, a document is paired with the
best ones of it, so that buckets of boilerplate cost no more than others. What is looked at further are pairs whose
signatures agree in as much as one in a thousand pairs at the threshold would not.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.characters import Bytes
from congling.clean.duplicates.fingerprint import PERMUTATIONS
from congling.clean.duplicates.job import HALF, LOW, Job, Keys, entries, repeated, spans

_RECALL = 0.995  # of pairs at the threshold, by the bands
_DEVIATIONS = 3  # below the threshold, of an estimate that is looked at
_WINDOW = 16  # best documents of a bucket that the others are compared with
_ROWS = 1 << 18  # signatures mapped at a time: 32 MB
_PAIRS = 1 << 19  # compared at a time


@dataclass(frozen=True)
class BandTask:
    """A band of a signature, and a slice of its keys."""

    band: int
    bits: int
    number: int

    @property
    def name(self) -> str:
        return f"pairs-{self.band:03d}-{self.number:05d}"


def band_shape(jaccard: float) -> tuple[int, int]:
    """Bytes of a band and number of bands: the longest, then fewest, that find a pair at the threshold in 995 of 1000
    cases, 1 − (1 − jaccard^r)^b."""
    for rows in range(PERMUTATIONS, 0, -1):
        for bands in range(1, PERMUTATIONS // rows + 1):
            if 1 - (1 - jaccard**rows) ** bands >= _RECALL:
                return rows, bands
    return 1, PERMUTATIONS


def band_tasks(job: Job, count: int) -> list[BandTask]:
    bits = job.slice_bits(count, 24)
    return [BandTask(band, bits, n) for band in range(band_shape(job.jaccard)[1]) for n in range(1 << bits)]


def find_pairs(job: Job, task: BandTask) -> None:
    """Writes the pairs of a task: entries of two ranks, that of the worse document first."""
    if job.path(task.name).exists():
        return
    rank, rows = job.load("rank"), band_shape(job.jaccard)[0]
    found = []
    for span in spans(len(rank), _ROWS):
        keys = _band_keys(job.load("signatures")[span, task.band * rows : (task.band + 1) * rows])
        found.append(entries(keys, rank[span], task.bits, task.number))
    members, place = repeated(found), 0
    pairs = np.empty(_PAIRS, np.uint64)
    with atomic_open(job.path(task.name)) as file:
        while place < len(members):
            place, filled = _pair(members, place, pairs)
            _alike(job, pairs[:filled]).tofile(file)


def _alike(job: Job, pairs: Keys) -> Keys:
    """Those whose estimated similarity is not clearly below the threshold."""
    lowest = job.jaccard - _DEVIATIONS * math.sqrt(job.jaccard * (1 - job.jaccard) / PERMUTATIONS)
    least = math.ceil(PERMUTATIONS * (lowest * (1 - 1 / 256) + 1 / 256))
    places = job.load("order")[np.stack([pairs >> HALF, pairs & LOW])]
    members, local = np.unique(places, return_inverse=True)
    # Row by row of the file, not pair by pair: little of it is mapped at a time, and read in order where it is cold.
    signatures = np.empty((len(members), PERMUTATIONS), np.uint8)
    for span in spans(int(members[-1:].sum()) + 1, _ROWS):
        begin, end = np.searchsorted(members, (span.start, span.stop))
        signatures[begin:end] = job.load("signatures")[members[begin:end]]
    return pairs[_agreements(signatures, *local.reshape(places.shape)) >= least]


@njit(nogil=True, cache=True)
def _band_keys(bands: Bytes) -> Keys:
    """A hash of each row [N, r]."""
    keys = np.empty(len(bands), np.uint64)
    for d in range(len(bands)):
        h = np.uint64(0x9E3779B97F4A7C15)
        for k in range(bands.shape[1]):
            h = (h ^ np.uint64(bands[d, k])) * np.uint64(0xC2B2AE3D27D4EB4F)
            h ^= h >> np.uint64(32)
        keys[d] = h * np.uint64(0x9E3779B97F4A7C15)
    return keys


@njit(nogil=True, cache=True)
def _pair(members: Keys, i: int, pairs: Keys) -> tuple[int, int]:
    """Pairs members from the i-th on with the best of their bucket; returns where it stopped, and the pairs made."""
    begin, filled = i, 0
    while begin > 0 and members[begin - 1] >> HALF == members[i] >> HALF:
        begin -= 1
    while i < len(members) and filled + _WINDOW <= len(pairs):
        if members[i] >> HALF != members[begin] >> HALF:
            begin = i
        for j in range(begin, min(i, begin + _WINDOW)):
            pairs[filled] = members[i] << HALF | members[j] & LOW
            filled += 1
        i += 1
    return i, filled


@njit(nogil=True, cache=True)
def _agreements(signatures: Bytes, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """In how many bytes the signatures of each pair are equal."""
    counts = np.zeros(len(one), np.int64)
    for p in range(len(one)):
        a, b = signatures[one[p]], signatures[other[p]]
        equal = np.uint8(0)
        for k in range(PERMUTATIONS):
            equal = np.uint8(equal + np.uint8(a[k] == b[k]))
        counts[p] = equal
    return counts
