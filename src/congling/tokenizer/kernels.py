"""Segmentation kernels over Arrow string buffers (bytes, offsets): no Python object a document, no lock held.

A text becomes dense character codes; at each position the trie is walked forward, and every piece found offers the
end of its path a value (a scatter Viterbi). Scores are integers (2⁻²⁰ nats), so results do not depend on the order of
additions. A tie keeps the path whose last piece is longest. Where no single-character piece covers a position, its
bytes are offered as tokens, each at ``BYTE_PENALTY``, which is below any score a piece can have.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.tokenizer.trie import BASE, CHECK, PIECE, SCORE

SCALE = 1 << 20  # score units a nat
BYTE_PENALTY = -40 * SCALE  # a piece counted once in 10¹⁷ has −39 nats
_BYTES = -1  # the mark of a stretch of byte tokens
_NEVER = -(1 << 62)

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


@njit(cache=True, nogil=True)
def decode_utf8(data: Bytes, start: int, end: int, table: Ints, codes: Ints, begins: Longs) -> int:
    """Dense codes of data[start:end] and where each character begins (one entry more at the end); their number.

    A byte that is not part of valid UTF-8 (RFC 3629) is a character of its own with code 0.
    """
    n = 0
    i = start
    while i < end:
        first = np.int64(data[i])
        size = 1
        point = first
        if first >= 0x80:
            size, point = _multi_byte(data, i, end, first)
        begins[n] = i
        codes[n] = table[point] if point >= 0 else 0
        n += 1
        i += size
    begins[n] = end
    return n


@njit(cache=True, nogil=True)
def _multi_byte(data: Bytes, i: int, end: int, first: int) -> tuple[int, int]:
    """(size, code point) of the character at i; (1, −1) when it is not valid."""
    size, point, least = 1, -1, 0
    if 0xC2 <= first <= 0xDF:
        size, point, least = 2, first & 0x1F, 0x80
    elif 0xE0 <= first <= 0xEF:
        size, point, least = 3, first & 0x0F, 0x800
    elif 0xF0 <= first <= 0xF4:
        size, point, least = 4, first & 0x07, 0x10000
    if size == 1 or i + size > end:
        return 1, -1
    for k in range(1, size):
        byte = np.int64(data[i + k])
        if byte & 0xC0 != 0x80:
            return 1, -1
        point = point << 6 | (byte & 0x3F)
    if point < least or point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
        return 1, -1
    return size, point


@njit(cache=True, nogil=True)
def _forward(codes: Ints, n: int, begins: Longs, cells: Ints, best: Longs, origin: Ints, piece: Ints) -> None:
    """Best value of every position, where its last token begins, and which piece it is (−1: bytes)."""
    best[0] = 0
    for j in range(1, n + 1):
        best[j] = _NEVER
    for i in range(n):
        here = best[i]
        slot = 0
        base = cells[BASE]
        k = i
        covered = False
        while k < n and codes[k] != 0 and base >= 0:
            target = base + codes[k]
            if cells[4 * target + CHECK] != slot:
                break
            slot = target
            k += 1
            number = cells[4 * slot + PIECE]
            if number >= 0:
                value = here + cells[4 * slot + SCORE]
                if value > best[k]:
                    best[k] = value
                    origin[k] = i
                    piece[k] = number
                covered = covered or k == i + 1
            base = cells[4 * slot + BASE]
        if not covered:
            value = here + BYTE_PENALTY * (begins[i + 1] - begins[i])
            if value > best[i + 1]:
                best[i + 1] = value
                origin[i + 1] = i
                piece[i + 1] = _BYTES


@njit(cache=True, nogil=True)
def _forward_sample(
    codes: Ints, n: int, begins: Longs, cells: Ints, alpha: float, seed: int, origin: Ints, piece: Ints
) -> None:
    """Draws one path with probability ∝ exp(alpha · its score), by forward filtering and backward sampling.

    total[j] = ln Σ exp(alpha·score) over all paths to j. Backwards from the end, the last token (i, j) is drawn with
    probability exp(total[i] + alpha·score − total[j]); walking the trie from each i once more finds the tokens of j.
    """
    total = np.full(n + 1, -np.inf)
    total[0] = 0.0
    longest = 1
    for i in range(n):
        longest = max(longest, _offer(codes, n, begins, cells, alpha, i, total))
    state = np.uint64(seed)
    j = n
    while j > 0:
        state, unit = _random(state)
        left = unit
        for i in range(max(0, j - longest), j):
            score, number = _edge(codes, begins, cells, i, j)
            if number < _BYTES:
                continue
            left -= math.exp(total[i] + alpha * score - total[j])
            origin[j] = i  # the last one stands when rounding leaves a rest
            piece[j] = number
            if left < 0:
                break
        j = np.int64(origin[j])


@njit(cache=True, nogil=True)
def _offer(codes: Ints, n: int, begins: Longs, cells: Ints, alpha: float, i: int, total: NDArray[np.float64]) -> int:
    """Adds all tokens that begin at i to the totals of their ends; the length of the longest."""
    slot, base, k, longest = 0, cells[BASE], i, 1
    covered = False
    while k < n and codes[k] != 0 and base >= 0:
        target = base + codes[k]
        if cells[4 * target + CHECK] != slot:
            break
        slot = target
        k += 1
        if cells[4 * slot + PIECE] >= 0:
            total[k] = np.logaddexp(total[k], total[i] + alpha * cells[4 * slot + SCORE] / SCALE)
            covered = covered or k == i + 1
            longest = k - i
        base = cells[4 * slot + BASE]
    if not covered:
        penalty = alpha * BYTE_PENALTY / SCALE * (begins[i + 1] - begins[i])
        total[i + 1] = np.logaddexp(total[i + 1], total[i] + penalty)
    return longest


@njit(cache=True, nogil=True)
def _edge(codes: Ints, begins: Longs, cells: Ints, i: int, j: int) -> tuple[float, int]:
    """(score in nats, piece) of the token from i to j; piece −2 when there is none."""
    slot, base = 0, cells[BASE]
    for k in range(i, j):
        target = base + codes[k]
        if codes[k] == 0 or base < 0 or cells[4 * target + CHECK] != slot:
            slot = -1
            break
        slot = target
        base = cells[4 * slot + BASE]
    if slot > 0 and cells[4 * slot + PIECE] >= 0:
        return cells[4 * slot + SCORE] / SCALE, np.int64(cells[4 * slot + PIECE])
    if j == i + 1:
        return BYTE_PENALTY / SCALE * (begins[j] - begins[i]), _BYTES
    return 0.0, _BYTES - 1


@njit(cache=True, nogil=True)
def _random(state: np.uint64) -> tuple[np.uint64, float]:
    """splitmix64 (Steele et al. 2014): the next state, and a number in [0, 1)."""
    state += np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return state, np.float64(z >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True, nogil=True)
def _emit(
    data: Bytes,
    n: int,
    begins: Longs,
    origin: Ints,
    piece: Ints,
    ids: Ints,
    byte_ids: Ints,
    out: NDArray[np.uint32],
    at: int,
) -> int:
    """Writes the ids of the path to n from ``out[at]`` on; returns where they end."""
    count = 0
    j = n
    while j > 0:
        i = np.int64(origin[j])
        count += 1 if piece[j] != _BYTES else begins[j] - begins[i]
        j = i
    place = at + count
    j = n
    while j > 0:
        i = np.int64(origin[j])
        if piece[j] != _BYTES:
            place -= 1
            out[place] = ids[piece[j]]
        else:
            for b in range(begins[j] - 1, begins[i] - 1, -1):
                place -= 1
                out[place] = byte_ids[data[b]]
        j = i
    return at + count


@njit(cache=True, nogil=True)
def encode_documents(
    data: Bytes,
    offsets: Longs,
    cells: Ints,
    table: Ints,
    ids: Ints,
    byte_ids: Ints,
    alpha: float,
    seed: int,
    first: int,
) -> tuple[NDArray[np.uint32], Longs]:
    """Ids of the documents data[offsets[d]:offsets[d + 1]], and their offsets.

    ids [pieces], byte_ids [256]: what pieces and bytes are called. alpha 0: the best path; else a sampled one,
    whose randomness depends on (seed, first + d) alone.
    """
    out = np.empty(offsets[-1] - offsets[0], np.uint32)
    ends = np.zeros(len(offsets), np.int64)
    codes, begins, best, origin, piece = scratch(offsets)
    at = 0
    for d in range(len(offsets) - 1):
        n = decode_utf8(data, offsets[d], offsets[d + 1], table, codes, begins)
        if alpha > 0:
            _forward_sample(codes, n, begins, cells, alpha, mix(seed, first + d), origin, piece)
        else:
            _forward(codes, n, begins, cells, best, origin, piece)
        at = _emit(data, n, begins, origin, piece, ids, byte_ids, out, at)
        ends[d + 1] = at
    return out[:at], ends


@njit(cache=True, nogil=True)
def count_documents(
    data: Bytes, offsets: Longs, cells: Ints, table: Ints, counts: Longs, alpha: float, seed: int, first: int
) -> int:
    """Adds how often each piece is used to ``counts`` [pieces]; returns the number of byte tokens."""
    codes, begins, best, origin, piece = scratch(offsets)
    num_bytes = 0
    for d in range(len(offsets) - 1):
        n = decode_utf8(data, offsets[d], offsets[d + 1], table, codes, begins)
        if alpha > 0:
            _forward_sample(codes, n, begins, cells, alpha, mix(seed, first + d), origin, piece)
        else:
            _forward(codes, n, begins, cells, best, origin, piece)
        j = n
        while j > 0:
            i = np.int64(origin[j])
            if piece[j] == _BYTES:
                num_bytes += begins[j] - begins[i]
            else:
                counts[piece[j]] += 1
            j = i
    return num_bytes


@njit(cache=True, nogil=True)
def mix(seed: int, document: int) -> int:
    """A seed for one document."""
    state, _ = _random(np.uint64(seed) ^ (np.uint64(document) * np.uint64(0xD1342543DE82EF95)))
    return np.int64(state)


@njit(cache=True, nogil=True)
def scratch(offsets: Longs) -> tuple[Ints, Longs, Longs, Ints, Ints]:
    """codes, begins, best, origin, piece for the longest of the documents."""
    longest = 1
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    return (
        np.empty(longest + 1, np.int32),
        np.empty(longest + 1, np.int64),
        np.empty(longest + 1, np.int64),
        np.empty(longest + 1, np.int32),
        np.empty(longest + 1, np.int32),
    )
