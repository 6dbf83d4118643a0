"""A trie over dense character codes, as a double array that a segmentation kernel walks backwards from each position.

While it is built a trie is two arrays, ``parent`` and ``code`` of each node (node 0 is the root, parents come before
their children). For walking it becomes cells, four int32 a slot: base, check, score, token. The child of slot s by
code c is t = base[s] + c, if check[t] = s. One cache line tells all about a step.

Every character has a code, so no position is without a token: codes 1 … 4 stand for the characters of 1 … 4 bytes that
no piece contains (a byte that is not UTF-8 is one of 1 byte). The slot of a first character is its code.

Source: Aoe 1989 ("An efficient digital search algorithm by using a double-array structure"). Placement is first fit,
nodes with many children first; those with one child then fill the holes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

BASE, CHECK, SCORE, TOKEN = 0, 1, 2, 3  # columns of a cell
SCALE = 1_000_000  # score units a nat
BYTE_SCORE = -30 * SCALE  # of a byte token: below any piece's, as a piece counted once in 10¹³ has −29.9 nats
LOWEST_SCORE = BYTE_SCORE + 1
NO_PIECE = -(1 << 31)  # score of a node where no piece ends: below MAX_LENGTH characters of 4 byte tokens each
MAX_LENGTH = 16  # characters of a piece
LENGTH_BITS = 5  # a token is number << 5 | length in characters; number 0: the bytes of one character
FIRST_CODE = 5  # of the characters in pieces
NUM_CODE_POINTS = 0x110000
_DENSE = 256  # slots: where a node fits only so far on, no other with many children is tried

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Trie:
    """cells: int32 [slots, 4]; table: int32 [0x110000] code point → dense code."""

    cells: Ints
    table: Ints


def character_table(characters: NDArray[np.int64]) -> Ints:
    """Dense codes 5, 6, … for the code points given, in that order; for all others the number of their bytes."""
    table = np.empty(NUM_CODE_POINTS, np.int32)
    for begin, size in ((0, 1), (0x80, 2), (0x800, 3), (0x10000, 4)):
        table[begin:] = size
    table[characters] = np.arange(FIRST_CODE, FIRST_CODE + len(characters))
    return table


def make_trie(pieces: Sequence[str], scores: Ints, numbers: Ints, *, backwards: bool = True) -> Trie:
    """The trie of ``pieces`` (distinct, not empty), each found under its number (above 0) with its score.

    backwards: pieces are read from their last character.
    """
    words = [piece[::-1] for piece in pieces] if backwards else pieces
    text = np.array([ord(c) for word in words for c in word], np.int64)
    characters, counts = np.unique(text, return_counts=True)
    characters = characters[np.argsort(-counts, kind="stable")]
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    table = character_table(characters)
    parent, code, last = _insert(table[text], np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
    return Trie(make_cells(parent, code, last, scores, numbers, lengths, characters), table)


def make_cells(
    parent: Ints, code: Ints, ends: Longs, scores: Ints, numbers: Ints, lengths: Longs, characters: Longs
) -> Ints:
    """Cells [slots, 4] of the trie (parent, code) in which piece n ends at node ``ends[n]``.

    characters: code points of the codes 5, 6, …
    """
    num_codes = FIRST_CODE + len(characters)
    by_parent = np.argsort(parent[1:], kind="stable") + 1
    first_child = np.searchsorted(parent[by_parent], np.arange(len(parent) + 1))
    num_children = np.diff(first_child)
    order = np.argsort(-num_children, kind="stable")
    order = order[(num_children[order] > 0) & (order > 0)]
    base, slot, size = _place(order, first_child, by_parent, parent, code, num_codes)
    cells = np.zeros((size, 4), np.int32)
    cells[:, CHECK], cells[:, SCORE], cells[:, TOKEN] = -1, NO_PIECE, 1
    cells[1:num_codes, CHECK] = 0
    sizes = np.concatenate([[1, 2, 3, 4], 1 + np.searchsorted([0x80, 0x800, 0x10000], characters, "right")])
    cells[1:num_codes, SCORE] = BYTE_SCORE * sizes
    cells[slot, BASE] = base
    inner = parent > 0
    cells[slot[inner], CHECK] = slot[parent[inner]]
    cells[slot[ends], SCORE] = scores
    cells[slot[ends], TOKEN] = numbers.astype(np.int64) << LENGTH_BITS | lengths
    return cells


@njit(cache=True, nogil=True)
def _insert(codes: Ints, offsets: Longs) -> tuple[Ints, Ints, Longs]:
    """Parent and code of each node, and the last node of each word, for words codes[offsets[n]:offsets[n + 1]]."""
    limit = len(codes) + 1
    size = 4
    while size < 2 * limit:
        size *= 2
    keys = np.full(size, -1, np.int64)
    nodes = np.zeros(size, np.int32)
    parent = np.zeros(limit, np.int32)
    code = np.zeros(limit, np.int32)
    last = np.zeros(len(offsets) - 1, np.int64)
    count = 1
    for word in range(len(offsets) - 1):
        node = 0
        for i in range(offsets[word], offsets[word + 1]):
            key = np.int64(node) << 21 | codes[i]
            place = find(keys, key)
            if keys[place] == -1:
                keys[place] = key
                nodes[place] = count
                parent[count] = node
                code[count] = codes[i]
                count += 1
            node = nodes[place]
        last[word] = node
    return parent[:count].copy(), code[:count].copy(), last


@njit(cache=True, nogil=True)
def hash_key(key: int) -> int:
    """A mixed, non-negative 63-bit number (Fibonacci hashing)."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(0x7FFFFFFFFFFFFFFF))


