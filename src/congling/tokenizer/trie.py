"""A trie over dense character codes, as a double array that segmentation kernels walk backwards from each position.

While it is built a trie is two arrays, ``parent`` and ``code`` of each node (node 0 is the root, parents come before
their children). For walking, each slot has a link of 64 bits, base << 32 | check: the child of slot s by code c is
t = base[s] + c, if check[t] = s. So a step reads one number. Every slot is used, but for the codes' own range at the
end: the smaller the array, the more of it stays in the cache.

Every character has a code, so no position is without a token: codes 1 … 4 stand for the characters of 1 … 4 bytes that
no piece contains (a byte that is not UTF-8 is one of 1 byte), then come characters that are in pieces but none
themselves. The slot of a first character is its code.

Source: Aoe 1989 ("An efficient digital search algorithm by using a double-array structure"). Placement is first fit,
nodes with many children first; 64 places are tried at once on a bit map of the free slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

SCALE = 1_000_000  # score units a nat
BYTE_SCORE = -30 * SCALE  # of a byte token: below any piece's, as a piece counted once in 10¹³ has −29.9 nats
LOWEST_SCORE = BYTE_SCORE + 1
NO_PIECE = -(1 << 40)  # score of a slot where no piece ends: below MAX_LENGTH characters of 4 byte tokens each
MAX_LENGTH = 16  # characters of a piece
BYTE_BITS = 7  # a token is number << 7 | length in bytes; number 0: the bytes of one character
FIRST_CODE = 5  # of the characters in pieces
NUM_CODE_POINTS = 0x110000
_WINDOW = 2048  # words behind the last place of a node with many children where another is tried

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Codes = NDArray[np.uint32]
Words = NDArray[np.uint64]
Scores = Longs | NDArray[np.float64]
Arrays = tuple[Words, Longs, Codes, Codes]  # link, scores, tokens [slots]; table: code point → dense code


@dataclass(frozen=True)
class Trie:
    """arrays: what the kernels take. scores are int64 (units of 1/SCALE nats) or the float64 they were made of.

    first_plain: codes from here on are characters that are pieces by themselves. slots: of each node.
    """

    arrays: Arrays
    first_plain: int
    slots: Longs


def character_table(characters: NDArray[np.int64]) -> Codes:
    """Dense codes 5, 6, … for the code points given, in that order; for all others the number of their bytes."""
    table = np.empty(NUM_CODE_POINTS, np.uint32)
    for begin, size in ((0, 1), (0x80, 2), (0x800, 3), (0x10000, 4)):
        table[begin:] = size
    table[characters] = np.arange(FIRST_CODE, FIRST_CODE + len(characters))
    return table


def make_trie(pieces: Sequence[str], scores: Scores, numbers: Longs, byte_score: int = BYTE_SCORE) -> Trie:
    """The trie of ``pieces`` (distinct, not empty), each found under its number (above 0) with its score."""
    text = np.frombuffer("".join(pieces).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    characters, counts = np.unique(text, return_counts=True)
    alone = np.isin(characters, text[offsets[:-1][lengths == 1]])
    characters = characters[np.lexsort((-counts, alone))]
    table = character_table(characters)
    parent, code, last = _insert(table[text], offsets)
    sizes = np.add.reduceat(utf8_sizes(text), offsets[:-1]) if len(pieces) else np.zeros(0, np.int64)
    return make_double_array(parent, code, last, scores, numbers, sizes, characters, byte_score)


def utf8_sizes(points: Longs) -> Longs:
    """Number of bytes of each code point."""
    return 1 + np.searchsorted([0x80, 0x800, 0x10000], points, "right")


def make_double_array(
    parent: Ints,
    code: Codes,
    ends: Longs,
    scores: Scores,
    numbers: Longs,
    sizes: Longs,
    characters: Longs,
    byte_score: int = BYTE_SCORE,
) -> Trie:
    """The trie (parent, code) in which piece n, of sizes[n] bytes, ends at node ``ends[n]``.

    characters: code points of the codes 5, 6, …; first those that are no piece. byte_score: of each byte of a
    character without a piece.
    """
    num_codes = FIRST_CODE + len(characters)
    by_parent = np.argsort(parent[1:], kind="stable") + 1
    first_child = np.searchsorted(parent[by_parent], np.arange(len(parent) + 1))
    num_children = np.diff(first_child)
    order = np.argsort(-num_children, kind="stable")
    order = order[(num_children[order] > 0) & (order > 0)]
    base, slot, size = _place(order, first_child, by_parent, parent, code, num_codes)
    base_of, check = np.zeros(size, np.uint64), np.full(size, 0xFFFFFFFF, np.uint64)
    check[1:num_codes] = 0
    base_of[slot] = base
    inner = parent > 0
    check[slot[inner]] = slot[parent[inner]]
    own, tokens = np.full(size, NO_PIECE, scores.dtype), np.zeros(size, np.uint32)
    tokens[1:num_codes] = np.concatenate([np.arange(1, FIRST_CODE), utf8_sizes(characters)])
    own[1:num_codes] = byte_score * tokens[1:num_codes].astype(np.int64)
    own[slot[ends]] = scores
    tokens[slot[ends]] = numbers << BYTE_BITS | sizes
    first_plain = num_codes - int((tokens[1:num_codes] >> BYTE_BITS > 0).sum())
    return Trie((base_of << np.uint64(32) | check, own, tokens, character_table(characters)), first_plain, slot)


@njit(cache=True, nogil=True)
def _insert(codes: Codes, offsets: Longs) -> tuple[Ints, Codes, Longs]:
    """Parent and code of each node, and the last node of each word codes[offsets[n]:offsets[n + 1]], read from its
    end."""
    limit = len(codes) + 1
    size = 4
    while size < 2 * limit:
        size *= 2
    keys = np.full(size, -1, np.int64)
    nodes = np.zeros(size, np.int32)
    parent = np.zeros(limit, np.int32)
    code = np.zeros(limit, np.uint32)
    last = np.zeros(len(offsets) - 1, np.int64)
    count = 1
    for word in range(len(offsets) - 1):
        node = 0
        for i in range(offsets[word + 1] - 1, offsets[word] - 1, -1):
            key = np.int64(node) << 21 | np.int64(codes[i])
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
    order: Longs, first_child: Longs, by_parent: Longs, parent: Ints, code: Codes, num_codes: int
) -> tuple[Longs, Longs, int]:
    """Base and slot of all nodes, and the number of slots, so many that base + code is always inside."""
    num_nodes = len(parent)
    base, slot = np.zeros(num_nodes, np.int64), np.zeros(num_nodes, np.int64)
    taken = np.zeros((2 * num_nodes + 4 * num_codes) // 64 + 4, np.uint64)  # bit n of word w: slot 64 · w + n
    _take(taken, 0)
    for c in range(num_codes):
        _take(taken, c)
    for node in range(1, num_nodes):
        if parent[node] == 0:
            slot[node] = code[node]
    highest = num_codes
    cursor = first_free = num_codes >> 6  # words where nodes with many children, and with one, begin to look
    for node in order:
        children = by_parent[first_child[node] : first_child[node + 1]]
        position = _fit(taken, code, children, cursor if len(children) > 1 else first_free)
        cursor = max(cursor, (position >> 6) - _WINDOW)
        base[node] = position - np.int64(code[children[0]])
        for child in children:
            slot[child] = base[node] + np.int64(code[child])
            _take(taken, slot[child])
            highest = max(highest, slot[child])
        while taken[first_free] == np.uint64(0xFFFFFFFFFFFFFFFF):
            first_free += 1
        if (highest + 3 * num_codes) >> 6 > len(taken) - 4:
            taken = np.concatenate((taken, np.zeros(len(taken), np.uint64)))
    return base, slot, highest + num_codes + 1


@njit(cache=True, nogil=True)
def _take(taken: Words, slot: int) -> None:
    taken[slot >> 6] |= np.uint64(1) << np.uint64(slot & 63)


@njit(cache=True, nogil=True)
def _fit(taken: Words, code: Codes, children: Longs, word: int) -> int:
    """The first slot from ``word`` on where the first child fits with all others around it."""
    first = np.int64(code[children[0]])
    while True:
        free = ~taken[word]
        if 64 * word <= first:  # base must be above 0
            free &= (
                np.uint64(0) if 64 * word + 63 <= first else ~((np.uint64(2) << np.uint64(first & 63)) - np.uint64(1))
            )
        for child in children[1:]:
            place = 64 * word + np.int64(code[child]) - first
            shift = np.uint64(place & 63)
            bits = taken[place >> 6] >> shift
            if shift:
                bits |= taken[(place >> 6) + 1] << (np.uint64(64) - shift)
            free &= ~bits
            if not free:
                break
        if free:
            bit = 0
            while not free >> np.uint64(bit) & np.uint64(1):
                bit += 1
            return 64 * word + bit
        word += 1


def read_only(array: Any) -> Any:
    """A view that cannot be written to: numba compiles once for such arrays, and once more for writable ones."""
    view = array.view()
    view.flags.writeable = False
    return view
