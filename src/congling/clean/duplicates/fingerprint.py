"""Fingerprints of documents: what tells that two are the same text, or nearly.

Exact: a 128-bit hash of the letters (see statistics: no white space, no punctuation, ASCII in lower case).
Near: MinHash (Broder 1997) of the set of shingles, runs of k letters: 128 functions h ↦ a·h + b mod 2^32 of one strong
hash h, of each the smallest value over the shingles. Two sets agree in a function with probability J, their Jaccard
similarity. Of each minimum 8 bits are kept (b-bit MinHash, Li & König 2010): 128 bytes a document, and J is estimated
as (m − 1/256) / (1 − 1/256) from the share m of equal bytes, with a standard error of √(J(1−J)/128): 0.035 at 0.8.
Not followed: a·h + b modulo a prime; multiplication modulo 2^32 is 16 lanes wide and as good on mixed hashes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.characters import ASCII_LETTER, LETTER, Bytes, class_table, decode
from congling.corpus.documents import text_buffers

PERMUTATIONS = 128
Words = NDArray[np.uint32]
_PRIME, _OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_SPARE = 4  # elements that a buffer needs beyond the longest document: kernels go in fours
_FILES = ("hashes", "lengths", "signatures")


@dataclass(frozen=True)
class Fingerprints:
    """Of N documents. One of fewer letters than a shingle has no signature (zeros)."""

    hashes: NDArray[np.uint64]  # [N, 3]: 128 bits of the letters; 64 bits of all characters
    lengths: Words  # [N, 2]: characters, white space included; letters
    signatures: Bytes  # [N, PERMUTATIONS]

    def spread(self, chosen: NDArray[np.bool_]) -> "Fingerprints":
        """Those of M documents, of which these N are the ``chosen`` [M]; the others get zeros."""

        def place(values: NDArray) -> NDArray:
            out = np.zeros((len(chosen), values.shape[1]), values.dtype)
            out[chosen] = values
            return out

        return Fingerprints(*(place(getattr(self, name)) for name in _FILES))


def save_fingerprints(stem: Path, prints: Sequence[Fingerprints]) -> None:
    """Writes those of a part, in order, to ``<stem>.hashes.npy``, ``.lengths.npy`` and ``.signatures.npy``."""
    for name in _FILES:
        with atomic_open(stem.with_name(f"{stem.name}.{name}.npy")) as file:
            np.save(
                file, np.concatenate([getattr(p, name) for p in (fingerprint(pa.array([], pa.string()), 2), *prints)])
            )


def load_fingerprints(part: Path) -> Fingerprints:
    """The fingerprints saved beside a part (``<stem>.parquet``), memory-mapped."""
    return Fingerprints(*(_load(part, name) for name in _FILES))


def load_hashes(part: Path) -> NDArray[np.uint64]:
    """Of them the hashes [N, 3] only."""
    return _load(part, "hashes")


def _load(part: Path, name: str) -> NDArray:
    array: NDArray = np.load(part.with_name(f"{part.stem}.{name}.npy"), mmap_mode="r")
    return array


def fingerprint(text: pa.Array, shingle: int) -> Fingerprints:
    """The fingerprints of a batch of strings; shingle: letters a shingle."""
    data, offsets = text_buffers(text)
    hashes = np.zeros((len(text), 3), np.uint64)
    lengths = np.zeros((len(text), 2), np.uint32)
    signatures = np.zeros((len(text), PERMUTATIONS), np.uint8)
    _fingerprint(data, offsets, class_table(), shingle_weights(shingle), *_functions(), hashes, lengths, signatures)
    return Fingerprints(hashes, lengths, signatures)


def shingle_weights(shingle: int) -> Words:
    """What the letters of a shingle are multiplied by for its hash, uint32 [shingle]."""
    return np.random.Generator(np.random.PCG64(1)).integers(2**32, size=shingle, dtype=np.uint32) | np.uint32(1)


def _functions() -> tuple[Words, Words]:
    """a and b of the MinHash functions. Any fixed stream does: they belong to the format, not to the run's seed."""
    a, b = np.random.Generator(np.random.PCG64(0)).integers(2**32, size=(2, PERMUTATIONS), dtype=np.uint32)
    return a | np.uint32(1), b


@njit(nogil=True, cache=True)
def _fingerprint(
    data: Bytes,
    offsets: NDArray[np.int64],
    classes: Bytes,
    weights: Words,
    factors: Words,
    terms: Words,
    hashes: NDArray[np.uint64],
    lengths: Words,
    signatures: Bytes,
) -> None:
    longest = np.max(offsets[1:] - offsets[:-1]) if len(lengths) else 0
    letters, shingles = np.empty(longest + _SPARE, np.uint32), np.empty(longest + _SPARE, np.uint32)
    minima = np.empty(PERMUTATIONS, np.uint32)
    for d in range(len(lengths)):
        n, others = find_letters(data, offsets[d], offsets[d + 1], classes, letters)
        lengths[d, 0], lengths[d, 1] = n + others, n
        hashes[d, 2] = _hash_bytes(data, offsets[d], offsets[d + 1])
        # Without a letter all that is left to compare is the punctuation.
        hashes[d, 0], hashes[d, 1] = _hash_letters(letters, n) if n else (hashes[d, 2], hashes[d, 2])
        count = hash_shingles(letters, n, weights, shingles)
        if count:
            _minima(shingles, count, factors, terms, minima)
            for k in range(PERMUTATIONS):  # 8 bits that depend on all 32: the top of a product
                signatures[d, k] = np.uint32(minima[k] * np.uint32(0x9E3779B1)) >> np.uint32(24)


