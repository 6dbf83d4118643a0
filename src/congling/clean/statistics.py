"""What the rules measure, of a whole batch at once: character classes, lines, word lists, repeated n-grams.

A *letter* is any character that is neither white space nor punctuation, ASCII in lower case. A *line* is what stands
between newlines, white space left out; of a document the first 32,768 that are not blank are looked at.

Repetition follows Rae et al. 2021 (Gopher, arXiv:2112.11446, table A1) with characters for words, for they need no
segmentation. Not followed: shares count an n-gram's *further* occurrences, so that a poem of 20 letters is not
repetitive because two of them come twice; paragraphs are lines of 50 characters or more, for most Chinese text has no
blank lines; a document's first 50,000 letters are looked at, of the most frequent n-grams its first 4096.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean import characters as ch
from congling.clean.characters import Bytes, class_table, decode
from congling.clean.grams import (
    ONE,
    PRIME,
    REPEATED_GRAMS,
    SPARE,
    TOP_GRAMS,
    TWO,
    Letters,
    bits_for,
    count_repeated,
    keep_repeated,
    kernel,
    most_frequent,
)
from congling.corpus.documents import text_buffers

TOP_SAMPLE = 4096  # letters whose most frequent n-grams are counted
PARAGRAPH = 50  # characters from which a line is a paragraph
SHORT_LINE = 20  # characters below which a line may be an entry of a list
_LISTING = 3  # lines of a list at least
_SAMPLE = 50_000  # letters of a document whose repetition is looked at; below 2^16, a place is 16 bits
_LINES = 1 << 15
_ITEM, _ITEMS = 8, 6  # letters at most of an item of a word list, items at least
_BLOCK = 4096  # bytes of a line whose marks are kept at once

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
    listed: NDArray[np.int64]  # in lines below SHORT_LINE that end in a letter or a separator, of 3 lines at least
    unfinished: NDArray[
        np.int64
    ]  # in lines of PARAGRAPH or more, behind their last end of a sentence, of 2 lines at least
    teasers: NDArray[np.int64]  # in lines that end in … or 阅读全文 and the like, of 2 lines at least
    linked: NDArray[np.int64]  # in lines that hold a web address
    stuffed: NDArray[np.int64]  # in word lists: 6 or more items of at most 8 letters between 、|_#/·• or spaces
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
    room = min(longest, _SAMPLE)
    letters, again = np.empty(room + SPARE, np.uint16), np.empty(room + 1, np.uint8)
    marks, lines = np.empty(_BLOCK + 1, np.int64), np.empty((min(longest, _LINES), 2), np.uint64)  # hash, characters
    places, slots = np.empty(room, np.int32), np.empty(room, np.uint32)
    counters, found = np.empty(1 << bits_for(4 * room), np.uint16), np.empty(1 << bits_for(2 * room), np.uint32)
    table = np.empty(1 << bits_for(2 * max(room, len(lines))), np.uint64)
    wide = np.empty(room + 1, np.uint16)  # how many of the letters before a letter are not ASCII
    counted = np.empty(len(REPEATED_GRAMS), np.int64)  # for each n: letters before this one have been counted
    for d in range(len(counts)):
        row = counts[d]
        n, count = _walk(data, offsets[d], offsets[d + 1], kinds, row, letters[: room + 1], marks, lines)
        row[_LETTERS] = n
        if count < _LISTING:
            row[_LISTED] = 0
        if count < 2:
            row[_UNFINISHED], row[_TEASING] = 0, 0
        _repeated_lines(lines, count, table, row)
        sample = min(n, TOP_SAMPLE)
        again[: n + 1] = 1
        for k in range(len(TOP_GRAMS)):
            kept, most = keep_repeated(letters, sample, TOP_GRAMS[k], again, counters, places, slots)
            row[_TOP + k] = most_frequent(letters, TOP_GRAMS[k], kept, most, counters, places, slots, table)
        if n > sample:  # what is there once in the sample may come again after it
            again[: n + 1] = 1
            keep_repeated(letters, n, REPEATED_GRAMS[0] - 1, again, counters, places, slots)
        kept, _ = keep_repeated(letters, n, REPEATED_GRAMS[0], again, counters, places, slots)
        count_repeated(letters, n, places[:kept], wide, found, counted, row[_REPEATED:])


@kernel
def _walk(
    data: Bytes,
    begin: int,
    end: int,
    kinds: Bytes,
    row: NDArray[np.int64],
    letters: Letters,
    marks: NDArray[np.int64],
    lines: NDArray[np.uint64],
) -> tuple[int, int]:
    """Counts into ``row``; fills ``letters`` and ``lines``, and returns the numbers of both.

    There is no branch on whether a character is a letter: all others go to ``marks``, a block of a line at a time.
    """
    n, han, ascii, digits, count = 0, 0, 0, 0, 0  # letters, of which Han, ASCII and digits; lines so far
    state = (0, 0, 0, 0, 0)  # of _count_marks
    line, link, first, h = 0, False, begin, PRIME  # characters before the line, an address in it, its place and hash
    i, room, wide = begin, len(letters) - 1, False  # wide: the character before is not ASCII
    while i <= end:
        stop, e, kind = min(i + _BLOCK, end), 0, np.uint8(0)
        while i < stop:
            u = np.uint64(i)
            a = data[u]
            if 0xE0 <= a < 0xF0 and i + 2 < end:
                code = (np.int64(a) & 15) << 12 | (np.int64(data[u + ONE]) & 63) << 6 | (np.int64(data[u + TWO]) & 63)
                kind = kinds[np.uint64(code)]
                letter, i = code, i + 3
            elif a < 0x80:
                code, kind = np.int64(a), kinds[np.uint64(a)]
                if kind == _NEWLINE:
                    break
                link |= a == 47 and i > begin + 1 and data[u - ONE] == 47 and data[u - TWO] == 58  # ://
                ascii += kind == ch.ASCII_LETTER
                digits += kind == ch.DIGIT
                letter, i = code | (kind == ch.ASCII_LETTER) << 5, i + 1
            else:
                code, size = decode(data, i, end)
                kind = kinds[np.uint64(code)]
                letter, i = _fold(code), i + size
            h = (h ^ np.uint64(code)) * PRIME if kind < _SPACE else h
            letters[np.uint64(min(n, room))], marks[np.uint64(e)] = letter, n << 4 | kind
            han += kind == ch.HAN
            n += kind <= _LETTER
            e += (kind > _LETTER) & (wide | (kind != _SPACE))  # not: spaces between words of a phrase
            wide = a >= 0x80
        over = i == end or kind == _NEWLINE  # the last line ends as well
        marks[e] = n << 4 | _NEWLINE
        state = _count_marks(marks[: e + over], row, state)
        if over:
            total, ended = n + state[0], state[1]
            count = _end_line(data, first, i, total - line, total - max(ended, line), h, kinds, lines, count, row)
            row[_LINKED] += total - line if link else 0
            i += 1
            line, link, first, h, wide = total, False, i, PRIME, False
    row[ch.HAN] += han
    row[ch.ASCII_LETTER] += ascii
    row[ch.DIGIT] += digits
    row[_LETTER] += n - han - ascii - digits
    return min(n, room), count


@kernel
def _count_marks(
    marks: NDArray[np.int64], row: NDArray[np.int64], state: tuple[int, int, int, int, int]
) -> tuple[int, int, int, int, int]:
    """Counts marks by kind, and word lists. A mark: the letters before it · 16 + its kind.

    The state: punctuation so far, characters up to the last end of a sentence, letters before the item of a word list,
    items and letters of the list.
    """
    punctuation, ended, item, items, run = state
    for mark in marks:
        n, kind = mark >> 4, mark & 15
        row[kind] += 1
        punctuation += kind < _SPACE
        ended = n + punctuation if _STOP <= kind < _SPACE else ended
        size = n - item
        fits = 0 < size <= _ITEM
        items, run = items + fits, run + (size if fits else 0)
        ends = ((size > 0) & (not fits)) | ((kind >= _ASCII_COMMA) & (kind != _SPACE))
        row[_STUFFED] += run if ends and items >= _ITEMS else 0
        items, run, item = (0 if ends else items), (0 if ends else run), n
    return punctuation, ended, item, items, run


@kernel
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


@kernel
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


@kernel
def _repeated_lines(lines: NDArray[np.uint64], count: int, table: NDArray[np.uint64], row: NDArray[np.int64]) -> None:
    """Counts the characters in lines, and in paragraphs, that came before."""
    if count < 2:
        return
    bits = bits_for(2 * count)
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


@njit(nogil=True, cache=True, inline="always")
def _fold(code: int) -> int:
    """16 bits of a code point: itself, or a surrogate for one of the planes beyond."""
    return code if code < 0x10000 else 0xD800 | ((code ^ code >> 11) & 0x7FF)
