"""Broken line wraps: lines that were broken at a fixed width (e-mails, old books in plain text) are joined again.

A kernel decides by document. Width is counted in columns, 2 for what is not ASCII. A document is wrapped when few of
its lines pass a width W, and 0.8 of the lines (but those under W/2: headings) that break off in mid-sentence before a
line that may continue it are *full*, as wide as W but for some columns, and have commas or full stops within: people
break lines where the sense allows it, machines where the page ends; items of a list have no commas.
A full line is joined with the next unless it ends a sentence or the next cannot go on; a space goes between ASCII.

Short lines (W under 40 columns: verse) and documents with code fences stay. Not followed: words that were divided with
a hyphen, paragraphs whose last line is full and ends a sentence (that line break stays, which does no harm).
"""

from functools import cache

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import CODE_POINTS, Bytes, decode
from congling.corpus.documents import from_buffers, text_buffers

_LEAST, _MOST = 40, 160  # columns of W
_SLACK = 8  # columns a full line may lack: a word, or punctuation that may not begin a line
_FULL = 5  # fewest full lines that break off
# Roles of a character: at the end of a line it ends a sentence, at the start it may go on with one, or marks an item.
_ENDS, _CONTINUES, _MARKS = 1, 2, 4


def unwrap(
    text: pa.LargeStringArray, wanted: NDArray[np.uint16] | None = None
) -> tuple[pa.LargeStringArray, NDArray[np.bool_]]:
    """The normalised documents with broken lines joined, and which of them changed [N]. No document grows.

    With ``wanted`` [N], those of 0 are left alone and only the documents that changed are returned.
    """
    data, offsets = text_buffers(text)
    full, changed = np.zeros(len(text), np.int64), np.zeros(len(text), np.bool_)
    _full_widths(data, offsets, np.ones(len(text), np.uint16) if wanted is None else wanted, _roles(), full)
    if not full.any():
        return text, changed
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    ends = np.zeros(len(offsets), np.int64)
    _unwrap(data, offsets, _roles(), full, wanted is None, out, ends, changed)
    if not changed.any():
        return text, changed
    ends = ends if wanted is None else ends[np.flatnonzero([True, *changed])]
    return from_buffers(out[: ends[-1]], ends), changed


@njit(nogil=True, cache=True)
def _unwrap(
    data: Bytes,
    offsets: NDArray[np.int64],
    roles: Bytes,
    widths: NDArray[np.int64],
    all_stay: bool,
    out: Bytes,
    ends: NDArray[np.int64],
    changed: NDArray[np.bool_],
) -> None:
    """Writes the documents to ``out``; unless all stay, those alone that changed."""
    o = 0
    for d in range(len(changed)):
        full, begin = widths[d], offsets[d]
        end, line = offsets[d + 1] if all_stay or full > 0 else begin, begin
        for i in range(begin, end):
            b = data[i]
            if b == 10:
                if full > 0 and _columns(data, line, i) >= full and _breaks_off(data, line, i, end, roles):
                    changed[d] = True
                    line = i + 1
                    if data[i - 1] >= 0x80 or data[i + 1] >= 0x80:
                        continue
                    b = 32
                line = i + 1
            out[o] = b
            o += 1
        o = o if changed[d] or all_stay else ends[d]
        ends[d + 1] = o


@njit(nogil=True, cache=True)
def _full_widths(
    data: Bytes, offsets: NDArray[np.int64], wanted: NDArray[np.uint16], roles: Bytes, full: NDArray[np.int64]
) -> None:
    widths = np.empty(_MOST + 2, np.int64)  # lines of each width that break off
    for d in range(len(full)):
        full[d] = _full_width(data, offsets[d], offsets[d + 1], widths, roles) if wanted[d] else 0


