"""Candidates for pieces: all character n-grams above a count, by passes that grow only from frequent n-grams.

Pass n finds, at every position, the frequent (n−1)-gram that ends there, and counts it with the character before it:
but only where the (n−1)-gram that ends one position earlier is frequent too (an n-gram occurs no more often than its
parts; Agrawal and Srikant 1994, "Apriori"). What stays below the threshold is forgotten before the next pass, so memory
follows the number of n-grams whose parts are frequent, never that of all. Counts are exact, and the same whatever
the order of the documents or the number of threads.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling import artifact
from congling.tokenizer.characters import joins_of, kinds_of
from congling.tokenizer.kernels import Bytes, decode_utf8, longest_document
from congling.tokenizer.passes import Corpus, Sum
from congling.tokenizer.trie import (
    BYTE_BITS,
    FIRST_CODE,
    MAX_LENGTH,
    NUM_CODE_POINTS,
    Arrays,
    Codes,
    Ints,
    Longs,
    Trie,
    find,
    hash_key,
    make_double_array,
    utf8_sizes,
)

_SHARDS = 4  # of a table of counts: as many threads can add at a time
_CHUNK_BYTES = 1 << 20  # of text counted at a time: its table stays in the cache
_CODE_BITS = 21  # of a key: node << 21 | code


@dataclass(frozen=True)
class Grams:
    """Frequent n-grams, as a trie that is walked from their last character: node 0 is the root, and the parent of an
    n-gram is the one without its first character. parent, code (of the first character), count, depth (n): [nodes].
    """

    parent: Ints
    code: Codes
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

    def trie(self, alive: NDArray[np.bool_], scores: Longs) -> tuple[Trie, Longs]:
        """The trie of the nodes ``alive``, with their scores, and the slot of each of them, in their order."""
        ends = np.flatnonzero(alive)
        kept = alive.copy()
        kept[0] = True
        for depth in range(int(self.depth.max()), 1, -1):
            kept[self.parent[kept & (self.depth == depth)]] = True
        renumbered = np.cumsum(kept) - 1  # parents come before children, so they still do
        parent = renumbered[self.parent[kept]].astype(np.int32)
        numbers = np.arange(1, 1 + len(ends))
        where = renumbered[ends]
        trie = make_double_array(
            parent, self.code[kept], where, scores, numbers, self.byte_sizes()[ends], self.characters
        )
        return trie, trie.slots[where]

    def byte_sizes(self) -> Longs:
        """Length in bytes of each node's n-gram [nodes]."""
        own = np.concatenate([np.zeros(FIRST_CODE, np.int64), utf8_sizes(self.characters)])[self.code]
        own[0] = 0
        for depth in range(2, int(self.depth.max()) + 1):
            nodes = np.flatnonzero(self.depth == depth)
            own[nodes] += own[self.parent[nodes]]
        return own


def find_candidates(
    corpus: Corpus,
    joining: str,
    max_length: int,
    min_frequency: float,
    min_count: int,
    always: Sequence[int] = (),
    begun: Grams | None = None,
) -> Iterator[Grams]:
    """Yields the frequent n-grams after each pass: of 1 character, of 1 … 2, … (joining: see ``characters.py``).

    A single character must occur ``min_count`` times, a longer n-gram also in ``min_frequency`` of all characters.
    always: code points that are candidates even if they do not occur. begun: what an earlier run ended with; goes on
    after it.
    """
    grams = begun
    if grams is None:
        grams = _single_characters(corpus, min_count, always)
        yield grams
    threshold = max(min_count, math.ceil(min_frequency * grams.num_characters))
    while grams.passes < max_length and int(grams.depth[-1]) == grams.passes:  # else the last pass found none
        grams = _grow(corpus, joining, grams, threshold)
        yield grams


def _single_characters(corpus: Corpus, min_count: int, always: Sequence[int]) -> Grams:
    identity = np.arange(FIRST_CODE, FIRST_CODE + NUM_CODE_POINTS, dtype=np.uint32)
    found = Sum(NUM_CODE_POINTS)
    corpus.run(_count_characters, (identity,), found.add)
    points = found.total
    wanted = points >= min_count
    wanted[list(always)] = True
    characters = np.flatnonzero(wanted)
    characters = characters[np.argsort(-points[characters], kind="stable")]
    size = len(characters)
    return Grams(
        parent=np.zeros(size + 1, np.int32),
        code=np.concatenate([[0], np.arange(FIRST_CODE, FIRST_CODE + size)]).astype(np.uint32),
        count=np.concatenate([[0], points[characters]]),
        depth=np.concatenate([[0], np.ones(size)]).astype(np.int32),
        characters=characters,
        num_characters=int(points.sum()),
        passes=1,
    )


