"""Fingerprints of documents: what tells that two are the same text, or nearly.

Exact: a 128-bit hash of the letters (see statistics: no white space, no punctuation, ASCII in lower case).
Near: MinHash (Broder 1997) of the set of shingles, runs of k letters: 128 functions h ↦ a·h + b mod 2^32 of one strong
hash h, of each the smallest value over the shingles. Two sets agree in a function with probability J, their Jaccard
similarity. Of each minimum 8 bits are kept (b-bit MinHash, Li & König 2010): 128 bytes a document, and J is estimated
as (m − 1/256) / (1 − 1/256) from the share m of equal bytes, with a standard error of √(J(1−J)/128): 0.035 at 0.8.
Not followed: a·h + b modulo a prime; multiplication modulo 2^32 is 16 lanes wide and as good on mixed hashes.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import ASCII_LETTER, LETTER, Bytes, class_table, decode
from congling.clean.statistics import hash_grams
from congling.corpus.documents import text_buffers

PERMUTATIONS = 128
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_OTHER = np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass(frozen=True)
class Fingerprints:
    """Of N documents. One of fewer than 2 · shingle letters has no signature: it can have exact duplicates only."""

    hashes: NDArray[np.uint64]  # [N, 3]: 128 bits of the letters; 64 bits of all characters
    characters: NDArray[np.int64]  # [N], white space included
    signed: NDArray[np.bool_]  # [N], has a signature
    signatures: Bytes  # [N, PERMUTATIONS]


def fingerprint(text: pa.Array, shingle: int) -> Fingerprints:
    """The fingerprints of a batch of strings; shingle: letters a shingle."""
    data, offsets = text_buffers(text)
    hashes = np.zeros((len(text), 3), np.uint64)
    lengths = np.zeros((len(text), 2), np.int64)
    signatures = np.zeros((len(text), PERMUTATIONS), np.uint8)
    # Any fixed stream does: the functions are part of the format, not of the run's seed.
    factors, terms = np.random.Generator(np.random.PCG64(0)).integers(2**32, size=(2, PERMUTATIONS), dtype=np.uint32)
    _fingerprint(data, offsets, class_table(), shingle, factors | np.uint32(1), terms, hashes, lengths, signatures)
    return Fingerprints(hashes, lengths[:, 0], lengths[:, 1] >= 2 * shingle, signatures)


@njit(nogil=True, cache=True)
def _fingerprint(
    data: Bytes,
    offsets: NDArray[np.int64],
    classes: Bytes,
    shingle: int,
    factors: NDArray[np.uint32],
    terms: NDArray[np.uint32],
    hashes: NDArray[np.uint64],
    lengths: NDArray[np.int64],
    signatures: Bytes,
) -> None:
    longest = 4
    for d in range(len(lengths)):
        longest = max(longest, offsets[d + 1] - offsets[d])
    letters, shingles = np.empty(longest, np.uint32), np.empty(longest + 4, np.uint32)
    minima = np.empty(PERMUTATIONS, np.uint32)
    for d in range(len(lengths)):
        n = _hash_letters(data, offsets[d], offsets[d + 1], classes, letters, hashes[d], lengths[d])
        if n >= 2 * shingle:
            _minima(shingles, hash_grams(letters, n, shingle, shingles), factors, terms, minima)
            for k in range(PERMUTATIONS):  # 8 bits that depend on all 32: the top of a product
                signatures[d, k] = np.uint32(minima[k] * np.uint32(0x9E3779B1)) >> np.uint32(24)


@njit(nogil=True, cache=True)
def _hash_letters(
    data: Bytes,
    i: int,
    end: int,
    classes: Bytes,
    letters: NDArray[np.uint32],
    hashes: NDArray[np.uint64],
    lengths: NDArray[np.int64],
) -> int:
    """Fills ``letters`` [n], the hashes and the lengths of one document; returns n."""
    n, characters = 0, 0
    first, second, whole = _PRIME, _OTHER, _PRIME
    while i < end:
        code, size = decode(data, i, end)
        i += size
        characters += 1
        whole = (whole ^ np.uint64(code)) * _OTHER
        whole ^= whole >> np.uint64(32)
        kind = classes[code]
        if kind <= LETTER:
            letters[n] = code | 32 if kind == ASCII_LETTER else code
            first = (first ^ np.uint64(letters[n])) * _PRIME
            first ^= first >> np.uint64(32)
            second = (second ^ np.uint64(letters[n])) * _OTHER
            second ^= second >> np.uint64(29)
            n += 1
    lengths[0], lengths[1] = characters, n
    # Without a letter all that is left to compare is the punctuation.
    hashes[0], hashes[1], hashes[2] = (first, second, whole) if n else (whole, whole, whole)
    return n


@njit(nogil=True, cache=True)
def _minima(
    shingles: NDArray[np.uint32],
    count: int,
    factors: NDArray[np.uint32],
    terms: NDArray[np.uint32],
    minima: NDArray[np.uint32],
) -> None:
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
