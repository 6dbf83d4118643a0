"""A trie over dense character codes, as a double array.

While it is built a trie is two arrays, ``parent`` and ``code`` of each node (node 0 is the root, parents come before
their children). For walking it becomes one int32 array of cells, four numbers a slot: base, check, score, piece. The
child of slot s by code c is t = base[s] + c, if check[t] = s. One cache line tells all about a step.

Source: Aoe 1989 ("An efficient digital search algorithm by using a double-array structure"); placement is first fit
with a cursor that leaves dense regions behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

BASE, CHECK, SCORE, PIECE = 0, 1, 2, 3  # columns of a cell
_FREE = -1
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
NUM_CODE_POINTS = 0x110000


@dataclass(frozen=True)
class Trie:
    """cells: int32 [4·slots]; table: int32 [0x110000] code point → dense code (0: begins or continues no piece)."""

    cells: NDArray[np.int32]
    table: NDArray[np.int32]


def character_table(characters: Sequence[int]) -> NDArray[np.int32]:
    """Dense codes 1, 2, … for the code points given, in that order."""
    table = np.zeros(NUM_CODE_POINTS, np.int32)
    table[np.asarray(characters, np.int64)] = np.arange(1, len(characters) + 1)
    return table


def make_trie(pieces: Sequence[str], scores: NDArray[np.int32]) -> Trie:
    """The trie of ``pieces`` (distinct, not empty); piece n has score n and is found as number n."""
    text = np.array([ord(c) for piece in pieces for c in piece], np.int64)
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    characters, counts = np.unique(text, return_counts=True)
    table = character_table(characters[np.argsort(-counts, kind="stable")].tolist())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    parent, code, last = _insert(table[text], offsets)
    terminal = np.full(len(parent), -1, np.int32)
    terminal[last] = np.arange(len(pieces))
    return Trie(double_array(parent, code, terminal, scores), table)


def double_array(
    parent: NDArray[np.int32], code: NDArray[np.int32], terminal: NDArray[np.int32], scores: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Cells of the trie (parent, code); terminal [nodes]: number of the piece that ends there, or −1."""
    order = np.lexsort((code[1:], parent[1:])) + 1  # children, grouped by parent
    first = np.searchsorted(parent[order], np.arange(len(parent) + 1))
    base, check, slot = _place(order.astype(np.int64), first.astype(np.int64), code, int(code.max(initial=0)))
    cells = np.zeros((len(base), 4), np.int32)
    cells[:, BASE], cells[:, CHECK], cells[:, PIECE] = base, check, -1
    ends = terminal >= 0
    cells[slot[ends], PIECE] = terminal[ends]
    cells[slot[ends], SCORE] = scores[terminal[ends]]
    return cells.reshape(-1)


@njit(cache=True, nogil=True)
def _insert(codes: Ints, offsets: Longs) -> tuple[Ints, Ints, Ints]:
    """Parent and code of each node, and the last node of each word, for words codes[offsets[n]:offsets[n + 1]]."""
    limit = len(codes) + 1
    size = 4
    while size < 2 * limit:
        size *= 2
    keys = np.full(size, -1, np.int64)
    nodes = np.zeros(size, np.int32)
    parent = np.zeros(limit, np.int32)
    code = np.zeros(limit, np.int32)
    last = np.zeros(len(offsets) - 1, np.int32)
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
def find(keys: Longs, key: int) -> int:
    """Where ``key`` is, or may be put, in a table of a power of two with linear probing (−1: free)."""
    mask = len(keys) - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    place = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))
    while keys[place] != -1 and keys[place] != key:
        place = (place + 1) & mask
    return place


@njit(cache=True, nogil=True)
def _place(order: Longs, first: Longs, code: Ints, max_code: int) -> tuple[Ints, Ints, Longs]:
    """Slots for all nodes; the arrays end with max_code free slots, so that base + code is always inside."""
    num_nodes = len(first) - 1
    capacity = 2 * num_nodes + 4 * max_code + 64
    base = np.full(capacity, -1, np.int32)
    check = np.full(capacity, _FREE, np.int32)
    slot = np.zeros(num_nodes, np.int64)
    check[0] = 0
    cursor, highest = max_code + 1, 0
    for node in range(num_nodes):
        begin, end = first[node], first[node + 1]
        if begin == end:
            continue
        start = cursor
        b, taken, at = _fit(check, code, order, begin, end, start)
        if at - start > 64 and taken * 20 > (at - start) * 19:
            cursor = at  # nearly full up to here: do not look again
        base[slot[node]] = b
        for child in order[begin:end]:
            position = b + code[child]
            slot[child] = position
            check[position] = slot[node]
            highest = max(highest, position)
        if highest + 3 * max_code + 64 > len(check):
            base, check = _longer(base), _longer(check)
    size = highest + max_code + 2
    return base[:size].copy(), check[:size].copy(), slot


@njit(cache=True, nogil=True)
def _fit(check: Ints, code: Ints, order: Longs, begin: int, end: int, start: int) -> tuple[int, int, int]:
    """First base whose slots are free for all children; also how many slots on the way were taken, and where it is."""
    position, taken = start, 0
    lowest = code[order[begin]]
    while True:
        if check[position] != _FREE:
            taken += 1
        else:
            b = position - lowest
            fits = True
            for child in order[begin + 1 : end]:
                if check[b + code[child]] != _FREE:
                    fits = False
                    break
            if fits:
                return b, taken, position
        position += 1


@njit(cache=True, nogil=True)
def _longer(array: Ints) -> Ints:
    longer = np.full(2 * len(array), -1, np.int32)
    longer[: len(array)] = array
    return longer
