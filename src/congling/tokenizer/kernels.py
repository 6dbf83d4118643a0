"""Segmentation kernels over Arrow string buffers (bytes, offsets): no Python object a document, no lock held.

A text becomes dense character codes; from each position the trie is walked backwards, and the best token that ends
there is chosen (Viterbi). Scores are integers (10⁻⁶ nats), so results do not depend on the order of additions. Of
paths that tie, the one whose last token is longest stands. A character that is not a piece by itself may be taken as
byte tokens, ``BYTE_SCORE`` each, which is below any piece; so any bytes have a segmentation.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.tokenizer.trie import BASE, CHECK, LENGTH_BITS, NO_PIECE, SCALE, SCORE, TOKEN, Ints, Longs

_LENGTH_MASK = (1 << LENGTH_BITS) - 1

Bytes = NDArray[np.uint8]
Ids = NDArray[np.uint32]
Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]


@njit(cache=True, nogil=True)
def decode_utf8(data: Bytes, start: int, end: int, table: Ints, codes: Ints, begins: Longs) -> int:
    """Codes of the n characters of data[start:end] in codes[1 … n] (0 at both ends); returns n.

    begins [n + 1]: where each character begins, and ``end``. A byte that is not part of valid UTF-8 (RFC 3629: no
    overlong forms, no surrogates) is a character of its own with code 1.
    """
    n, i = 0, start
    codes[0] = 0
    while i < end:
        first = np.int64(data[i])
        size, point = 1, first
        if first & 0xF0 == 0xE0 and i + 2 < end:  # nearly all Chinese text; written out here, as it is twice as fast
            b, c = np.int64(data[i + 1]), np.int64(data[i + 2])
            size, point = 3, (first & 0x0F) << 12 | (b & 0x3F) << 6 | (c & 0x3F)
            if (b & 0xC0 != 0x80) | (c & 0xC0 != 0x80) | (point < 0x800) | (point >> 11 == 0x1B):
                size, point = 1, -1
        elif first >= 0x80:
            size, point = _two_or_four_bytes(data, i, end, first)
        begins[n] = i
        n += 1
        codes[n] = table[point] if point >= 0 else 1
        i += size
    begins[n] = end
    codes[n + 1] = 0
    return n


@njit(cache=True, nogil=True)
def _two_or_four_bytes(data: Bytes, i: int, end: int, first: int) -> tuple[int, int]:
    """(size, code point) of the character at i; (1, −1) when it is neither."""
    if 0xC2 <= first <= 0xDF and i + 1 < end:
        b = np.int64(data[i + 1])
        if b & 0xC0 == 0x80:
            return 2, (first & 0x1F) << 6 | (b & 0x3F)
    elif 0xF0 <= first <= 0xF4 and i + 3 < end:
        b, c, d = np.int64(data[i + 1]), np.int64(data[i + 2]), np.int64(data[i + 3])
        point = (first & 0x07) << 18 | (b & 0x3F) << 12 | (c & 0x3F) << 6 | (d & 0x3F)
        marks = (b & 0xC0 == 0x80) & (c & 0xC0 == 0x80) & (d & 0xC0 == 0x80)
        if marks & (point >= 0x10000) & (point <= 0x10FFFF):
            return 4, point
    return 1, -1


@njit(cache=True, nogil=True)
def _best_path(codes: Ints, n: int, cells: Ints, best: Longs, back: Ints) -> None:
    """back[j] = last token of the best path to position j, whose score is best[j]."""
    best[0] = 0
    for end in range(1, n + 1):
        slot = np.uint64(codes[end])
        start = end - 1
        top = best[start] + np.int64(cells[slot, SCORE])
        token = cells[slot, TOKEN]
        while True:
            child = np.uint64(np.int64(cells[slot, BASE]) + np.int64(codes[start]))
            if cells[child, CHECK] != np.int64(slot):
                break
            slot = child
            start -= 1
            value = best[start] + np.int64(cells[slot, SCORE])
            longer_wins = value >= top
            token = cells[slot, TOKEN] if longer_wins else token
            top = value if longer_wins else top
        best[end] = top
        back[end] = token


@njit(cache=True, nogil=True)
def _sampled_path(codes: Ints, n: int, cells: Ints, alpha: float, key: np.uint64, total: Floats, back: Ints) -> None:
    """Draws one path with probability exp(alpha · its score) / Σ of that over all paths, exactly.

    total[j] = ln Σ exp(alpha · score) over all paths to j (forward filtering). Going backwards from the end, the token
    (i, j) must have probability exp(total[i] + alpha · score − total[j]). That depends on j alone, so back[j] is drawn
    at once for every j while total[j] is summed up: each further token replaces the one held with its share of the sum
    so far (reservoir sampling).
    """
    unit = alpha / SCALE
    total[0] = 0.0
    for end in range(1, n + 1):
        slot = np.int64(codes[end])
        start = end - 1
        held = total[start] + unit * cells[slot, SCORE]
        back[end] = cells[slot, TOKEN]
        while True:
            child = np.int64(cells[slot, BASE]) + np.int64(codes[start])
            if cells[child, CHECK] != slot:
                break
            slot = child
            start -= 1
            if cells[slot, SCORE] == NO_PIECE:
                continue
            new = total[start] + unit * cells[slot, SCORE]
            held = max(held, new) + math.log1p(math.exp(-abs(held - new)))
            key, share = next_random(key)
            if share < math.exp(new - held):
                back[end] = cells[slot, TOKEN]
        total[end] = held


@njit(cache=True, nogil=True)
def next_random(state: np.uint64) -> tuple[np.uint64, float]:
    """splitmix64 (Steele et al. 2014): the next state, and a number in [0, 1)."""
    state += np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return state, np.float64(z >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True, nogil=True)
def walk_back(data: Bytes, n: int, begins: Longs, back: Ints, byte_numbers: Ints, path: Ids) -> int:
    """Fills ``path`` from its end with the numbers of the tokens of the path to n; returns where they begin."""
    place, j = len(path), n
    while j > 0:
        token = np.int64(back[j])
        if token > _LENGTH_MASK:
            place -= 1
            path[place] = token >> LENGTH_BITS
            j -= token & _LENGTH_MASK
        else:  # the bytes of one character
            for i in range(begins[j] - 1, begins[j - 1] - 1, -1):
                place -= 1
                path[place] = byte_numbers[data[i]]
            j -= 1
    return place


@njit(cache=True, nogil=True)
def encode_documents(
    data: Bytes, offsets: Longs, cells: Ints, table: Ints, byte_ids: Ints, alpha: float, keys: Keys
) -> tuple[Ids, Longs]:
    """Ids of the N documents data[offsets[d]:offsets[d + 1]], and their offsets [N + 1].

    byte_ids [256]: ids of the byte tokens. keys: empty for the best path; else [N], the state of the random numbers
    with which each document's path is drawn (see ``_sampled_path`` for alpha).
    """
    out = np.empty(offsets[-1] - offsets[0], np.uint32)
    ends = np.zeros(len(offsets), np.int64)
    codes, begins, back, path, best, total = _scratch(offsets, len(keys) > 0)
    at = 0
    for d in range(len(offsets) - 1):
        n = decode_utf8(data, offsets[d], offsets[d + 1], table, codes, begins)
        if len(keys):
            _sampled_path(codes, n, cells, alpha, keys[d], total, back)
        else:
            _best_path(codes, n, cells, best, back)
        place = walk_back(data, n, begins, back, byte_ids, path)
        size = len(path) - place
        out[at : at + size] = path[place:]
        at += size
        ends[d + 1] = at
    return out[:at], ends


@njit(cache=True, nogil=True)
def count_documents(
    data: Bytes, offsets: Longs, cells: Ints, table: Ints, byte_ids: Ints, alpha: float, keys: Keys, counts: Longs
) -> None:
    """Adds to ``counts``, by token number, how often each token is used in the documents (see encode_documents)."""
    codes, begins, back, path, best, total = _scratch(offsets, len(keys) > 0)
    for d in range(len(offsets) - 1):
        n = decode_utf8(data, offsets[d], offsets[d + 1], table, codes, begins)
        if len(keys):
            _sampled_path(codes, n, cells, alpha, keys[d], total, back)
        else:
            _best_path(codes, n, cells, best, back)
        for place in range(walk_back(data, n, begins, back, byte_ids, path), len(path)):
            counts[path[place]] += 1


@njit(cache=True, nogil=True)
def _scratch(offsets: Longs, sampling: bool) -> tuple[Ints, Longs, Ints, Ids, Longs, Floats]:
    """codes, begins, back, path, best, total: room for the longest of the documents."""
    size = longest_document(offsets) + 2
    return (
        np.empty(size, np.int32),
        np.empty(size, np.int64),
        np.empty(size, np.int32),
        np.empty(size, np.uint32),
        np.empty(1 if sampling else size, np.int64),
        np.empty(size if sampling else 1, np.float64),
    )


@njit(cache=True, nogil=True)
def longest_document(offsets: Longs) -> int:
    """In bytes; 0 for no documents."""
    longest = 0
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    return longest


@njit(cache=True, nogil=True)
def join_bytes(ids: Longs, data: Bytes, offsets: Longs) -> Bytes:
    """The bytes data[offsets[id]:offsets[id + 1]] of all ids in a row."""
    size = 0
    for n in ids:
        size += offsets[n + 1] - offsets[n]
    out = np.empty(size, np.uint8)
    at = 0
    for n in ids:
        for i in range(offsets[n], offsets[n + 1]):
            out[at] = data[i]
            at += 1
    return out
