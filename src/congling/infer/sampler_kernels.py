"""The sampler's arithmetic over a vocabulary of 65,536 logits, by numba: a few passes at the speed of the cache.

Nothing is sorted. Tokens lie in blocks of 64 [B, 64], −∞ behind the last, and the maxima of blocks are found first:
most blocks hold nothing that matters and are never looked at again. The edge of top-k or top-p is found by bisection
over the bits of float32, which as whole numbers ("keys") have the order of the numbers: at most 32 counts or sums.
The inner loops are written so that the compiler takes vector registers: fixed lengths, plain indices, no branches.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Words = NDArray[np.uint32]

BLOCK = 64
_LOG2E, _LOWEST = np.float32(math.log2(math.e)), np.float32(-126.0)
_ZERO, _ONE, _SHIFT, _ROUND = np.float32(0.0), np.float32(1.0), np.float32(126.0), np.float32(126.5)
# 2^f for |f| ≤ 1/2, by the least largest relative error: below 1e-7.
_C6, _C5, _C4 = np.float32(1.5353362e-4), np.float32(1.3398874e-3), np.float32(9.6184373e-3)
_C3, _C2, _C1 = np.float32(5.5503324e-2), np.float32(2.4022648e-1), np.float32(6.9314720e-1)
_SUMS = {"reassoc", "contract", "nsz"}  # sums in any order; which one is the same for all calls
_INFINITE = np.float32(np.inf)
_FORBIDDEN = np.float32(-3.4e38)  # what is not above is never kept


@njit(nogil=True, cache=True, inline="always")
def _power(x: float, shift: float, scale: float) -> float:  # e^((x − shift) · scale), x ≤ shift; 0 below 2^−126
    y = (x - shift) * scale * _LOG2E
    low = y < _LOWEST
    y = _LOWEST if low else y
    whole = np.int32(y + _ROUND)  # cut off, which is rounded, as it is positive: 126 too much
    f = y - (np.float32(whole) - _SHIFT)
    p = ((((((_C6 * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f) + _ONE
    return _ZERO if low else p * np.int32((whole + 1) << 23).view(np.float32)


@njit(nogil=True, cache=True, inline="always")
def _turn(bits: int) -> int:  # the bits of a float, as int32, to its key, and back
    return np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@njit(nogil=True, cache=True, inline="always")
def _float(key: int) -> float:
    return _turn(np.int32(key)).view(np.float32)


@njit(nogil=True, cache=True)
def adjust(logits: Floats, ids: Longs, deltas: Floats, words: Words, out: Floats) -> None:
    """out [B, 64] = logits [V] + deltas at ids; −∞ where ``words`` [V / 32] (none: all allowed) has no bit."""
    flat = out.reshape(-1)
    for i in range(len(logits)):
        flat[i] = logits[i]
    flat[len(logits) :] = -np.inf
    for j in range(len(ids)):
        flat[ids[j]] += deltas[j]
    for w in range(len(words)):
        word = words[w]
        if word == np.uint32(0):
            flat[32 * w : 32 * w + 32] = -np.inf
        elif word != np.uint32(0xFFFFFFFF):
            for bit in range(32):
                allowed = (word >> np.uint32(bit)) & np.uint32(1)
                flat[32 * w + bit] = flat[32 * w + bit] if allowed else -_INFINITE


@njit(nogil=True, cache=True)
def block_maxima(values: Floats, maxima: Floats) -> float:
    """The largest of each block [B]; returns the largest of all. Through keys: maxima of whole numbers are quick."""
    bits, keys = values.view(np.int32), maxima.view(np.int32)
    top = np.int32(-(2**31))
    for b in range(len(values)):
        best = np.int32(-(2**31))
        for i in range(BLOCK):
            best = max(best, _turn(bits[b, i]))
        keys[b] = _turn(best)
        top = max(top, best)
    return _float(top)


@njit(nogil=True, cache=True, fastmath=_SUMS)
def block_masses(values: Floats, shift: float, scale: float, masses: Doubles) -> float:
    """Sum of e^((v − shift) · scale) over each block [B]; returns the whole sum."""
    total, shift, scale = 0.0, np.float32(shift), np.float32(scale)  # Python's own numbers come with 64 bits
    for b in range(len(values)):
        mass = _ZERO
        for i in range(BLOCK):
            mass += _power(values[b, i], shift, scale)
        masses[b] = mass
        total += mass
    return total


@njit(nogil=True, cache=True)
def _kth_largest(values: Floats, k: int) -> float:  # [n ≥ k]
    low, high = np.int64(_turn(np.float32(-np.inf).view(np.int32))), np.int64(0x7F800000)  # −∞ … ∞
    while low < high:  # at least k are ≥ low, fewer ≥ high + 1
        middle = (low + high + 1) >> 1
        edge, count = _float(middle), np.int64(0)
        for i in range(len(values)):
            count += values[i] >= edge
        if count >= k:
            low = middle
        else:
            high = middle - 1
    return _float(low)


@njit(nogil=True, cache=True, fastmath=_SUMS)
def _mass_edge(weights: Floats, wanted: float) -> float:
    """The largest edge such that the weights from it upwards have together ``wanted``; 0 if all have less."""
    low, high = np.int64(0), np.int64(0x3F800000)  # 0 … 1, the largest weight
    while low < high:
        middle = (low + high + 1) >> 1
        edge, mass = _float(middle), _ZERO
        for i in range(len(weights)):
            mass += weights[i] if weights[i] >= edge else _ZERO
        if mass >= wanted:
            low = middle
        else:
            high = middle - 1
    return _float(low)


@njit(nogil=True, cache=True)
def _top_edge(values: Floats, maxima: Floats, k: int, found: Ints) -> float:
    """The k-th largest of all. The k-th largest maximum is no larger: blocks below it are not looked at."""
    if k > len(maxima):
        return _kth_largest(values.reshape(-1), k)
    few = found[: gather(values, maxima, _kth_largest(maxima, k), found)]
    return _kth_largest(_taken(values, few), k)


@njit(nogil=True, cache=True)
def gather(values: Floats, maxima: Floats, edge: float, found: Ints) -> int:
    """Places of the values ≥ edge, in order, into ``found``; returns how many.

    A block's comparisons become the 64 bits of a word, in vector registers; then only bits that are set cost time.
    """
    count = 0
    for b in range(len(maxima)):
        if maxima[b] >= edge:
            word = np.uint64(0)
            for i in range(BLOCK):
                word |= np.uint64(values[b, i] >= edge) << np.uint64(i)
            while word:
                lowest = word & (~word + np.uint64(1))
                found[count] = b * BLOCK + ((np.float64(lowest).view(np.int64) >> 52) - 1023)  # its exponent
                count += 1
                word ^= lowest
    return count


@njit(nogil=True, cache=True)
def _taken(values: Floats, places: Ints) -> Floats:
    flat, out = values.reshape(-1), np.empty(len(places), np.float32)
    for j in range(len(places)):
        out[j] = flat[places[j]]
    return out


@njit(nogil=True, cache=True)
def _likeliest(values: Floats, maxima: Floats, top: float) -> int:
    """The first of the largest values; −1 if all are forbidden."""
    for b in range(len(maxima)):
        if maxima[b] == top and top > _FORBIDDEN:
            for i in range(BLOCK):
                if values[b, i] == top:
                    return b * BLOCK + i
    return -1


@njit(nogil=True, cache=True)
def choose(
    logits: Floats,
    ids: Longs,
    deltas: Floats,
    words: Words,
    temperature: float,
    top_k: int,
    top_p: float,
    drop: float,
    u: float,
    values: Floats,
    maxima: Floats,
    masses: Doubles,
    found: Ints,
) -> int:
    """The token for logits [V], after ``adjust``. drop: how far below the largest logit min-p ends (negative).

    values [B, 64], maxima [B], masses [B], found [64 B]: memory to work in. −1: no token is allowed.
    """
    adjust(logits, ids, deltas, words, values)
    top = block_maxima(values, maxima)
    first = _likeliest(values, maxima, top)
    if temperature == 0.0 or first < 0:
        return first
    scale = np.float32(1.0 / max(temperature, 1e-30))
    return _draw(values, maxima, masses, found, top, scale, top_k, top_p, np.float32(top) + np.float32(drop), u)


@njit(nogil=True, cache=True)
def log_mass(logits: Floats, values: Floats, maxima: Floats, masses: Doubles) -> float:
    """ln Σ e^logit; leaves the logits in ``values`` and ``maxima``."""
    adjust(logits, np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.uint32), values)
    top = block_maxima(values, maxima)
    return top + math.log(block_masses(values, top, 1.0, masses))


@njit(nogil=True, cache=True)
def likeliest_few(values: Floats, maxima: Floats, k: int, found: Ints) -> Ints:
    """Places of the k largest, and of what is equal to the k-th, in order."""
    return found[: gather(values, maxima, _top_edge(values, maxima, k, found), found)]


@njit(nogil=True, cache=True)
def _draw(
    values: Floats,
    maxima: Floats,
    masses: Doubles,
    found: Ints,
    top: float,
    scale: float,
    top_k: int,
    top_p: float,
    floor: float,
    u: float,
) -> int:
    """A token with probability ∝ e^(value · scale) of those kept: the first at which the mass, summed in the order of
    ids, is more than u of the whole. floor: the edge of min-p, a logit. −1 if nothing is allowed, or not a number."""
    top, scale, floor, edge = np.float32(top), np.float32(scale), np.float32(floor), _FORBIDDEN
    if 0 < top_k < values.size:
        edge = max(edge, _top_edge(values, maxima, top_k, found))
    if top_p == 1.0 and edge == _FORBIDDEN and floor <= _FORBIDDEN:
        return _walk_blocks(values, masses, top, scale, u)
    if top_p == 1.0:
        few = found[: gather(values, maxima, max(edge, floor), found)]
        return _walk(values, few, _weights(values, few, top, scale), floor, _ZERO, u)
    return _draw_nucleus(values, maxima, masses, found, top, scale, edge, floor, top_p, u)


@njit(nogil=True, cache=True)
def _draw_nucleus(
    values: Floats,
    maxima: Floats,
    masses: Doubles,
    found: Ints,
    top: float,
    scale: float,
    edge: float,
    floor: float,
    top_p: float,
    u: float,
) -> int:
    if edge > _FORBIDDEN:  # top-p is taken of what top-k has kept
        few = found[: gather(values, maxima, edge, found)]
        weights = _weights(values, few, top, scale)
        wanted = top_p * weights.sum()
        return _walk(values, few, weights, floor, _mass_edge(weights, np.float32(wanted)), u)
    whole = block_masses(values, top, scale, masses)
    if not whole > 0.0:
        return -1
    wanted, edge = np.float32(top_p * whole), np.float32(top)
    # Tokens of less than (1 − top_p) / V of the mass have together less than 1 − top_p: the nucleus lies above that.
    # Mostly it is small; so we look among the likeliest tokens first.
    deepest = -math.log(0.999 * (1.0 - top_p) * whole / values.size)
    for depth in (4.0, 8.0, max(8.0, deepest)):
        few = found[: gather(values, maxima, np.float32(top - depth / scale), found)]
        weights = _weights(values, few, top, scale)
        if weights.sum() >= wanted:
            break
    return _walk(values, few, weights, floor, _mass_edge(weights, wanted), u)


@njit(nogil=True, cache=True)
def _weights(values: Floats, places: Ints, top: float, scale: float) -> Floats:
    weights = _taken(values, places)
    for j in range(len(weights)):
        weights[j] = _power(weights[j], top, scale)
    return weights


@njit(nogil=True, cache=True)
def _walk(values: Floats, places: Ints, weights: Floats, floor: float, least: float, u: float) -> int:
    flat, total = values.reshape(-1), 0.0
    for j in range(len(places)):
        if weights[j] < least or flat[places[j]] < floor:
            weights[j] = 0.0
        total += weights[j]
    reached, last = 0.0, -1
    for j in range(len(places)):
        if weights[j] > 0.0:
            reached, last = reached + weights[j], places[j]
            if reached > u * total:
                break
    return last


@njit(nogil=True, cache=True)
def _walk_blocks(values: Floats, masses: Doubles, top: float, scale: float, u: float) -> int:
    wanted, reached, last = u * block_masses(values, top, scale, masses), 0.0, -1
    for b in range(len(masses)):
        if reached + masses[b] > wanted:
            for i in range(BLOCK):
                weight = _power(values[b, i], top, scale)
                if weight > 0.0:
                    reached, last = reached + weight, b * BLOCK + i
                    if reached > wanted:
                        break
            break
        reached += masses[b]
    return last