def _grow(corpus: Corpus, joining: str, grams: Grams, threshold: int) -> Grams:
    """Adds the n-grams one character longer than the longest so far."""
    length = grams.passes + 1
    nodes = np.arange(1, len(grams.parent))
    none = np.zeros(len(nodes), np.int64)
    trie = make_double_array(grams.parent, grams.code, nodes, none, nodes, none, grams.characters).arrays
    kinds = np.concatenate([np.zeros(FIRST_CODE, np.uint8), kinds_of(grams.characters)])  # by code
    joins = joins_of(joining)
    shards = [_Shard(number) for number in range(_SHARDS)]

    def add(parts: list[tuple[Longs, Longs]]) -> None:
        for found in parts:
            for shard in shards:
                shard.add(*found)

    corpus.run(_count_in_chunks, (kinds, joins, trie, length), add)
    frequent = [shard.counts >= threshold for shard in shards]
    keys = np.concatenate([shard.keys[chosen] for shard, chosen in zip(shards, frequent, strict=True)])
    counts = np.concatenate([shard.counts[chosen] for shard, chosen in zip(shards, frequent, strict=True)])
    order = np.argsort(keys)  # by (parent, code): the same whatever the order of the corpus
    keys = keys[order]
    return Grams(
        parent=np.concatenate([grams.parent, (keys >> _CODE_BITS).astype(np.int32)]),
        code=np.concatenate([grams.code, (keys & ((1 << _CODE_BITS) - 1)).astype(np.uint32)]),
        count=np.concatenate([grams.count, counts[order]]),
        depth=np.concatenate([grams.depth, np.full(len(keys), length, np.int32)]),
        characters=grams.characters,
        num_characters=grams.num_characters,
        passes=length,
    )


class _Shard:
    """The counts of the keys whose hash has the remainder ``number`` of ``_SHARDS``; threads add to it in turn."""

    def __init__(self, number: int) -> None:
        self._number, self._lock = number, Lock()
        self.keys, self.counts = np.full(1 << 14, -1, np.int64), np.zeros(1 << 14, np.int64)
        self._used = 0

    def add(self, keys: Longs, counts: Longs) -> None:
        with self._lock:
            while 2 * (self._used + len(keys) // _SHARDS) > len(self.keys):
                longer, moved = np.full(2 * len(self.keys), -1, np.int64), np.zeros(2 * len(self.keys), np.int64)
                _add_counts(longer, moved, self.keys, self.counts, 0, 1)
                self.keys, self.counts = longer, moved
            self._used += _add_counts(self.keys, self.counts, keys, counts, self._number, _SHARDS)


def _count_in_chunks(
    data: Bytes, offsets: Longs, kinds: Bytes, joins: NDArray[np.bool_], trie: Arrays, length: int
) -> list[tuple[Longs, Longs]]:
    """``_count_grams`` of some documents at a time, so that its table stays in the cache."""
    begin, found = 0, []
    while begin < len(offsets) - 1:
        end = max(begin + 1, int(np.searchsorted(offsets, offsets[begin] + _CHUNK_BYTES)))
        found.append(_count_grams(data, offsets[begin : end + 1], kinds, joins, trie, length))
        begin = end
    return found


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
def _count_characters(data: Bytes, offsets: Longs, identity: Codes) -> Longs:
    """The number of each code point; what is not valid UTF-8 is not counted."""
    points = np.zeros(len(identity), np.int64)
    codes = np.empty(MAX_LENGTH + longest_document(offsets), np.uint32)
    for d in range(len(offsets) - 1):
        n, _ = decode_utf8(data, offsets[d], offsets[d + 1], identity, codes)
        for i in range(MAX_LENGTH, MAX_LENGTH + n):
            if codes[i] >= FIRST_CODE:
                points[codes[i] - FIRST_CODE] += 1
    return points


@njit(cache=True, nogil=True)
def _count_grams(
    data: Bytes, offsets: Longs, kinds: Bytes, joins: NDArray[np.bool_], trie: Arrays, length: int
) -> tuple[Longs, Longs]:
    """Keys (node of the frequent (length − 1)-gram << 21 | code of the character before it) and their counts."""
    characters = 0
    for i in range(offsets[0], offsets[-1]):
        characters += (data[i] & 0xC0) != 0x80
    limit = 64
    while limit < 2 * characters:
        limit *= 2
    keys, counts = np.full(limit, -1, np.int64), np.zeros(limit, np.int64)
    codes = np.zeros(MAX_LENGTH + longest_document(offsets), np.uint32)
    for d in range(len(offsets) - 1):
        n, _ = decode_utf8(data, offsets[d], offsets[d + 1], trie[3], codes)
        run, kind = 0, np.uint8(0)  # characters up to here that may be joined; kind of the one before
        earlier = False  # the (length − 1)-gram that ends one position earlier is frequent
        for end in range(MAX_LENGTH, MAX_LENGTH + n):
            before, kind = kind, kinds[codes[end]]
            run = run + 1 if joins[before, kind] else 1
            node = _find_gram(codes, end, length - 1, trie) if run >= length - 1 else 0
            if node and earlier and run >= length:
                key = np.int64(node) << _CODE_BITS | np.int64(codes[end - length + 1])
                place = find(keys, key)
                keys[place] = key
                counts[place] += 1
            earlier = node > 0
    used = keys != -1
    return keys[used], counts[used]


@njit(inline="always")
def _find_gram(codes: Codes, end: int, length: int, trie: Arrays) -> int:
    """The node of the n-gram of ``length`` characters that ends with codes[end], or 0."""
    link = trie[0]
    slot = np.uint64(codes[end])
    for start in range(end - 1, end - length, -1):
        child = (link[slot] >> np.uint64(32)) + np.uint64(codes[start])
        if link[child] & np.uint64(0xFFFFFFFF) != slot:
            return 0
        slot = child
    return np.int64(trie[2][slot]) >> BYTE_BITS


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
