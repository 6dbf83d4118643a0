"""Kernels of the classifier: hashed runs of 1 to 4 characters, their weighted sum, and learning the weights.

A run of k characters counts 2^(1 − k): equal counts overfit on some hundred labels, because most long runs are rare
(measured: docs/log.md). The evidence z of a document is the sum of the weights of its runs, divided by the root of
their number: more text may say more, as it would with independent observations. Digits count as one character, ASCII
letters as lower case, white space but the line break as one space. A document's first CHARACTERS are read.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import Bytes, decode
from congling.corpus.documents import text_buffers

BUCKETS = 1 << 18  # weights; 1 MB of float32, what a core's L2 cache holds
CHARACTERS = 5000  # read of a document: the longest that the seed kept
_SHIFT = np.uint64(64 - 18)
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_START = np.uint64(1)  # stands before the text
_SIZES = 4  # runs that end at a character
_RATE, _CALM, _FLOOR = 0.1, 0.01, 1e-8  # AdaGrad: learning rate; start of the sums of squares, weights and bounds


def fold_table() -> Bytes:
    """What an ASCII character counts as, uint8 [128]."""
    table = np.arange(128, dtype=np.uint8)
    table[:32] = 32
    table[10] = 10
    table[ord("0") : ord("9") + 1] = ord("0")
    table[ord("A") : ord("Z") + 1] += 32
    return table


def evidence(text: pa.Array, weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """z of N documents [N]; weights [BUCKETS]."""
    data, offsets = text_buffers(text)
    out = np.empty(len(text))
    _evidence(data, offsets, fold_table(), weights, out)
    return out


def learn(
    text: pa.Array, targets: NDArray[np.float64], importance: NDArray[np.float64], order: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """(weights [BUCKETS], bounds [2]) that make sigmoid(z − bounds) like ``targets`` [N, 2].

    importance: [N]; order: document numbers, one a step. AdaGrad (Duchi et al. 2011) on the sum of both logistic
    losses; its sums of squares start at _CALM in place of an L2 penalty, which brought nothing on top.
    """
    data, offsets = text_buffers(text)
    weights, bounds = np.zeros(BUCKETS, np.float32), np.zeros(2)
    _learn(data, offsets, fold_table(), targets, importance, order, weights, bounds)
    return weights, bounds


@njit(nogil=True, cache=True, inline="always")
def _bucket(run: Any) -> Any:
    return np.int64((run * _MIX) >> _SHIFT)


@njit(nogil=True, cache=True)
def _evidence(
    data: Bytes, offsets: NDArray[np.int64], fold: Bytes, weights: NDArray[np.float32], out: NDArray[np.float64]
) -> None:
    for d in range(len(out)):
        i, end = offsets[d], offsets[d + 1]
        one = two = three = _START  # hashes of the runs that end at the last character
        total, n = 0.0, 0
        while i < end and n < CHARACTERS:
            code, size = decode(data, i, end)
            i += size
            x = np.uint64(fold[code] if code < 128 else code)
            four, three, two, one = three * _PRIME + x, two * _PRIME + x, one * _PRIME + x, x
            total += weights[_bucket(one)] + 0.5 * weights[_bucket(two)]
            total += 0.25 * weights[_bucket(three)] + 0.125 * weights[_bucket(four)]
            n += 1
        out[d] = total / np.sqrt(_SIZES * max(n, 1))


@njit(nogil=True, cache=True)
def _runs(data: Bytes, i: int, end: int, fold: Bytes, out: NDArray[np.int64]) -> int:
    """Buckets of the runs of a document, _SIZES a character; returns how many."""
    one = two = three = _START
    n = 0
    while i < end and n < len(out):
        code, size = decode(data, i, end)
        i += size
        x = np.uint64(fold[code] if code < 128 else code)
        four, three, two, one = three * _PRIME + x, two * _PRIME + x, one * _PRIME + x, x
        out[n], out[n + 1], out[n + 2], out[n + 3] = _bucket(one), _bucket(two), _bucket(three), _bucket(four)
        n += _SIZES
    return n


@njit(nogil=True, cache=True)
def _learn(
    data: Bytes,
    offsets: NDArray[np.int64],
    fold: Bytes,
    targets: NDArray[np.float64],
    importance: NDArray[np.float64],
    order: NDArray[np.int64],
    weights: NDArray[np.float32],
    bounds: NDArray[np.float64],
) -> None:
    runs = np.empty(CHARACTERS * _SIZES, np.int64)
    distinct = np.empty(CHARACTERS * _SIZES, np.int64)
    value = np.zeros(len(weights))  # of the document's features; zeros between documents
    squares, bound_squares = np.full(len(weights), _CALM), np.full(2, _FLOOR)
    for d in order:
        n = _runs(data, offsets[d], offsets[d + 1], fold, runs)
        features = 0
        for j in range(n):
            if value[runs[j]] == 0:
                distinct[features] = runs[j]
                features += 1
            value[runs[j]] += 0.5 ** (j & 3)
        scale, z = 1 / np.sqrt(max(n, 1)), 0.0
        for j in range(features):
            z += weights[distinct[j]] * value[distinct[j]] * scale
        slope = 0.0  # of the loss in z
        for k in range(2):
            gradient = (1 / (1 + np.exp(bounds[k] - z)) - targets[d, k]) * importance[d]
            slope += gradient
            bound_squares[k] += gradient * gradient
            bounds[k] += _RATE * gradient / np.sqrt(bound_squares[k])
        for j in range(features):
            h = distinct[j]
            gradient = slope * scale * value[h]
            squares[h] += gradient * gradient
            weights[h] -= _RATE * gradient / np.sqrt(squares[h])
            value[h] = 0
