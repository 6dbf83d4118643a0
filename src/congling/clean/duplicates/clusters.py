"""From pairs to what stays: connected documents are dealt into buckets, and each bucket is settled on its texts alone.

In order of rank (best first) a document stays, unless it is near to a better one that stays: then it is dropped for the
best such. Near is what the sets of shingles say, not their signatures, so that each dropped document is truly near to
the one kept in its place; there are no chains. Pairs connect documents into components, which know nothing of each
other: that makes the buckets independent tasks of bounded size, each with its texts in memory.

Bound: a component must fit into the memory of one task, with 4 bytes a letter and 24 a pair.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.characters import Bytes, class_table
from congling.clean.duplicates.fingerprint import Words, find_letters, hash_shingles, shingle_weights
from congling.clean.duplicates.groups import characters_of
from congling.clean.duplicates.job import HALF, LOW, Job, Keys, spans
from congling.corpus.documents import text_buffers

ALONE = 0  # in place of a bucket: a document without pairs; buckets are 1, 2 …
DROPPED = np.dtype([("rank", np.uint32), ("keeper", np.uint32), ("similarity", np.float32)])
_TEXTS = pa.schema([("rank", pa.uint32()), ("text", pa.large_string())])
_STEP = 1 << 20  # pairs or candidates looked at at a time


def deal_pairs(job: Job, names: list[str]) -> list[int]:
    """Writes ``bucket.npy`` (uint16, by rank) and the pairs of each bucket; returns the buckets."""
    if not job.path("bucket.npy").exists():
        parent, pairs = np.arange(len(job.load("rank")), dtype=np.uint32), 0
        paired = np.zeros(len(parent), np.bool_)
        for some in _read_pairs(job, names):
            _join(some, parent, paired)
            pairs += len(some)
        buckets = _count_buckets(job, paired, pairs)
        _flatten(parent)
        bucket = np.where(paired, 1 + parent % buckets, ALONE).astype(np.uint16)
        _split_pairs(job, names, bucket)
        with atomic_open(job.path("bucket.npy")) as file:
            np.save(file, bucket)
    return sorted(int(path.name.partition("-")[2]) for path in job.folder.glob("work/bucket-*"))


def extract_texts(job: Job, number: int) -> None:
    """Copies the texts of a part that are needed: an Arrow file, with a batch for each bucket."""
    if job.path(f"texts-{number:05d}").exists():
        return
    begin, end = np.searchsorted(job.load("rows"), job.first[number : number + 2])
    rank, bucket = job.load("rank")[begin:end], job.load("bucket")
    of = bucket[rank]
    chosen = np.flatnonzero(of)
    local = job.load("rows")[begin:end][chosen] - job.first[number]
    text = pa.concat_arrays([pa.array([], pa.large_string()), *_read_rows(job.files[number], local)])
    order = np.argsort(of[chosen], kind="stable")
    bounds = np.searchsorted(of[chosen][order], np.arange(1, bucket.max() + 2))
    lz4 = pa.ipc.IpcWriteOptions(compression="lz4")
    with atomic_open(job.path(f"texts-{number:05d}")) as file, pa.ipc.new_file(file, _TEXTS, options=lz4) as arrow:
        for low, high in pairwise(bounds):
            these = order[low:high]
            arrow.write_batch(
                pa.record_batch([pa.array(rank[chosen[these]]), text.take(pa.array(these))], schema=_TEXTS)
            )


def settle_bucket(job: Job, number: int) -> None:
    """Writes which documents of a bucket are dropped: DROPPED, ``dropped-<number>.npy``."""
    if job.path(f"dropped-{number:05d}.npy").exists():
        return
    pairs = np.unique(np.fromfile(job.path(f"bucket-{number:05d}"), np.uint64))  # by the worse, then by the better
    ranks = np.unique(np.concatenate([pairs >> HALF, pairs & LOW]))
    places, sets, bounds = _load_sets(job, number, ranks)
    worse, better = (np.searchsorted(ranks, half) for half in (pairs >> HALF, pairs & LOW))
    keeper, similarity = np.arange(len(ranks)), np.ones(len(ranks), np.float32)
    _settle(worse, better, places, sets, bounds, job.jaccard, keeper, similarity)
    gone = np.flatnonzero(keeper != np.arange(len(ranks)))
    dropped = np.empty(len(gone), DROPPED)
    dropped["rank"], dropped["keeper"], dropped["similarity"] = ranks[gone], ranks[keeper[gone]], similarity[gone]
    with atomic_open(job.path(f"dropped-{number:05d}.npy")) as file:
        np.save(file, dropped)


def _read_pairs(job: Job, names: list[str]) -> Iterator[Keys]:
    for name in names:
        with open(job.path(name), "rb") as file:
            while len(pairs := np.fromfile(file, np.uint64, _STEP)):
                yield pairs


def _count_buckets(job: Job, paired: NDArray[np.bool_], pairs: int) -> int:
    """So many that a bucket takes a quarter of the memory."""
    order, priority, letters = job.load("order"), job.load("priority"), 0
    for span in spans(len(paired), _STEP):
        letters += int(characters_of(priority[order[span][paired[span]]]).sum())
    return min(-(-4 * max(4 * letters, 24 * pairs) // job.memory), 0xFFFF) or 1


def _split_pairs(job: Job, names: list[str], bucket: NDArray[np.uint16]) -> None:
    for old in job.folder.glob("work/bucket-*"):
        old.unlink()
    for pairs in _read_pairs(job, names):
        of = bucket[pairs >> HALF]
        order = np.argsort(of, kind="stable")
        numbers, begins = np.unique(of[order], return_index=True)
        for number, some in zip(numbers, np.split(pairs[order], begins[1:]), strict=True):
            with open(job.path(f"bucket-{number:05d}"), "ab") as file:
                some.tofile(file)


def _read_rows(part: Path, rows: NDArray[np.int64]) -> Iterator[pa.Array]:
    """The texts of some rows (ascending) of a part, a row group at a time."""
    with pq.ParquetFile(part) as parquet:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        bounds = np.cumsum([0, *sizes])
        for group in np.unique(np.searchsorted(bounds, rows, "right") - 1):
            begin, end = np.searchsorted(rows, bounds[group : group + 2])
            text = parquet.read_row_group(group, ["text"])["text"].combine_chunks()
            yield text.take(pa.array(rows[begin:end] - bounds[group])).cast(pa.large_string())


def _load_sets(job: Job, number: int, ranks: Keys) -> tuple[NDArray[np.int64], Words, NDArray[np.int64]]:
    """The sets of shingles of a bucket's documents, as hashes of 32 bits one behind the other, where each ends, and
    for each of ``ranks`` which of the sets is its."""
    batches = []
    for part in range(len(job.files)):
        with pa.memory_map(str(job.path(f"texts-{part:05d}"))) as file, pa.ipc.open_file(file) as arrow:
            batches.append(arrow.get_batch(number - 1))
    sets = np.empty(sum(batch["text"].nbytes for batch in batches), np.uint32)  # more than needed is never touched
    bounds, done = np.zeros(len(ranks) + 1, np.int64), 0
    found = np.concatenate([batch["rank"].to_numpy() for batch in batches])
    while batches:
        data, offsets = text_buffers(batches.pop(0)["text"])
        weights = shingle_weights(job.shingle)
        _shingle_sets(data, offsets, class_table(), weights, sets, bounds[done : done + len(offsets)])
        done += len(offsets) - 1
    places = np.empty(len(ranks), np.int64)
    places[np.searchsorted(ranks, found)] = np.arange(len(found))
    return places, sets, bounds


@njit(nogil=True, cache=True)
def _shingle_sets(
    data: Bytes, offsets: NDArray[np.int64], classes: Bytes, weights: Words, sets: Words, bounds: NDArray[np.int64]
) -> None:
    """Writes the set of each document [N] into ``sets`` from ``bounds[0]`` on; bounds [N + 1]: where they end."""
    longest = np.max(offsets[1:] - offsets[:-1]) if len(offsets) > 1 else 0
    letters, shingles = np.empty(longest + 4, np.uint32), np.empty(longest + 4, np.uint32)
    table = np.empty(_slots(longest), np.uint32)
    end = bounds[0]
    for d in range(len(offsets) - 1):
        n, _ = find_letters(data, offsets[d], offsets[d + 1], classes, letters)
        count = hash_shingles(letters, n, weights, shingles)
        mask = _clear(table, count)
        for i in range(count):
            if _insert(table, mask, shingles[i]):
                sets[end] = shingles[i]
                end += 1
        bounds[d + 1] = end


@njit(nogil=True, cache=True)
def _settle(
    worse: NDArray[np.int64],
    better: NDArray[np.int64],
    places: NDArray[np.int64],
    sets: Words,
    bounds: NDArray[np.int64],
    jaccard: float,
    keeper: NDArray[np.int64],
    similarity: NDArray[np.float32],
) -> None:
    """Decides the worse of each pair, from best to worst: its ``keeper`` is the best that stays and is near to it."""
    table = np.empty(_slots(np.max(bounds[1:] - bounds[:-1])), np.uint32)
    mask, filled = 0, -1  # filled: whose set is in the table
    for p in range(len(worse)):
        d, other = worse[p], better[p]
        if keeper[d] != d or keeper[other] != other:
            continue
        one = sets[bounds[places[d]] : bounds[places[d] + 1]]
        two = sets[bounds[places[other]] : bounds[places[other] + 1]]
        if filled != d:
            mask, filled = _clear(table, len(one)), d
            for h in one:
                _insert(table, mask, h)
        alike = _jaccard(table, mask, len(one), two, jaccard)
        if alike >= jaccard:
            keeper[d], similarity[d] = other, alike


@njit(nogil=True, cache=True)
def _jaccard(table: Words, mask: int, size: int, other: Words, least: float) -> float:
    """Of the set in the table and another; 0 as soon as it cannot be ``least``."""
    total = size + len(other)
    misses = int(len(other) - total * least / (1 + least) + 1e-6)  # that leave the intersection large enough
    common = 0
    for i in range(len(other)):
        common += _find(table, mask, other[i])
        if i + 1 - common > misses:
            return 0.0
    return common / (total - common)


@njit(nogil=True, cache=True)
def _slots(count: int) -> int:
    """Of a table for so many: a power of two, at most half full."""
    slots = 8
    while slots < 2 * count:
        slots *= 2
    return slots


@njit(nogil=True, cache=True)
def _clear(table: Words, count: int) -> int:
    """Makes room for so many; returns the mask of the slots in use."""
    slots = _slots(count)
    table[:slots] = 0
    return slots - 1


@njit(nogil=True, cache=True, inline="always")
def _insert(table: Words, mask: int, h: np.uint32) -> bool:
    """False when it is there already."""
    value = h | np.uint32(1)  # 0 marks a free slot
    slot = np.int64(h >> np.uint32(1)) & mask
    while table[slot] != 0:
        if table[slot] == value:
            return False
        slot = (slot + 1) & mask
    table[slot] = value
    return True


@njit(nogil=True, cache=True, inline="always")
def _find(table: Words, mask: int, h: np.uint32) -> bool:
    slot = np.int64(h >> np.uint32(1)) & mask
    while table[slot] != 0:
        if table[slot] == h | np.uint32(1):
            return True
        slot = (slot + 1) & mask
    return False


@njit(nogil=True, cache=True)
def _join(pairs: Keys, parent: Words, paired: NDArray[np.bool_]) -> None:
    """Joins the components of each pair; the root of one is its best document."""
    for pair in pairs:
        a, b = np.int64(pair >> HALF), np.int64(pair & LOW)
        paired[a] = paired[b] = True
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = np.int64(parent[a])
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = np.int64(parent[b])
        parent[max(a, b)] = min(a, b)


@njit(nogil=True, cache=True)
def _flatten(parent: Words) -> None:
    for i in range(len(parent)):  # a parent is better, and so is flat before its children
        parent[i] = parent[parent[i]]