@njit(cache=True, nogil=True)
def find(keys: Longs, key: int) -> int:
    """Where ``key`` is, or may be put, in a table of a power of two with linear probing (−1: free)."""
    mask = len(keys) - 1
    place = hash_key(key) & mask
    while keys[place] != -1 and keys[place] != key:
        place = (place + 1) & mask
    return place


@njit(cache=True, nogil=True)
def _place(
    order: Longs, first_child: Longs, by_parent: Longs, parent: Ints, code: Ints, num_codes: int
) -> tuple[Longs, Longs, int]:
    """Base and slot of all nodes, and the number of slots, so many that base + code is always inside."""
    num_nodes = len(parent)
    base, slot = np.zeros(num_nodes, np.int64), np.zeros(num_nodes, np.int64)
    taken = np.zeros(2 * num_nodes + 4 * num_codes, np.bool_)
    taken[:num_codes] = True
    for node in range(1, num_nodes):
        if parent[node] == 0:
            slot[node] = code[node]
    cursor = free = highest = num_codes  # many children are placed from cursor on, an only child at the first free
    for node in order:
        children = by_parent[first_child[node] : first_child[node + 1]]
        if len(children) == 1:
            while taken[free]:
                free += 1
            position = free
        else:
            position = _fit(taken, code, children, cursor)
            if position - cursor > _DENSE:
                cursor = position
        base[node] = position - code[children[0]]
        for child in children:
            slot[child] = base[node] + code[child]
            taken[slot[child]] = True
            highest = max(highest, slot[child])
        if highest + 3 * num_codes > len(taken):
            taken = np.concatenate((taken, np.zeros(len(taken), np.bool_)))
    return base, slot, highest + num_codes + 1


@njit(cache=True, nogil=True)
def _fit(taken: NDArray[np.bool_], code: Ints, children: Longs, start: int) -> int:
    """The first slot from ``start`` on where the first child fits with all others around it."""
    position = start
    while True:
        base = position - code[children[0]]
        fits = base > 0
        for child in children:
            fits = fits and not taken[base + code[child]]
        if fits:
            return position
        position += 1