@njit(nogil=True, cache=True)
def find_letters(data: Bytes, i: int, end: int, classes: Bytes, letters: Words) -> tuple[int, int]:
    """Fills ``letters`` (room for one more than there are) with those of ``data[i:end]``; their number, and that of
    all other characters."""
    n, others = 0, 0
    while i < end:
        a = np.int64(data[i])
        if 0xE0 <= a < 0xF0 and i + 2 < end:  # most of all text, and without a branch on what it is
            code = (a & 15) << 12 | (np.int64(data[i + 1]) & 63) << 6 | (np.int64(data[i + 2]) & 63)
            kind = classes[code]
            i += 3
        else:
            code, size = decode(data, i, end)
            kind = classes[code]
            code = code | 32 if kind == ASCII_LETTER else code
            i += size
        letters[n] = code
        n += kind <= LETTER
        others += kind > LETTER
    return n, others


@njit(nogil=True, cache=True)
def _hash_letters(letters: Words, n: int) -> tuple[np.uint64, np.uint64]:
    """128 bits of n letters: four chains of 64 bits, two over the even and two over the odd pairs of letters."""
    letters[n : n + _SPARE] = 0xFFFFFFFF
    a, b, c, d = _PRIME, _OTHER, _PRIME ^ np.uint64(n), _OTHER ^ np.uint64(n)
    for i in range(0, n, 4):
        even = np.uint64(letters[i]) | np.uint64(letters[i + 1]) << np.uint64(32)
        odd = np.uint64(letters[i + 2]) | np.uint64(letters[i + 3]) << np.uint64(32)
        a, b = (a ^ even) * _PRIME, (b ^ even) * _OTHER
        c, d = (c ^ odd) * _PRIME, (d ^ odd) * _OTHER
        a, b = a ^ (a >> np.uint64(32)), b ^ (b >> np.uint64(29))
        c, d = c ^ (c >> np.uint64(32)), d ^ (d >> np.uint64(29))
    a, b = (
        (a ^ (c << np.uint64(17) | c >> np.uint64(47))) * _OTHER,
        (b ^ (d << np.uint64(17) | d >> np.uint64(47))) * _PRIME,
    )
    return a ^ (a >> np.uint64(32)), b ^ (b >> np.uint64(32))


@njit(nogil=True, cache=True)
def _hash_bytes(data: Bytes, i: int, end: int) -> np.uint64:
    """64 bits of ``data[i:end]``, in two chains of 8 bytes at a time."""
    a, b = _PRIME, _OTHER ^ np.uint64(end - i)
    while i + 16 <= end:
        a, b = (a ^ _word(data, i)) * _OTHER, (b ^ _word(data, i + 8)) * _PRIME
        a, b = a ^ (a >> np.uint64(32)), b ^ (b >> np.uint64(29))
        i += 16
    while i < end:
        a = (a ^ np.uint64(data[i])) * _OTHER
        a ^= a >> np.uint64(32)
        i += 1
    a = (a ^ (b << np.uint64(17) | b >> np.uint64(47))) * _PRIME
    return a ^ (a >> np.uint64(32))


@njit(nogil=True, cache=True, inline="always")
def _word(data: Bytes, i: int) -> np.uint64:
    word = np.uint64(0)
    for k in range(8):  # the compiler makes one load of it
        word |= np.uint64(data[i + k]) << np.uint64(8 * k)
    return word


@njit(nogil=True, cache=True)
def hash_shingles(letters: Words, n: int, weights: Words, out: Words) -> int:
    """Fills ``out`` with the hashes of the runs of ``len(weights)`` letters; their number, 0 when there are too few.

    Σ weight · letter mod 2^32 (multilinear hashing), then the finalizer of MurmurHash3, each 16 lanes wide.
    """
    count = max(n - len(weights) + 1, 0)
    out[:count] = 0
    for j in range(len(weights)):
        for i in range(count):
            out[i] += np.uint32(letters[i + j] * weights[j])
    for i in range(count):
        h = out[i]
        h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
        h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
        out[i] = h ^ (h >> np.uint32(16))
    return count


@njit(nogil=True, cache=True)
def _minima(shingles: Words, count: int, factors: Words, terms: Words, minima: Words) -> None:
    """minima[k] = the least of factors[k] · h + terms[k] (mod 2^32) over the shingles h."""
    for spare in range(count, (count + 3) // 4 * 4):
        shingles[spare] = shingles[0]  # a whole number of fours; seeing one twice changes nothing
    minima[:] = np.uint32(0xFFFFFFFF)
    for i in range(0, count, 4):  # four at once: a load and a store of a minimum for four products
        a, b, c, d = shingles[i], shingles[i + 1], shingles[i + 2], shingles[i + 3]
        for k in range(PERMUTATIONS):
            f, t = factors[k], terms[k]
            low = min(np.uint32(a * f + t), np.uint32(b * f + t))
            high = min(np.uint32(c * f + t), np.uint32(d * f + t))
            minima[k] = min(minima[k], min(low, high))
