"""Exact groups by hash, and the candidates: what is left of them that may have near-duplicates, from best to worst.

Best is the document with the most characters; ties go by the hash of all characters, and only between equal texts by
the row: order and names of the input files have no say in which text stays.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.duplicates.fingerprint import load_fingerprints, load_hashes
from congling.clean.duplicates.job import LOW, Job, Keys, entries, repeated, spans

Alive = Sequence[NDArray[np.bool_]]  # a part each
_LONGEST = (1 << 24) - 1  # characters that count in the priority
_STEP = 1 << 22  # candidates looked at at a time


def exact_groups(job: Job, alive: Alive) -> NDArray[np.int64]:
    """For each row that of the best document with the same letters, its own where that is itself: [N], ``leader.npy``.

    Slice by slice of the hashes: those of which 32 bits come more than once are then compared in full.
    """
    if not job.path("leader.npy").exists():
        leader = np.arange(job.first[-1])
        bits = job.slice_bits(sum(int(stays.sum()) for stays in alive), 64)
        for number in range(1 << bits):
            found = []
            for part, first, stays in zip(job.files, job.first[:-1], alive, strict=True):
                local = np.flatnonzero(stays)
                found.append(entries(load_hashes(part)[local, 0], first + local, bits, number))
            _settle(job, np.sort(repeated(found) & LOW).astype(np.int64), leader)
        with atomic_open(job.path("leader.npy")) as file:
            np.save(file, leader)
    return job.load("leader")


def _settle(job: Job, rows: NDArray[np.int64], leader: NDArray[np.int64]) -> None:
    """Finds the groups among some rows (ascending)."""
    hashes, lengths = [np.empty((0, 3), np.uint64)], [np.empty(0, np.int64)]
    bounds = np.searchsorted(rows, job.first)
    for number in np.flatnonzero(np.diff(bounds)):
        prints = load_fingerprints(job.files[number])
        local = rows[bounds[number] : bounds[number + 1]] - job.first[number]
        hashes.append(prints.hashes[local])
        lengths.append(prints.lengths[local, 0].astype(np.int64))
    found = np.concatenate(hashes)
    order = np.lexsort((found[:, 2], -np.concatenate(lengths), found[:, 1], found[:, 0]))  # stable: lastly by row
    found, rows = found[order], rows[order]
    leads = np.ones(len(rows), np.bool_)
    leads[1:] = (found[1:, :2] != found[:-1, :2]).any(1)
    leader[rows] = rows[leads][np.cumsum(leads) - 1]


def select_candidates(job: Job, alive: Alive, leader: NDArray[np.int64]) -> int:
    """Writes the files of the candidates (see ``Job``); returns the number of these."""
    if job.path("rank.npy").exists():
        return len(job.load("rank"))
    count = 0
    with ExitStack() as stack:
        names = ("rows", "priority", "signatures")
        rows, priority, signatures = (stack.enter_context(atomic_open(job.path(name))) for name in names)
        for number, stays in enumerate(alive):
            prints, first = load_fingerprints(job.files[number]), job.first[number]
            leads = leader[first : first + len(stays)] == np.arange(first, first + len(stays))
            chosen = np.flatnonzero(stays & leads & (prints.lengths[:, 1] >= job.shingle))
            (first + chosen).tofile(rows)
            fewer = (_LONGEST - np.minimum(prints.lengths[chosen, 0], _LONGEST)).astype(np.uint64)
            (fewer << np.uint64(40) | prints.hashes[chosen, 2] >> np.uint64(24)).tofile(priority)
            prints.signatures[chosen].tofile(signatures)
            count += len(chosen)
    _rank(job, count)
    return count


def characters_of(priority: Keys) -> Keys:
    """The characters of documents, from their priority."""
    return np.uint64(_LONGEST) - (priority >> np.uint64(40))


def _rank(job: Job, count: int) -> None:
    """Sorts the candidates by priority, a range of priorities at a time."""
    rank, begin = np.empty(count, np.uint32), 0
    with atomic_open(job.path("order")) as file:
        for these in _by_priority(job, count):
            rank[these] = np.arange(begin, begin + len(these), dtype=np.uint32)
            begin += len(these)
            these.tofile(file)
    with atomic_open(job.path("rank.npy")) as file:
        np.save(file, rank)


def _by_priority(job: Job, count: int) -> Iterator[NDArray[np.uint32]]:
    if not count:
        return
    priority, ranges = job.load("priority"), 1 << job.slice_bits(count, 32)
    sample = np.sort(priority[:: max(1, count // 65536)])
    for low, high in pairwise([0, *sample[len(sample) * np.arange(1, ranges) // ranges].tolist(), 2**64 - 1]):
        inside = [s.start + np.flatnonzero((priority[s] >= low) & (priority[s] < high)) for s in spans(count, _STEP)]
        these = np.concatenate(inside)
        yield these[np.argsort(priority[these], kind="stable")].astype(np.uint32)
