"""Candidates for pieces: all character n-grams above a count, by passes that grow only from frequent prefixes.

Pass n walks the trie of the frequent (n−1)-grams at every position and counts one character more; what stays below
the threshold is forgotten before the next pass. An n-gram is counted only where the (n−1)-gram after its first
character is frequent too, so memory follows the number of frequent n-grams, not of all.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.tokenizer.kernels import Bytes, Longs, decode_utf8
from congling.tokenizer.trie import NUM_CODE_POINTS, Ints, find

_CJK = (0x4E00, 0x9FFF)  # multi-character pieces are made of these alone, as the seed's
Corpus = Callable[[], Iterable[tuple[Bytes, Longs]]]  # a new pass over (data, offsets) batches


@dataclass
class Grams:
    """Frequent n-grams as a trie: parent, code and count of each node; node 0 is the root."""

    parent: Ints
    code: Ints
    count: Longs
    depth: Ints
    characters: list[int]  # code points of the dense codes 1, 2, …

    def texts(self) -> list[str]:
        """The n-gram of each node but the root."""
        found = [""]
        for parent, code in zip(self.parent[1:].tolist(), self.code[1:].tolist(), strict=True):
            found.append(found[parent] + chr(self.characters[code - 1]))
        return found[1:]


def find_candidates(corpus: Corpus, max_length: int, min_frequency: float, min_count: int) -> tuple[Grams, int]:
    """All n-grams of 1 … max_length characters (longer than one: CJK only) that occur often enough.

    Returns them with the number of characters of the corpus. A single character is a candidate from ``min_count`` on.
    """
    points = np.zeros(NUM_CODE_POINTS, np.int64)
    for data, offsets in corpus():
        _count_characters(data, offsets, points)
    total = int(points.sum())
    threshold = max(min_count, math.ceil(min_frequency * total))
    single = np.flatnonzero(points >= min_count)
    single = single[np.argsort(-points[single], kind="stable")]
    table = np.zeros(NUM_CODE_POINTS, np.int32)
    table[single] = np.arange(1, len(single) + 1)
    grams = Grams(
        parent=np.zeros(len(single) + 1, np.int32),
        code=np.arange(len(single) + 1, dtype=np.int32),
        count=np.concatenate([[0], points[single]]),
        depth=np.concatenate([[0], np.ones(len(single), np.int32)]).astype(np.int32),
        characters=single.tolist(),
    )
    joins = np.concatenate([[False], (single >= _CJK[0]) & (single <= _CJK[1])])  # by dense code
    for length in range(2, max_length + 1):
        if not _grow(corpus, table, joins, grams, length, threshold):
            break
    return grams, total


def _grow(corpus: Corpus, table: Ints, joins: NDArray[np.bool_], grams: Grams, length: int, threshold: int) -> int:
    """Adds the frequent n-grams of ``length`` characters; returns how many."""
    trie = _edges(grams)
    keys, counts = np.full(1 << 16, -1, np.int64), np.zeros(1 << 16, np.int64)
    used = 0
    for data, offsets in corpus():
        start = 0
        while True:  # the kernel stops before a document whose n-grams might not fit into the table
            start, used = _count_grams(data, offsets, start, table, joins, *trie, length, keys, counts, used)
            if start == len(offsets) - 1:
                break
            keys, counts = _rehash(keys, counts)
    keep = (counts >= threshold) & (keys >= 0)
    kept = np.sort(keys[keep])  # by (parent, code): the same whatever the order of the corpus
    place = {key: n for n, key in enumerate(keys[keep].tolist())}
    order = [place[key] for key in kept.tolist()]
    grams.parent = np.concatenate([grams.parent, (kept >> 21).astype(np.int32)])
    grams.code = np.concatenate([grams.code, (kept & ((1 << 21) - 1)).astype(np.int32)])
    grams.count = np.concatenate([grams.count, counts[keep][order]])
    grams.depth = np.concatenate([grams.depth, np.full(len(kept), length, np.int32)])
    return len(kept)


def _edges(grams: Grams) -> tuple[Longs, Ints]:
    """A hash table (parent, code) → node."""
    size = 1 << max(4, (2 * len(grams.parent)).bit_length())
    keys, nodes = np.full(size, -1, np.int64), np.zeros(size, np.int32)
    _fill_edges(grams.parent, grams.code, keys, nodes)
    return keys, nodes


@njit(cache=True, nogil=True)
def _fill_edges(parent: Ints, code: Ints, keys: Longs, nodes: Ints) -> None:
    for node in range(1, len(parent)):
        place = find(keys, np.int64(parent[node]) << 21 | code[node])
        keys[place] = np.int64(parent[node]) << 21 | code[node]
        nodes[place] = node


@njit(cache=True, nogil=True)
def _count_characters(data: Bytes, offsets: Longs, points: Longs) -> None:
    """Adds the number of each code point; what is not valid UTF-8 is not counted."""
    i, end = offsets[0], offsets[-1]
    while i < end:
        first = np.int64(data[i])
        if first < 0x80:
            points[first] += 1
            i += 1
        elif 0xC2 <= first <= 0xDF and i + 1 < end:
            points[(first & 0x1F) << 6 | (np.int64(data[i + 1]) & 0x3F)] += 1
            i += 2
        elif 0xE0 <= first <= 0xEF and i + 2 < end:
            points[(first & 0x0F) << 12 | (np.int64(data[i + 1]) & 0x3F) << 6 | (np.int64(data[i + 2]) & 0x3F)] += 1
            i += 3
        elif 0xF0 <= first <= 0xF4 and i + 3 < end:
            high = (first & 0x07) << 18 | (np.int64(data[i + 1]) & 0x3F) << 12
            points[min(high | (np.int64(data[i + 2]) & 0x3F) << 6 | (np.int64(data[i + 3]) & 0x3F), 0x10FFFF)] += 1
            i += 4
        else:
            i += 1


@njit(cache=True, nogil=True)
def _count_grams(
    data: Bytes,
    offsets: Longs,
    start: int,
    table: Ints,
    joins: NDArray[np.bool_],
    edge_keys: Longs,
    edge_nodes: Ints,
    length: int,
    keys: Longs,
    counts: Longs,
    used: int,
) -> tuple[int, int]:
    """Counts the n-grams of the documents from ``start`` on; returns (the next document, entries of the table)."""
    for d in range(start, len(offsets) - 1):
        size = offsets[d + 1] - offsets[d]
        if 4 * (used + size // 3) > 3 * len(keys):  # its new n-grams might not fit: ask for a longer table first
            return d, used
        codes, begins = np.empty(size + 1, np.int32), np.empty(size + 1, np.int64)
        n = decode_utf8(data, offsets[d], offsets[d + 1], table, codes, begins)
        for i in range(n - length + 1):
            last = codes[i + length - 1]
            if not joins[last]:
                continue
            node = _walk(codes, joins, edge_keys, edge_nodes, i, i + length - 1)
            if node < 0 or _walk(codes, joins, edge_keys, edge_nodes, i + 1, i + length) < 0:
                continue
            key = np.int64(node) << 21 | last
            place = find(keys, key)
            if keys[place] == -1:
                keys[place] = key
                used += 1
            counts[place] += 1
    return len(offsets) - 1, used


@njit(cache=True, nogil=True)
def _walk(codes: Ints, joins: NDArray[np.bool_], edge_keys: Longs, edge_nodes: Ints, start: int, end: int) -> int:
    """The node of codes[start:end], or −1."""
    node = 0
    for k in range(start, end):
        if not joins[codes[k]]:
            return -1
        key = np.int64(node) << 21 | codes[k]
        place = find(edge_keys, key)
        if edge_keys[place] == -1:
            return -1
        node = np.int64(edge_nodes[place])
    return node


@njit(cache=True, nogil=True)
def _rehash(keys: Longs, counts: Longs) -> tuple[Longs, Longs]:
    """The same entries in a table four times as long."""
    longer, moved = np.full(4 * len(keys), -1, np.int64), np.zeros(4 * len(keys), np.int64)
    for n in range(len(keys)):
        if keys[n] != -1:
            place = find(longer, keys[n])
            longer[place] = keys[n]
            moved[place] = counts[n]
    return longer, moved
