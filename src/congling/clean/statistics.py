"""What the rules measure, of a whole batch at once: character classes, lines, word lists, repeated n-grams.

A *letter* is any character that is neither white space nor punctuation, ASCII in lower case. A *line* is what stands
between newlines, white space left out; of a document the first 32,768 that are not blank are looked at.

Repetition follows Rae et al. 2021 (Gopher, arXiv:2112.11446, table A1) with characters for words, for they need no
segmentation. Not followed: shares count an n-gram's *further* occurrences, so that a poem of 20 letters is not
repetitive because two of them come twice; paragraphs are lines of 50 characters or more, for most Chinese text has no
blank lines; a document's first 50,000 letters are looked at, of the most frequent n-grams its first 4096.

Repeated n-grams, n = 5 to 10, are found in one walk, as LZ77 (Ziv & Lempel 1977) finds matches. At a letter, look for
the latest place where the same 5 letters were met, and take the longest run of letters that are the same here and
there, L. For each n ≤ L the L letters are repeated. Where the run goes on for 10 letters or more there is nothing to
find, and the walk goes on where 9 are left of it. So n = 5 is exact; for more, an n-gram whose 5 letters were met
again elsewhere in between may go unseen (at most 0.06 of a share in 240 real texts of four kinds).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean import characters as ch
from congling.clean.characters import Bytes, class_table, decode
from congling.corpus.documents import text_buffers

TOP_GRAMS = (2, 3, 4)
REPEATED_GRAMS = (5, 6, 7, 8, 9, 10)
TOP_SAMPLE = 4096  # letters whose most frequent n-grams are counted
PARAGRAPH = 50  # characters from which a line is a paragraph
SHORT_LINE = 20  # characters below which a line may be an entry of a list
_SAMPLE = 50_000  # letters of a document whose repetition is looked at; below 2^16, a place is 16 bits
_LINES = 1 << 15
_ITEM, _ITEMS = 8, 6  # letters at most of an item of a word list, items at least
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_TAG = np.uint64(0xFFFFFFFFFFFF0000)

# Kinds of characters: the classes of letters, then those of punctuation. _STOP and _END end a sentence; what closes
# a bracket, and a colon, can end a line.
_LETTER, _PUNCTUATION, _SEPARATOR, _ASCII_COMMA, _COMMA, _CLOSING, _STOP, _END, _SPACE, _NEWLINE = range(ch.LETTER, 13)
# Columns of the counts: the kinds, then these.
_REPEATED_LINES, _PARAGRAPHS, _LISTED, _UNFINISHED, _TEASING, _LINKED, _STUFFED, _LETTERS, _TOP = range(13, 22)
_REPEATED = _TOP + len(TOP_GRAMS)
_COLUMNS = _REPEATED + len(REPEATED_GRAMS)
_ELLIPSIS, _BRACKETS = ord("…"), tuple(map(ord, "]】)）>»》"))
_TEASERS = tuple((ord(end[0]), ord(end[1])) for end in ("全文", "展开", "更多", "详细", "详情", ".."))


@dataclass(frozen=True)
class Statistics:
    """Counts of N documents, int64 [N] each, in characters (white space left out) where nothing else is said."""

    characters: NDArray[np.int64]
    han: NDArray[np.int64]
    ascii_letters: NDArray[np.int64]
    digits: NDArray[np.int64]
    punctuation: NDArray[np.int64]
    commas: NDArray[np.int64]  # ，。,.
    repeated_lines: NDArray[np.int64]  # in lines that came before
    repeated_paragraphs: NDArray[np.int64]  # in lines of PARAGRAPH or more that came before
    listed: NDArray[np.int64]  # in lines below SHORT_LINE that end in a letter or a separator
    unfinished: NDArray[np.int64]  # in lines of PARAGRAPH or more, behind their last end of a sentence
    teasers: NDArray[np.int64]  # in lines that end in … or 阅读全文 and the like
    linked: NDArray[np.int64]  # in lines that hold a web address
    stuffed: NDArray[np.int64]  # in word lists: 6 or more items of at most 8 letters between 、,|_#/·• or spaces
    letters: NDArray[np.int64]  # looked at for repetition
    top: NDArray[np.int64]  # [N, 3] times the most frequent n-gram comes again, n of TOP_GRAMS
    repeated: NDArray[np.int64]  # [N, 6] letters that are not ASCII, in n-grams that came before, n of REPEATED_GRAMS


def measure(text: pa.Array) -> Statistics:
    """The statistics of a batch of strings."""
    data, offsets = text_buffers(text)
    counts = np.zeros((len(text), _COLUMNS), np.int64)
    _measure(data, offsets, _kinds(), counts)
    columns = counts.T
    punctuation, commas = columns[_PUNCTUATION:_SPACE].sum(0), columns[[_ASCII_COMMA, _COMMA, _STOP]].sum(0)
    measured = (punctuation, commas, *columns[_REPEATED_LINES:_TOP], counts[:, _TOP:_REPEATED], counts[:, _REPEATED:])
    return Statistics(columns[:_SPACE].sum(0), *columns[: ch.LETTER], *measured)


@cache
def _kinds() -> Bytes:
    """Kind of each code point, uint8 [0x110000]."""
    kinds = class_table().copy()
    kinds[kinds == ch.WHITESPACE] = _SPACE
    for kind, characters in (
        (_SEPARATOR, "、|｜_#/·•"),
        (_ASCII_COMMA, ","),
        (_COMMA, "，"),
        (_STOP, "。."),
        (_CLOSING, ":：）)》】]}>〉〕"),
        (_END, "！？!?…⋯;；．｡”’」』\"'"),
        (_NEWLINE, "\n"),
    ):
        kinds[[ord(c) for c in characters]] = kind
    return kinds


@njit(nogil=True, cache=True)
def _measure(data: Bytes, offsets: NDArray[np.int64], kinds: Bytes, counts: NDArray[np.int64]) -> None:
    longest = 1
    for d in range(len(counts)):
        longest = max(longest, offsets[d + 1] - offsets[d])
    letters, again = np.empty(min(longest, _SAMPLE), np.uint16), np.empty(min(longest, _SAMPLE) + 1, np.uint8)
    found = np.empty(1 << _bits(2 * len(letters)), np.uint32)
    wide = np.empty(len(letters) + 1, np.uint16)  # how many of the letters before a letter are not ASCII
    places, slots = np.empty(TOP_SAMPLE, np.int32), np.empty(TOP_SAMPLE, np.uint16)
    grams = np.empty(2 * TOP_SAMPLE, np.uint64)
    lines = np.empty((min(longest, _LINES), 2), np.uint64)  # hash, characters
    seen = np.empty(1 << _bits(2 * len(lines)), np.uint64)
    counted = np.empty(len(REPEATED_GRAMS), np.int64)  # for each n: letters before this one have been counted
    for d in range(len(counts)):
        row = counts[d]
        n, count = _walk(data, offsets[d], offsets[d + 1], kinds, row, letters, lines)
        row[_LETTERS] = n
        _repeated_lines(lines, count, seen, row)
        sample = min(n, TOP_SAMPLE)
        again[: n + 1] = 1
        for k in range(len(TOP_GRAMS)):
            row[_TOP + k] = _most_frequent(letters, sample, TOP_GRAMS[k], again, places, slots, grams)
        if n > sample:
            again[: n + 1] = 1  # what is there once in the sample may come again after it
        _repeated_letters(letters, n, again, wide, found, counted, row[_REPEATED:])


@njit(nogil=True, cache=True)
def _walk(
    data: Bytes,
    begin: int,
    end: int,
    kinds: Bytes,
    row: NDArray[np.int64],
    letters: NDArray[np.uint16],
    lines: NDArray[np.uint64],
) -> tuple[int, int]:
    """Counts into ``row``; fills ``letters`` and ``lines``, and returns the numbers of both."""
    n, han, ascii, marks, count = 0, 0, 0, 0, 0  # letters, of which by quick paths, punctuation, lines so far
    item, items, run = 0, 0, 0  # letters before the item of a word list; items, letters of the list
    line, ended, link, first, h = 0, 0, 0, begin, _PRIME  # start of the line, end of a sentence in it, an address, …
    i, room = begin, len(letters)
    while i <= end:
        a = data[i] if i < end else np.uint8(10)  # the last line ends as well
        if 0xE5 <= a <= 0xE9 and i + 2 < end:  # U+5000 to U+9FFF: most of all text
            code = (a & 15) << 12 | (np.int64(data[i + 1]) & 63) << 6 | (np.int64(data[i + 2]) & 63)
            if n < room:
                letters[n] = code
            n, han, i, h = n + 1, han + 1, i + 3, (h ^ np.uint64(code)) * _PRIME
            continue
        if 97 <= a | 32 <= 122:
            if n < room:
                letters[n] = a | 32
            n, ascii, i, h = n + 1, ascii + 1, i + 1, (h ^ np.uint64(a)) * _PRIME
            continue
        code, size = (np.int64(a), 1) if a < 0x80 else decode(data, i, end)
        i, kind = i + size, kinds[code]
        row[kind] += 1
        if kind < _SPACE:
            h = (h ^ np.uint64(code)) * _PRIME
            if kind <= _LETTER:
                if n < room:
                    letters[n] = _fold(code)
                n += 1
                continue
            marks += 1
            ended = n + marks if kind >= _STOP else ended
            link |= code == 47 and i > begin + 2 and data[i - 2] == 47 and data[i - 3] == 58  # ://
        elif kind == _SPACE and (item == n or data[i - size - 1] < 128):
            continue  # words of a phrase
        fits = 0 < n - item <= _ITEM
        items, run = (items + 1, run + n - item) if fits else (items, run)
        if (n > item and not fits) or (kind > _ASCII_COMMA and kind != _SPACE):
            row[_STUFFED] += run if items >= _ITEMS else 0
            items, run = 0, 0
        item = n
        if kind == _NEWLINE:
            total = n + marks
            count = _end_line(data, first, i - 1, total - line, total - ended, h, kinds, lines, count, row)
            row[_LINKED] += total - line if link else 0
            line, ended, link, first, h = total, total, 0, i, _PRIME
    row[ch.HAN] += han
    row[ch.ASCII_LETTER] += ascii
    return min(n, room), count


@njit(nogil=True, cache=True)
def _end_line(
    data: Bytes,
    begin: int,
    end: int,
    size: int,
    tail: int,
    h: np.uint64,
    kinds: Bytes,
    lines: NDArray[np.uint64],
    count: int,
    row: NDArray[np.int64],
) -> int:
    """Counts a line of ``size`` characters, ``data[begin:end]``, ``tail`` of them behind the last sentence's end.

    Returns the number of lines with it.
    """
    if size == 0 or count == len(lines):
        return count
    lines[count, 0], lines[count, 1] = h, size
    last, i = _back(data, begin, end, kinds)
    kind = kinds[last]
    row[_LISTED] += size if size < SHORT_LINE and (kind <= _LETTER or kind == _SEPARATOR) else 0
    row[_UNFINISHED] += tail if size >= PARAGRAPH and kind < _CLOSING else 0
    while i > begin and last in _BRACKETS:  # [全文] and 更多>>
        last, i = _back(data, begin, i, kinds)
    before, _ = _back(data, begin, i, kinds)
    # …… is how Chinese is written, … how it is cut off
    teaser = (last == _ELLIPSIS and before != _ELLIPSIS) or (before, last) in _TEASERS
    row[_TEASING] += size if teaser else 0
    return count + 1


@njit(nogil=True, cache=True)
def _back(data: Bytes, begin: int, end: int, kinds: Bytes) -> tuple[int, int]:
    """The last character of ``data[begin:end]`` that is not white space, and where it begins; a newline if none."""
    while end > begin:
        i = end - 1
        while i > begin and data[i] & 0xC0 == 0x80:
            i -= 1
        code, _ = decode(data, i, end)
        if kinds[code] < _SPACE:
            return code, i
        end = i
    return 10, begin


@njit(nogil=True, cache=True)
def _repeated_lines(lines: NDArray[np.uint64], count: int, table: NDArray[np.uint64], row: NDArray[np.int64]) -> None:
    """Counts the characters in lines, and in paragraphs, that came before."""
    if count < 2:
        return
    bits = _bits(2 * count)
    seen, mask = table[: 1 << bits], np.uint64((1 << bits) - 1)
    seen[:] = 0
    for k in range(count):
        h, size = lines[k, 0] | np.uint64(1), np.int64(lines[k, 1])  # 0 marks a free slot
        slot = (h >> np.uint64(32)) & mask
        while seen[slot] != 0 and seen[slot] != h:
            slot = (slot + np.uint64(1)) & mask
        if seen[slot] == h:
            row[_REPEATED_LINES] += size
            row[_PARAGRAPHS] += size if size >= PARAGRAPH else 0
        seen[slot] = h


@njit(nogil=True, cache=True)
def _most_frequent(
    letters: NDArray[np.uint16],
    n: int,
    size: int,
    again: Bytes,
    places: NDArray[np.int32],
    slots: NDArray[np.uint16],
    table: NDArray[np.uint64],
) -> np.int64:
    """How often the most frequent n-gram of ``size`` (2 to 4) of the n letters comes again.

    again [n]: whether the n-gram of size − 1 at a letter is there more than once; on return the same of ``size``. Only
    where two such meet can a longer one be there again: a fifth of the places in prose, so that all cost little more
    than the pairs.
    """
    count = 0
    for i in range(n - size + 1):
        places[count] = i
        count += again[i] & again[i + 1]
    again[:n] = 0
    bits = _bits(2 * count)
    seen, mask, shift = table[: 1 << bits], np.uint64((1 << bits) - 1), np.uint64(64 - bits)
    seen[:] = 0
    most = np.uint64(0)
    for k in range(count):
        key = np.uint64(0)
        for j in range(size):
            key = key << np.uint64(16) | np.uint64(letters[places[k] + j])
        h = key * _PRIME
        slot, tag = h >> shift, h & _TAG  # an entry: 48 bits of the hash, then how often it came
        entry = seen[slot]
        while entry != 0 and entry & _TAG != tag:
            slot = (slot + np.uint64(1)) & mask
            entry = seen[slot]
        entry = (entry | tag) + np.uint64(1)
        seen[slot], slots[k] = entry, slot
        most = max(most, entry & np.uint64(0xFFFF))
    for k in range(count):
        again[places[k]] = seen[slots[k]] & np.uint64(0xFFFF) > 1
    return np.int64(most) - (most > 0)


@njit(nogil=True, cache=True)
def _repeated_letters(
    letters: NDArray[np.uint16],
    n: int,
    again: Bytes,
    wide: NDArray[np.uint16],
    table: NDArray[np.uint32],
    counted: NDArray[np.int64],
    row: NDArray[np.int64],
) -> None:
    """Counts the letters in n-grams that came before, a letter once for each n; see the module for how.

    again [n]: 0 where the 4 letters at a letter are there only once, and so there is nothing to find.
    """
    bits = _bits(2 * n)
    seen, mask, shift = table[: 1 << bits], np.uint64((1 << bits) - 1), np.uint64(64 - bits)
    seen[:] = 0
    counted[:] = 0
    wide[0] = 0
    for i in range(n):
        wide[i + 1] = wide[i] + np.uint16(letters[i] >= 128)
    i, tags = 0, np.uint32(0xFFFF0000)
    while i + REPEATED_GRAMS[0] <= n:
        if not again[i] & again[i + 1]:
            i += 1
            continue
        key = np.uint64(letters[i]) << np.uint64(48) | np.uint64(letters[i + 1]) << np.uint64(32)
        key |= np.uint64(letters[i + 2]) << np.uint64(16) | np.uint64(letters[i + 3])
        h = (key ^ np.uint64(letters[i + 4]) * _MIX) * _PRIME
        slot, tag = h >> shift, np.uint32(h >> np.uint64(16)) & tags  # an entry: 16 bits of the hash, the place + 1
        length = 0
        while seen[slot] != 0 and length < 5:
            length = 0
            if seen[slot] & tags == tag:
                place = np.int64(seen[slot] & ~tags) - 1
                while i + length < n and letters[place + length] == letters[i + length]:
                    length += 1
            if length < 5:
                slot = (slot + np.uint64(1)) & mask
        seen[slot] = tag | np.uint32(i + 1)
        for k in range(min(length - 4, len(row))):
            row[k] += np.int64(wide[i + length]) - np.int64(wide[max(counted[k], i)])
            counted[k] = i + length
        i += max(1, length - REPEATED_GRAMS[-1] + 1)


@njit(nogil=True, cache=True)
def _bits(least: int) -> int:
    """The least b >= 2 with 2^b >= ``least``."""
    bits = 2
    while 1 << bits < least:
        bits += 1
    return bits


@njit(nogil=True, cache=True, inline="always")
def _fold(code: int) -> int:
    """16 bits of a code point: itself, or a surrogate for one of the planes beyond."""
    return code if code < 0x10000 else 0xD800 | ((code ^ code >> 11) & 0x7FF)