@njit(nogil=True, cache=True)
def _full_width(data: Bytes, begin: int, end: int, widths: NDArray[np.int64], roles: Bytes) -> int:
    """Columns of the narrowest full line of a wrapped document, 0 for a document that is not wrapped."""
    widths[:] = 0
    lines, wide, stops, line = 0, 0, 0, begin
    while line < end:
        i = line
        while i < end and data[np.uintp(i)] != 10:
            i += 1
        if i > line:
            columns = min(_columns(data, line, i), _MOST + 1)
            lines += 1
            wide += columns > _MOST
            if data[line] == 96 and i - line >= 3 and data[line + 1] == 96 and data[line + 2] == 96:
                return 0
            if wide * 50 > lines + 200:  # far from wrapped: no need to read on
                return 0
            if i < end and _breaks_off(data, line, i, end, roles):
                widths[columns] += 1
                stops += _stops(data, line, i) if columns >= _LEAST else 0
        line = i + 1
    total = widths.sum()
    if total < _FULL or widths[_MOST + 1] * 20 > total:
        return 0
    passed, width = 0, _MOST + 1
    while passed + widths[width] <= total // 50:  # W: all but one in 50 are at most that wide
        passed += widths[width]
        width -= 1
    full = widths[max(width - _SLACK, 0) : width + 1].sum() + passed
    half, long = widths[width // 2 :].sum(), widths[_LEAST:].sum()
    prose = stops >= long and full >= _FULL and full * 4 >= total
    return width - _SLACK if prose and width >= _LEAST and full * 5 >= half * 4 else 0


@njit(nogil=True, cache=True)
def _stops(data: Bytes, begin: int, end: int) -> int:
    """Commas and full stops: prose has them within its lines."""
    stops = 0
    for i in range(begin, end - 2):
        a, b, c = data[i], data[i + 1], data[i + 2]
        stops += (a == 0xEF and b == 0xBC and c == 0x8C) or (a == 0xE3 and b == 0x80 and (c == 0x81 or c == 0x82))
        stops += (a == 44 or a == 46) and b == 32
    return stops


@njit(nogil=True, cache=True)
def _columns(data: Bytes, begin: int, end: int) -> int:
    columns = 0
    for k in range(end - begin):
        b = data[np.uintp(begin + k)]
        columns += 1 if b < 0x80 else 2 if b >= 0xC0 else 0
    return columns


@njit(nogil=True, cache=True)
def _breaks_off(data: Bytes, line: int, i: int, end: int, roles: Bytes) -> bool:
    """Whether the line up to the newline at ``i`` does not end a sentence, and the next line may continue it."""
    last = i - 1
    while last > line and data[last] & 0xC0 == 0x80:
        last -= 1
    if i + 1 >= end or roles[decode(data, line, i)[0]] & _MARKS or roles[decode(data, last, i)[0]] & _ENDS:
        return False
    return roles[decode(data, i + 1, end)[0]] & _CONTINUES != 0 and not _numbered(data, i + 1, end)


@cache
def _roles() -> Bytes:
    """What a character may do at the ends of a line: bits _ENDS, _CONTINUES, _MARKS."""
    roles = np.zeros(CODE_POINTS, np.uint8)
    roles[[ord(c) for c in "。！？；：…）」』】”’.!?:;|{}>)]\"'`*\\"]] |= _ENDS
    for first, last in ("㐀鿿", "az", "AZ", "09"):
        roles[ord(first) : ord(last) + 1] |= _CONTINUES
    roles[[ord(c) for c in "，。、；：！？）》」』”’“《（—…("]] |= _CONTINUES
    roles[[ord(c) for c in "#|>-*+="]] |= _MARKS
    return roles


@njit(nogil=True, cache=True)
def _numbered(data: Bytes, i: int, end: int) -> bool:
    """Whether the line begins as an item of a list: ``12.``, ``3)``, ``4、``."""
    k = i
    while k < end and 48 <= data[k] <= 57:
        k += 1
    return i < k < end and (data[k] == 46 or data[k] == 41 or data[k] == 0xE3)
