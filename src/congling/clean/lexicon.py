"""Words that must not be in a text: the user's file, and how often they are there.

The kernel walks over bytes, with the last eight in a register: the first bytes of every word, 8, 6, 3 or 1 of them as
it is long, are in a Bloom filter (Bloom 1970; two bits of one machine word) that fits the cache. Only where that says
yes are the prefixes of the words looked up in a hash table (64 bits each), for as long as there is one. This is not
``phrases``: a word may hold punctuation, may be short without slowing the others down, and is whole where it is ASCII.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import Bytes
from congling.corpus.documents import text_buffers

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_WINDOW = 8  # bytes
_PREFIX = -1  # in place of a word

Keys = NDArray[np.uint64]
Values = NDArray[np.int32]


def read_words(path: str | Path) -> tuple[str, ...]:
    """The words of a file, one a line; blank lines and lines that begin with # are left out, as is what is there twice.

    Raises ValueError, with file and line, for what is no UTF-8, and for a file without a word.
    """
    words = dict[str, None]()
    for number, line in enumerate(Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            word = line.decode().strip()
        except UnicodeDecodeError:
            raise ValueError(f"lexicon {path}, line {number}: not UTF-8; save the file as UTF-8") from None
        if word and word[0] != "#":
            words[word] = None
    if not words:
        raise ValueError(f"lexicon {path}: no words; give one a line, or leave clean.lexicon empty")
    return tuple(words)


def count_words(text: pa.Array, words: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many words each of N documents holds [N], and the index of the first of them [N], -1 where there is none.

    At a place the longest word counts, and the search goes on behind it. The case of ASCII letters is ignored; where
    a word begins or ends in an ASCII letter or digit, it must not go on there in the text.
    """
    keys, values, filter, lengths = _tables(tuple(words))
    data, offsets = text_buffers(text)
    counts, first = np.zeros(len(text), np.int64), np.full(len(text), -1, np.int64)
    _count(data, offsets, keys, values, filter, lengths, counts, first)
    return counts, first


@lru_cache(maxsize=2)
def _tables(words: tuple[str, ...]) -> tuple[Keys, Values, NDArray[np.uint64], int]:
    """Hashes of the prefixes of the words, the index of the word that one is, the filter, and the kinds of windows."""
    size = 1 << (2 * sum(map(len, words)) + 1).bit_length()
    keys, values = np.zeros(size, np.uint64), np.full(size, _PREFIX, np.int32)
    filter = np.zeros(max(512, 1 << len(words).bit_length()), np.uint64)  # 64 bits a word or more
    data, offsets = text_buffers(pa.array(words, pa.large_string()))
    return keys, values, filter, _insert(data, offsets, keys, values, filter)


@njit(nogil=True, cache=True)
def _insert(data: Bytes, offsets: NDArray[np.int64], keys: Keys, values: Values, filter: NDArray[np.uint64]) -> int:
    """Fills the tables; returns the sizes of windows as bits."""
    sizes = 0
    for w in range(len(offsets) - 1):
        begin, end = offsets[w], offsets[w + 1]
        size = 8 if end - begin >= 8 else 6 if end - begin >= 6 else 3 if end - begin >= 3 else 1
        sizes |= 1 << size
        h, window, slot = _PRIME, np.uint64(0), 0
        for i in range(begin, end):
            byte = _lower(data[i])
            window = window << np.uint64(8) | byte if i < begin + size else window
            h = _mix(h, byte)
            if i + 1 == end or data[i + 1] & 0xC0 != 0x80:
                slot = _slot(keys, h)
                keys[slot] = h
        h = _hash(window)
        filter[h & np.uint64(len(filter) - 1)] |= _bits(h)
        if end > begin and values[slot] == _PREFIX:  # else the same but for its case
            values[slot] = w
    return sizes


