"""Letters of a document as the searches for repeated text see them: 16 bits each, nothing else between them.

A letter is what ``characters`` calls one, ASCII in lower case, of the first plane: white space, punctuation and the
characters beyond U+FFFF (emoji, the rarest ideographs) are passed over, so that spacing and ornaments hide nothing.
Letter 0 does not occur; it ends a text where several lie one behind the other.
"""

from functools import cache

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean import characters as ch
from congling.clean.characters import Bytes, class_table, decode
from congling.corpus.documents import text_buffers

Letters = NDArray[np.uint16]

# Kinds of characters: a letter; punctuation, that which may follow a stop; white space; what ends a sentence.
LETTER, MARK, CLOSING, SPACE, STOP, NEWLINE = range(6)
PRIME = np.uint64(0x9E3779B97F4A7C15)
MIX = np.uint64(0xD6E8FEB86659FD93)


@cache
def letter_kinds() -> Bytes:
    """Kind of each code point, uint8 [0x110000]."""
    classes, kinds = class_table(), np.zeros(ch.CODE_POINTS, np.uint8)
    kinds[classes == ch.PUNCTUATION] = MARK
    kinds[0x10000:] = MARK
    kinds[classes == ch.WHITESPACE] = SPACE
    for kind, characters in ((STOP, "。！？!?…"), (CLOSING, "”’」』\"'）)》】]"), (NEWLINE, "\n")):
        kinds[[ord(c) for c in characters]] = kind
    return kinds


def letters_of(text: pa.Array) -> tuple[Letters, NDArray[np.int64]]:
    """The letters of all documents of a batch, a 0 behind each document, and where sentences end in them."""
    data, offsets = text_buffers(text)
    room = int(offsets[-1] - offsets[0]) + len(text)
    letters, ends = np.empty(room, np.uint16), np.empty(room, np.int64)
    n, count = _letters_of(data, offsets, letter_kinds(), letters, ends)
    return letters[:n].copy(), ends[:count].copy()


def to_text(letters: Letters) -> str:
    """Letters as a string."""
    return letters.astype("<u2").tobytes().decode("utf-16-le", "replace")


@njit(nogil=True, cache=True, inline="always")
def push(old: np.uint64, new: np.uint64, letter: np.uint16) -> tuple[np.uint64, np.uint64]:
    """The last 4 letters but 4, and the last 4, after one more."""
    return old << np.uint64(16) | new >> np.uint64(48), new << np.uint64(16) | np.uint64(letter)


@njit(nogil=True, cache=True, inline="always")
def hash_gram(old: np.uint64, new: np.uint64) -> np.uint64:
    """The hash of up to 8 letters, as ``push`` packs them; never 0, which marks a free slot of a table."""
    return (old * PRIME + new) * MIX | np.uint64(1)


def make_filter(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A Bloom filter of mixed hashes, two bits each in one word (Putze, Sanders, Singler 2007): 32 bits a hash."""
    words = 1 << max(len(hashes).bit_length() - 1, 4)
    found = np.zeros(words, np.uint64)
    one, six = np.uint64(1), np.uint64(63)
    bits = one << (hashes >> np.uint64(52) & six) | one << (hashes >> np.uint64(58))
    np.bitwise_or.at(found, hashes >> np.uint64(20) & np.uint64(words - 1), bits)
    return found


@njit(nogil=True, cache=True, inline="always")
def may_hold(filter: NDArray[np.uint64], h: np.uint64) -> bool:
    """Whether a hash may be in a filter; of those that are not, one in some hundred seems to be."""
    one = np.uint64(1)
    bits = one << (h >> np.uint64(52) & np.uint64(63)) | one << (h >> np.uint64(58))
    return filter[h >> np.uint64(20) & np.uint64(len(filter) - 1)] & bits == bits


@njit(nogil=True, cache=True)
def _letters_of(
    data: Bytes, offsets: NDArray[np.int64], kinds: Bytes, letters: Letters, ends: NDArray[np.int64]
) -> tuple[int, int]:
    n, count = 0, 0
    for d in range(len(offsets) - 1):
        size, sentences = read_letters(data, offsets[d], offsets[d + 1], kinds, STOP, letters[n:], ends[count:])
        for k in range(count, count + sentences):
            ends[k] += n
        n, count = n + size + 1, count + sentences
        letters[n - 1] = 0
    return n, count


@njit(nogil=True, cache=True)
def longest(offsets: NDArray[np.int64]) -> int:
    """Bytes of the longest document, at least 1."""
    most = 1
    for d in range(len(offsets) - 1):
        most = max(most, offsets[d + 1] - offsets[d])
    return most


@njit(nogil=True, cache=True)
def read_letters(
    data: Bytes, i: int, end: int, kinds: Bytes, stop: int, letters: Letters, ends: NDArray[np.int64]
) -> tuple[int, int]:
    """Fills ``letters`` [n] of ``data[i:end]`` and ``ends`` [parts], the number of letters up to the end of each line
    (stop = NEWLINE) or sentence (STOP) that has any; returns (n, parts)."""
    n, parts, last = 0, 0, 0
    while i < end:
        a = data[i]
        if 0xE4 <= a <= 0xE9 and i + 2 < end:  # U+4000 to U+9FFF
            letters[n] = (np.int64(a) & 15) << 12 | (np.int64(data[i + 1]) & 63) << 6 | (np.int64(data[i + 2]) & 63)
            n += 1
            i += 3
            continue
        b = a | 32
        if 97 <= b <= 122:
            letters[n] = b
            n += 1
            i += 1
            continue
        code, size = (np.int64(a), 1) if a < 0x80 else decode(data, i, end)
        i += size
        kind = kinds[code]
        if kind == LETTER:
            letters[n] = code
            n += 1
        elif kind >= stop and n > last:
            ends[parts] = last = n
            parts += 1
    if n > last:
        ends[parts] = n
        parts += 1
    return n, parts
