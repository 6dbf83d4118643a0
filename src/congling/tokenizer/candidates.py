"""Candidates for pieces: all character n-grams above a count, by passes that grow only from frequent n-grams.

Pass n finds, at every position, the frequent (n−1)-gram that ends there, and counts it with the character before it:
but only where the (n−1)-gram that ends one position earlier is frequent too (an n-gram occurs no more often than its
parts; Agrawal and Srikant 1994, "Apriori"). What stays below the threshold is forgotten before the next pass, so memory
follows the number of n-grams whose parts are frequent, never that of all. Counts are exact, and the same whatever
the order of the documents or the number of threads.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling import artifact
from congling.tokenizer.kernels import Bytes, decode_utf8, longest_document
from congling.tokenizer.passes import Corpus, parallel
from congling.tokenizer.trie import (
    BASE,
    CHECK,
    FIRST_CODE,
    LENGTH_BITS,
    NUM_CODE_POINTS,
    TOKEN,
    Ints,
    Longs,
    Trie,
    character_table,
    find,
    hash_key,
    make_cells,
)

_CJK = (0x4E00, 0x9FFF)  # pieces of several characters are made of these alone, as the seed's
_CHUNK_BYTES = 1 << 20  # of text counted at a time: its table stays in the cache
_CODE_BITS = 21  # of a key: node << 21 | code


@dataclass(frozen=True)
class Grams:
    """Frequent n-grams, as a trie that is walked from their last character: node 0 is the root, and the parent of an
    n-gram is the one without its first character. parent, code (of the first character), count, depth (n): [nodes].
    """

    parent: Ints
    code: Ints
    count: Longs
    depth: Ints
    characters: Longs  # code points of the codes 5, 6, …; most frequent first
    num_characters: int  # of the corpus
    passes: int  # longest n-grams looked for so far

    def __len__(self) -> int:
        return len(self.parent) - 1

    def texts(self) -> list[str]:
        """The n-gram of each node (the root: '')."""
        found = [""]
        for parent, code in zip(self.parent[1:].tolist(), self.code[1:].tolist(), strict=True):
            found.append(chr(self.characters[code - FIRST_CODE]) + found[parent])
        return found

    def trie(self, alive: NDArray[np.bool_], scores: Ints) -> Trie:
        """The trie of the nodes ``alive``, with their scores; the n-th of them is found under the number 256 + n."""
        ends = np.flatnonzero(alive)
        kept = alive.copy()
        kept[0] = True
        for depth in range(int(self.depth.max()), 1, -1):
            kept[self.parent[kept & (self.depth == depth)]] = True
        renumbered = np.cumsum(kept) - 1  # parents come before children, so they still do
        parent = renumbered[self.parent[kept]].astype(np.int32)
        numbers = np.arange(256, 256 + len(ends))
        lengths = self.depth[ends].astype(np.int64)
        cells = make_cells(parent, self.code[kept], renumbered[ends], scores, numbers, lengths, self.characters)
        return Trie(cells, character_table(self.characters))


def find_candidates(
    corpus: Corpus, max_length: int, min_frequency: float, min_count: int, threads: int, begun: Grams | None = None
) -> Iterator[Grams]:
    """Yields the frequent n-grams after each pass: of 1 character, of 1 … 2, … (several characters: CJK alone).

    A single character must occur ``min_count`` times, a longer n-gram also in ``min_frequency`` of all characters.
    begun: what an earlier run ended with; goes on after it.
    """
    grams = begun
    if grams is None:
        grams = _single_characters(corpus, min_count, threads)
        yield grams
    threshold = max(min_count, math.ceil(min_frequency * grams.num_characters))
    while grams.passes < max_length:
        grams = _grow(corpus, grams, threshold, threads)
        yield grams


def _single_characters(corpus: Corpus, min_count: int, threads: int) -> Grams:
    points = np.zeros(NUM_CODE_POINTS, np.int64)
    identity = np.arange(FIRST_CODE, FIRST_CODE + NUM_CODE_POINTS, dtype=np.int32)
    for found in parallel(lambda data, offsets: _count_characters(data, offsets, identity), corpus, threads):
        points += found
    characters = np.flatnonzero(points >= min_count)
    characters = characters[np.argsort(-points[characters], kind="stable")]
    size = len(characters)
    return Grams(
        parent=np.zeros(size + 1, np.int32),
        code=np.concatenate([[0], np.arange(FIRST_CODE, FIRST_CODE + size)]).astype(np.int32),
        count=np.concatenate([[0], points[characters]]),
        depth=np.concatenate([[0], np.ones(size)]).astype(np.int32),
        characters=characters,
        num_characters=int(points.sum()),
        passes=1,
    )


def _grow(corpus: Corpus, grams: Grams, threshold: int, threads: int) -> Grams:
    """Adds the n-grams one character longer than the longest so far."""
    length = grams.passes + 1
    nodes = np.arange(1, len(grams.parent))
    cells = make_cells(
        grams.parent, grams.code, nodes, np.zeros(len(nodes)), nodes, grams.depth[1:].astype(np.int64), grams.characters
    )
    table = character_table(grams.characters)
    joins = np.zeros(FIRST_CODE + len(grams.characters), bool)  # by code
    joins[FIRST_CODE:] = (grams.characters >= _CJK[0]) & (grams.characters <= _CJK[1])
    shards = [_Shard(number, threads) for number in range(threads)]

    def job(data: Bytes, offsets: Longs) -> None:
        for part in _chunks(offsets):
            found = _count_grams(data, part, table, joins, cells, length)
            for shard in shards:
                shard.add(*found)

    for _ in parallel(job, corpus, threads):
        pass
    keys = np.concatenate([shard.keys[shard.counts >= threshold] for shard in shards])
    counts = np.concatenate([shard.counts[shard.counts >= threshold] for shard in shards])
    order = np.argsort(keys)  # by (parent, code): the same whatever the order of the corpus
    keys = keys[order]
    return Grams(
        parent=np.concatenate([grams.parent, (keys >> _CODE_BITS).astype(np.int32)]),
        code=np.concatenate([grams.code, (keys & ((1 << _CODE_BITS) - 1)).astype(np.int32)]),
        count=np.concatenate([grams.count, counts[order]]),
        depth=np.concatenate([grams.depth, np.full(len(keys), length, np.int32)]),
        characters=grams.characters,
        num_characters=grams.num_characters,
        passes=length,
    )


class _Shard:
    """The counts of the keys whose hash has the remainder ``number`` of ``of``; threads add to it in turn."""

    def __init__(self, number: int, of: int) -> None:
        self._number, self._of, self._lock = number, of, Lock()
        self.keys, self.counts = np.full(1 << 16, -1, np.int64), np.zeros(1 << 16, np.int64)
        self._used = 0

    def add(self, keys: Longs, counts: Longs) -> None:
        with self._lock:
            while 2 * (self._used + len(keys)) > len(self.keys):
                longer, moved = np.full(2 * len(self.keys), -1, np.int64), np.zeros(2 * len(self.keys), np.int64)
                _add_counts(longer, moved, self.keys, self.counts, 0, 1)
                self.keys, self.counts = longer, moved
            self._used += _add_counts(self.keys, self.counts, keys, counts, self._number, self._of)


def _chunks(offsets: Longs) -> Iterator[Longs]:
    begin = 0
    while begin < len(offsets) - 1:
        end = max(begin + 1, int(np.searchsorted(offsets, offsets[begin] + _CHUNK_BYTES)))
        yield offsets[begin : end + 1]
        begin = end


@njit(cache=True, nogil=True)
def _add_counts(keys: Longs, counts: Longs, new_keys: Longs, new_counts: Longs, remainder: int, of: int) -> int:
    """Adds the counts of the keys (−1: none) of a remainder to a table; returns how many keys were new to it."""
    added = 0
    for n in range(len(new_keys)):
        key = new_keys[n]
        if key == -1 or (of > 1 and (hash_key(key) >> 40) % of != remainder):
            continue
        place = find(keys, key)
        if keys[place] == -1:
            keys[place] = key
            added += 1
        counts[place] += new_counts[n]
    return added


@njit(cache=True, nogil=True)
def _count_characters(data: Bytes, offsets: Longs, identity: Ints) -> Longs:
    """The number of each code point; what is not valid UTF-8 is not counted."""
    points = np.zeros(len(identity), np.int64)
    size = longest_document(offsets) + 2
    codes, begins = np.empty(size, np.int32), np.empty(size, np.int64)
    for d in range(len(offsets) - 1):
        n = decode_utf8(data, offsets[d], offsets[d + 1], identity, codes, begins)
        for i in range(1, n + 1):
            if begins[i] - begins[i - 1] > 1 or data[begins[i - 1]] < 0x80:
                points[codes[i] - FIRST_CODE] += 1
    return points


@njit(cache=True, nogil=True)
def _count_grams(
    data: Bytes, offsets: Longs, table: Ints, joins: NDArray[np.bool_], cells: Ints, length: int
) -> tuple[Longs, Longs]:
    """Keys (node of the frequent (length − 1)-gram << 21 | code of the character before it) and their counts."""
    limit = 64
    while limit < offsets[-1] - offsets[0]:  # characters of CJK have three bytes: at most two thirds of it is used
        limit *= 2
    limit //= 2
    keys, counts = np.full(limit, -1, np.int64), np.zeros(limit, np.int64)
    size = longest_document(offsets) + 2
    codes, begins = np.empty(size, np.int32), np.empty(size, np.int64)
    for d in range(len(offsets) - 1):
        n = decode_utf8(data, offsets[d], offsets[d + 1], table, codes, begins)
        run = 0  # characters up to here that may be joined
        earlier = False  # the (length − 1)-gram that ends one position earlier is frequent
        for end in range(1, n + 1):
            run = run + 1 if joins[codes[end]] else 0
            node = _find_gram(codes, end, length - 1, cells) if run >= length - 1 else 0
            if node and earlier and run >= length:
                key = np.int64(node) << _CODE_BITS | codes[end - length + 1]
                place = find(keys, key)
                keys[place] = key
                counts[place] += 1
            earlier = node > 0
    used = keys != -1
    return keys[used], counts[used]


@njit(cache=True, nogil=True)
def _find_gram(codes: Ints, end: int, length: int, cells: Ints) -> int:
    """The node of the n-gram of ``length`` characters that ends with codes[end], or 0."""
    slot = np.int64(codes[end])
    for start in range(end - 1, end - length, -1):
        child = np.int64(cells[slot, BASE]) + np.int64(codes[start])
        if cells[child, CHECK] != slot:
            return 0
        slot = child
    return np.int64(cells[slot, TOKEN]) >> LENGTH_BITS


def save_grams(grams: Grams, file: Path) -> None:
    """Writes them durably."""
    with artifact.atomic_open(file) as out:
        np.savez(out, allow_pickle=False, **{name: np.asarray(value) for name, value in vars(grams).items()})


def load_grams(file: Path) -> Grams:
    """What ``save_grams`` wrote."""
    with np.load(file, allow_pickle=False) as found:
        numbers = {name: int(found[name]) for name in ("num_characters", "passes")}
        arrays = {name: found[name] for name in found.files if name not in numbers}
        return Grams(**arrays, **numbers)
