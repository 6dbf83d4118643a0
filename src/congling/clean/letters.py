"""Letters of a document as the searches for repeated text see them: 16 bits each, nothing else between them.

A letter is what ``characters`` calls one, ASCII in lower case, of the first plane: white space, punctuation and the
characters beyond U+FFFF (emoji, the rarest ideographs) are passed over, so that spacing and ornaments hide nothing.
Letter 0 does not occur; it ends a text where several lie one behind the other.
"""

from functools import cache
from typing import NamedTuple

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
_0, _1, _2, _3, _63, _ASCII = (np.uint64(n) for n in (0, 1, 2, 3, 63, 128))


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


class Spelled(NamedTuple):
    """The letters of N documents, T in all, and where lines or sentences that have any end in them."""

    letters: Letters  # [T], a 0 behind each document
    bounds: NDArray[np.int64]  # [N + 1]: document d is letters[bounds[d] : bounds[d + 1] - 1]
    ends: NDArray[np.int64]  # ascending; the last of a document is its end


def letters_of(text: pa.Array, stop: int, where: NDArray[np.bool_] | None = None) -> Spelled:
    """The letters of a batch, or of its documents of ``where``; ends are those of lines (stop = NEWLINE) or sentences
    (STOP)."""
    data, offsets = text_buffers(text)
    room = int(offsets[-1] - offsets[0]) + len(text)
    bounds = np.zeros(len(text) + 1, np.int64)
    letters, ends = np.empty(room, np.uint16), np.empty(room, np.int64)
    where = np.ones(len(text), np.bool_) if where is None else where
    count, parts = _read(data, offsets, where, letter_kinds(), stop, letters, bounds, ends)
    return Spelled(letters[: bounds[count]].copy(), bounds[: count + 1], ends[:parts].copy())


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


@njit(nogil=True, cache=True)
def make_filter(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """A Bloom filter of mixed hashes, two bits each in one word (Putze, Sanders, Singler 2007), ``bits`` of room each:
    of what is not in it, one in 40 (of 8 bits) or 400 (of 32) seems to be."""
    words = 16
    while 64 * words < bits * len(hashes):
        words *= 2
    found, mask = np.zeros(words, np.uint64), np.uint64(words - 1)
    for h in hashes:
        found[h >> np.uint64(20) & mask] |= _bits(h)
    return found


@njit(nogil=True, cache=True, inline="always")
def _bits(h: np.uint64) -> np.uint64:
    return _1 << (h >> np.uint64(52) & _63) | _1 << (h >> np.uint64(58))


@njit(nogil=True, cache=True, inline="always")
def may_hold(filter: NDArray[np.uint64], h: np.uint64) -> bool:
    """Whether a hash may be in a filter."""
    bits = _bits(h)
    return filter[h >> np.uint64(20) & np.uint64(len(filter) - 1)] & bits == bits


@njit(nogil=True, cache=True)
def _read(
    data: Bytes,
    offsets: NDArray[np.int64],
    where: NDArray[np.bool_],
    kinds: Bytes,
    stop: int,
    letters: Letters,
    bounds: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> tuple[int, int]:
    """Fills letters, bounds and ends; returns the number of documents and of ends.

    Whether a character is a letter, or an end, moves a place to write to, which costs less than a branch that cannot be
    foreseen; unsigned places, for signed ones are looked at for being negative.
    """
    count, n, parts = 0, _0, _0
    for d in range(len(where)):
        if not where[d]:
            continue
        i, end, last = np.uint64(offsets[d]), np.uint64(offsets[d + 1]), n
        while i < end:
            a = np.uint64(data[i])
            if np.uint64(0xE0) <= a < np.uint64(0xF0) and i + _2 < end:
                code = (a & np.uint64(15)) << np.uint64(12) | (np.uint64(data[i + _1]) & _63) << np.uint64(6)
                code |= np.uint64(data[i + _2]) & _63
                i += _3
            elif a < _ASCII:
                code = a | np.uint64(32) if np.uint64(65) <= a <= np.uint64(90) else a
                i += _1
            else:
                other, size = decode(data, i, end)
                code = np.uint64(other)
                i += np.uint64(size)
            kind = kinds[code]
            letters[n] = code
            if stop == STOP or a < _ASCII:  # the only end of a line is ASCII
                ends[parts] = n
                is_end = np.uint64(kind >= stop) & np.uint64(n > last)
                parts += is_end
                last = n if is_end else last
            n += np.uint64(kind == LETTER)
        if n > last:
            ends[parts] = n
            parts += _1
        letters[n] = 0
        n += _1
        count += 1
        bounds[count] = n
    return count, int(parts)
