"""What the rules measure, of a whole batch at once: character classes, repeated lines, repeated n-grams.

Repetition follows Rae et al. 2021 (Gopher, arXiv:2112.11446, table A1) with characters for words: the share of letters
in 10-grams that came before, and of the most frequent pair. Not followed: its ladder of n-grams of 2 to 10 words (in
5-grams of characters, sound statutes repeat up to 57 % and articles with English words more; in 10-grams up to 37 %,
and a text that is there twice 50 %) and its counts of paragraphs. A "letter" is any character that is neither white
space nor punctuation, ASCII in lower case; repetition looks at the first 50,000 of a document.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import ASCII_LETTER, LETTER, WHITESPACE, Bytes, class_table, decode
from congling.corpus.documents import text_buffers

GRAM = 10
_SAMPLE = 50_000  # letters of a document whose n-grams are looked at
PAIR_SAMPLE = 4096  # letters whose pairs are counted
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Statistics:
    """Counts of N documents, int64 [N] each. ``characters`` leaves white space out."""

    characters: NDArray[np.int64]
    han: NDArray[np.int64]
    ascii_letters: NDArray[np.int64]
    punctuation: NDArray[np.int64]
    repeated_lines: NDArray[np.int64]  # characters in lines that came before
    letters: NDArray[np.int64]  # looked at for repetition
    repeated_letters: NDArray[np.int64]  # in 10-grams that came before
    pair_repeats: NDArray[np.int64]  # times the most frequent pair of letters occurs again, of the first PAIR_SAMPLE


def measure(text: pa.Array) -> Statistics:
    """The statistics of a batch of strings."""
    data, offsets = text_buffers(text)
    counts = np.zeros((len(text), 10), np.int64)
    _measure(data, offsets, class_table(), counts)
    classes = counts[:, :WHITESPACE]
    return Statistics(classes.sum(1), counts[:, 0], counts[:, 1], counts[:, 4], *counts[:, 6:].T)


@njit(nogil=True, cache=True)
def hash_grams(letters: NDArray[np.uint32], n: int, size: int, out: NDArray[np.uint32]) -> int:
    """Hashes of the n − size + 1 runs of ``size`` letters (a rolling polynomial modulo 2^64, mixed); their number."""
    if n < size:
        return 0
    h, oldest = np.uint64(0), np.uint64(1)
    for i in range(size):
        h = h * _PRIME + np.uint64(letters[i])
        oldest *= _PRIME
    for i in range(n - size + 1):
        mixed = (h ^ (h >> np.uint64(32))) * _MIX
        out[i] = mixed >> np.uint64(32)
        if i + size < n:
            h = h * _PRIME + np.uint64(letters[i + size]) - oldest * np.uint64(letters[i])
    return n - size + 1


@njit(nogil=True, cache=True)
def _measure(data: Bytes, offsets: NDArray[np.int64], classes: Bytes, counts: NDArray[np.int64]) -> None:
    longest = 1
    for d in range(len(counts)):
        longest = max(longest, offsets[d + 1] - offsets[d])
    letters = np.empty(min(longest, _SAMPLE), np.uint32)
    grams = np.empty(len(letters), np.uint32)
    seen = np.empty(_power_of_two(2 * len(letters)), np.uint32)
    keys, times = np.empty(2 * PAIR_SAMPLE, np.uint64), np.empty(2 * PAIR_SAMPLE, np.int64)
    for d in range(len(counts)):
        begin, end, row = offsets[d], offsets[d + 1], counts[d]
        n = _count(data, begin, end, classes, row, letters)
        row[6] = _repeated_lines(data, begin, end)
        row[7] = n
        row[8] = _repeated_letters(grams, hash_grams(letters, n, GRAM, grams), seen)
        row[9] = _pair_repeats(letters, min(n, PAIR_SAMPLE), keys, times)


@njit(nogil=True, cache=True)
def _count(data: Bytes, i: int, end: int, classes: Bytes, row: NDArray[np.int64], letters: NDArray[np.uint32]) -> int:
    """Adds the characters of each class to ``row``; fills ``letters`` and returns their number."""
    n = 0
    while i < end:
        code, size = decode(data, i, end)
        i += size
        kind = classes[code]
        row[kind] += 1
        if kind <= LETTER and n < len(letters):
            letters[n] = code | 32 if kind == ASCII_LETTER else code
            n += 1
    return n


@njit(nogil=True, cache=True)
def _repeated_lines(data: Bytes, begin: int, end: int) -> int:
    """Characters, without white space, of lines that came before."""
    lines = 1
    for i in range(begin, end):
        lines += data[i] == 10
    if lines == 1:
        return 0
    seen = np.zeros(_power_of_two(2 * lines), np.uint64)
    mask, repeated, characters, h = len(seen) - 1, 0, 0, _PRIME
    for i in range(begin, end + 1):
        if i < end and data[i] != 10:
            h = (h ^ np.uint64(data[i])) * _PRIME
            h ^= h >> np.uint64(29)
            characters += (data[i] & 0xC0) != 0x80 and data[i] > 32
            continue
        slot = np.int64(h >> np.uint64(32)) & mask
        while seen[slot] != 0 and seen[slot] != h:
            slot = (slot + 1) & mask
        repeated += characters if seen[slot] == h else 0
        seen[slot] = h
        characters, h = 0, _PRIME
    return repeated


@njit(nogil=True, cache=True)
def _repeated_letters(grams: NDArray[np.uint32], count: int, table: NDArray[np.uint32]) -> int:
    """Letters in grams that came before; letters in two such grams count once."""
    size = _power_of_two(2 * count)
    seen, mask = table[:size], size - 1
    seen[:] = 0
    repeated, covered = 0, 0  # covered: letters before this one have been counted
    for i in range(count):
        h = max(grams[i], np.uint32(1))  # 0 marks a free slot
        slot = np.int64(h) & mask
        while seen[slot] != 0 and seen[slot] != h:
            slot = (slot + 1) & mask
        if seen[slot] == h:
            repeated += i + GRAM - max(covered, i)
            covered = i + GRAM
        seen[slot] = h
    return repeated


@njit(nogil=True, cache=True)
def _pair_repeats(letters: NDArray[np.uint32], n: int, keys: NDArray[np.uint64], times: NDArray[np.int64]) -> int:
    """How often the most frequent pair of ``n`` letters occurs again."""
    size = _power_of_two(2 * n)
    mask, most = size - 1, 0
    keys[:size] = 0
    for i in range(1, n):
        key = np.uint64(letters[i - 1]) << np.uint64(32) | np.uint64(letters[i])
        slot = np.int64((key * _PRIME) >> np.uint64(40)) & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + 1) & mask
        times[slot] = times[slot] + 1 if keys[slot] == key else 0
        keys[slot] = key
        most = max(most, times[slot])
    return most


@njit(nogil=True, cache=True)
def _power_of_two(least: int) -> int:
    size = 4
    while size < least:
        size *= 2
    return size