@njit(nogil=True, cache=True)
def _count(
    data: Bytes,
    offsets: NDArray[np.int64],
    keys: Keys,
    values: Values,
    filter: NDArray[np.uint64],
    sizes: int,
    counts: NDArray[np.int64],
    first: NDArray[np.int64],
) -> None:
    eight, six, three, one = sizes >> 8 & 1 != 0, sizes >> 6 & 1 != 0, sizes >> 3 & 1 != 0, sizes >> 1 & 1 != 0
    for d in range(len(counts)):
        i, end, floor, window = offsets[d], offsets[d + 1], offsets[d], np.uint64(0)
        while i < end:
            window = window << np.uint64(8) | _lower(data[np.uint64(i)])
            i += 1
            if (
                (eight and _has(filter, window))
                or (six and _has(filter, window & np.uint64(0xFFFFFFFFFFFF)))
                or (three and _has(filter, window & np.uint64(0xFFFFFF)))
                or (one and _has(filter, window & np.uint64(0xFF)))
            ):
                # Whatever begins in the window: a longer word may begin before the one that was seen first.
                word = -1
                for at in range(max(floor, i - _WINDOW), i):
                    if data[at] & 0xC0 == 0x80:
                        continue
                    word, behind = _longest(data, floor, at, end, keys, values)
                    if word >= 0:
                        counts[d] += 1
                        first[d] = word if first[d] < 0 else first[d]
                        i, floor, window = behind, behind, np.uint64(0)
                        break


@njit(nogil=True, cache=True)
def _longest(data: Bytes, begin: int, i: int, end: int, keys: Keys, values: Values) -> tuple[int, int]:
    """The longest word at ``data[i]`` of ``data[begin:end]``, and where it ends; -1 if there is none."""
    word, behind, h = -1, i, _PRIME
    if i > begin and _alphanumeric(data[i]) and _alphanumeric(data[i - 1]):
        return word, behind
    while i < end:
        h = _mix(h, _lower(data[i]))
        i += 1
        if i < end and data[i] & 0xC0 == 0x80:
            continue
        slot = _slot(keys, h)
        if keys[slot] == 0:
            break
        inside = i < end and _alphanumeric(data[i - 1]) and _alphanumeric(data[i])
        if values[slot] != _PREFIX and not inside:
            word, behind = values[slot], i
    return word, behind


@njit(nogil=True, cache=True)
def _slot(keys: Keys, h: np.uint64) -> np.int64:
    """Where ``h`` is, or would be."""
    mask = np.uint64(len(keys) - 1)
    slot = (h >> np.uint64(24)) & mask
    while keys[slot] != 0 and keys[slot] != h:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@njit(nogil=True, cache=True, inline="always")
def _mix(h: np.uint64, byte: np.uint64) -> np.uint64:
    h = (h ^ byte) * _PRIME
    return h ^ (h >> np.uint64(29)) | np.uint64(1)  # 0 marks a free slot


@njit(nogil=True, cache=True, inline="always")
def _has(filter: NDArray[np.uint64], window: np.uint64) -> bool:
    h = _hash(window)
    return ~filter[h & np.uint64(len(filter) - 1)] & _bits(h) == 0


@njit(nogil=True, cache=True, inline="always")
def _hash(window: np.uint64) -> np.uint64:
    h = window * _PRIME
    return h ^ h >> np.uint64(32)


@njit(nogil=True, cache=True, inline="always")
def _bits(h: np.uint64) -> np.uint64:
    one = np.uint64(1)
    return one << (h >> np.uint64(20) & np.uint64(63)) | one << (h >> np.uint64(26) & np.uint64(63))


@njit(nogil=True, cache=True, inline="always")
def _lower(byte: int) -> np.uint64:
    return np.uint64(byte) + (np.uint64(32) if 65 <= byte <= 90 else np.uint64(0))


@njit(nogil=True, cache=True, inline="always")
def _alphanumeric(byte: int) -> bool:
    return 48 <= byte <= 57 or 97 <= byte | 32 <= 122
