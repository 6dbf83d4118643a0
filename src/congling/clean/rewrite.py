"""The kernel of ``normalise``: rewrites documents in one walk over their bytes. No character grows."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.clean import characters as ch
from congling.clean.characters import Bytes, copy, decode

# Bits of what was changed, in the order of normalise.CHANGES. The last five are also what a document may still need.
_CONTROL, _INVISIBLE, _GARBLED, _NEWLINES, _SPACES, _BLANK_LINES, _FULLWIDTH, _PUNCTUATION = [1 << b for b in range(8)]
HTML, UNICODE, MOJIBAKE, TRADITIONAL, WRAPS = [1 << b for b in range(8, 13)]
_INDENT = 32  # most white space kept at the start of a line, characters
_LIMITS = np.array([2, 3, 8, 1 << 60], np.int64)  # repetitions kept of REPEAT2 … ECHO
# A line with this share of characters that are common in mojibake is looked at, a document with this share of
# traditional characters is converted: simplified documents have at most 0.02, traditional ones at least 0.08.
_SUSPECT_SHARE, _TRADITIONAL_SHARE = 5, 25  # one of so many
_WRAPPED = (12, 80)  # characters of a line, on average, in documents that may be wrapped


@njit(nogil=True, cache=True)
def rewrite(
    data: Bytes,
    offsets: NDArray[np.int64],
    table: Bytes,
    fullwidth: bool,
    out: Bytes,
    ends: NDArray[np.int64],
    changes: NDArray[np.uint16],
    needs: NDArray[np.uint16],
    counts: NDArray[np.int64],
) -> None:
    """Writes the documents ``data[offsets[d]:offsets[d + 1]]``, rewritten, to ``out[ends[d]:ends[d + 1]]``.

    out: at least as long as all documents. changes, needs [N]: bits. counts [N, 2]: garbled characters dropped, and
    characters read (white space and what is dropped as invisible or control left out).
    """
    position = 0
    for d in range(len(changes)):
        position, changes[d], needs[d] = _rewrite_one(
            data, offsets[d], offsets[d + 1], table, fullwidth, out, position, counts[d]
        )
        ends[d + 1] = position


@njit(nogil=True, cache=True)
def _rewrite_one(
    data: Bytes, i: int, end: int, table: Bytes, fullwidth: bool, out: Bytes, o: int, counts: NDArray[np.int64]
) -> tuple[int, int, int]:
    """Writes one document at ``out[o:]``; returns the end of it, the changes and the needs."""
    start, last, run = o, -1, 0  # last, run: the repetition under way
    changed, need, read, garbled, dropped = 0, 0, 0, 0, 0
    suspects, traditional, lines, line_read, line_suspects = 0, 0, 0, 0, 0  # line_…: at the start of the line
    while i < end:
        if last < 0 and (o > start or data[i] != 32):
            stop, n, odd, old = _plain_run(data, i, end, table)
            o = copy(data, i, stop, out, o)
            i, read = stop, read + n
            suspects, traditional = suspects + odd, traditional + old
            if i == end:
                break
            if n > 0 and data[i] == 10 and i + 1 < end and _shows(data[i + 1]):  # the end of a line as it should be
                out[o] = 10
                i, o, lines = i + 1, o + 1, lines + 1
                need |= _suspicious(suspects - line_suspects, read - dropped - line_read)
                line_read, line_suspects = read - dropped, suspects
                continue
        code, size = decode(data, i, end)
        kind = table[code]
        if kind < ch.PLAIN:
            before = o
            i, o, more, lost = _white_space(data, i, end, table, fullwidth, out, o, o == start)
            changed |= more
            garbled += lost
            last = last if o == before else -1
            if o > before and out[before] == 10:
                lines += 1
                need |= _suspicious(suspects - line_suspects, read - dropped - line_read)
                line_read, line_suspects = read - dropped, suspects
            continue
        i += size
        read += 1
        if kind == ch.FULLWIDTH and fullwidth:
            code, size = code - 0xFEE0, 1
            changed |= _FULLWIDTH
        suspects += kind == ch.SUSPECT
        need |= UNICODE if kind == ch.COMPOSES else HTML if kind == ch.MARKUP else 0
        if kind >= ch.REPEAT2:
            run = run + 1 if code == last else 1
            last = code
            if run > _LIMITS[kind - ch.REPEAT2]:
                changed |= _PUNCTUATION
                dropped += 1
                continue
            need |= MOJIBAKE if kind == ch.ECHO and (run == 4 or code == 0x951F) else 0  # 锟
        else:
            last = -1
        if size == 1:
            out[o] = code
            o += 1
        else:
            o = copy(data, i - size, i, out, o)
    kept = read - dropped
    need |= _suspicious(suspects - line_suspects, kept - line_read) | _needs_as_a_whole(kept, traditional, lines)
    counts[0], counts[1] = garbled, read + garbled
    return o, changed, need


@njit(nogil=True, cache=True)
def _needs_as_a_whole(kept: int, traditional: int, lines: int) -> int:
    """What a document of so many characters, traditional ones, and line breaks may need."""
    wraps = WRAPS if _WRAPPED[0] * lines < kept < _WRAPPED[1] * lines else 0
    return wraps | (TRADITIONAL if traditional * _TRADITIONAL_SHARE > kept else 0)


@njit(nogil=True, cache=True)
def _plain_run(data: Bytes, i: int, end: int, table: Bytes) -> tuple[int, int, int, int]:
    """Walks over what stays as it is, most of a text. Returns (where it ends, characters, suspects, traditional ones).

    Punctuation and spaces belong to it when a character follows that is sure to be another and to stay.
    """
    read, suspects, traditional = 0, 0, 0
    while i < end:
        a = data[np.uintp(i)]
        if a >= 0xE0:
            if a > 0xEF or i + 2 >= end:
                break
            b, c = np.uintp(data[np.uintp(i + 1)]), np.uintp(data[np.uintp(i + 2)])
            kind = table[
                (np.uintp(a) & np.uintp(15)) << np.uintp(12) | (b & np.uintp(63)) << np.uintp(6) | c & np.uintp(63)
            ]
            if kind != ch.PLAIN:
                if kind < ch.PLAIN or (
                    kind > ch.TRADITIONAL and not (kind == ch.REPEAT3 and i + 3 < end and _shows(data[np.uintp(i + 3)]))
                ):
                    break
                suspects += kind == ch.SUSPECT
                traditional += kind == ch.TRADITIONAL
            read += 1
            i += 3
        elif a < 0x80:
            kind = table[np.uintp(a)]
            if kind != ch.PLAIN:
                if (a != 32 and kind < ch.REPEAT2) or i + 1 >= end:
                    break
                b = data[np.uintp(i + 1)]
                if not _shows(b) or b == a:
                    break
                read -= a == 32
            read += 1
            i += 1
        else:
            break
    return i, read, suspects, traditional


@njit(nogil=True, cache=True)
def _line_break(data: Bytes, i: int, end: int) -> int:
    """Where the newline at ``i``, a blank line and the indent behind it end; ``i`` unless all that stays as it is."""
    line = i + 2 if i + 1 < end and data[i + 1] == 10 else i + 1
    k = line
    while k < end and data[k] == 32:
        k += 1
    stays = k < end and k - line <= _INDENT and _shows(data[k]) and (k == line or data[k] < 0x80)
    return k if stays else i


@njit(nogil=True, cache=True, inline="always")
def _shows(byte: int) -> bool:
    """Whether a character that begins with ``byte`` is for certain neither white space nor dropped."""
    return 0x21 <= byte <= 0x7E or 0xE4 <= byte <= 0xE9


@njit(nogil=True, cache=True, inline="always")
def _suspicious(suspects: int, read: int) -> int:
    return MOJIBAKE if suspects >= 2 and suspects * _SUSPECT_SHARE >= read else 0


@njit(nogil=True, cache=True)
def _white_space(
    data: Bytes, i: int, end: int, table: Bytes, fullwidth: bool, out: Bytes, begin: int, at_start: bool
) -> tuple[int, int, int, int]:
    """Walks over white space and dropped characters; returns (i, end in out, changes, garbled characters)."""
    stop = _line_break(data, i, end) if data[i] == 10 and not at_start else i
    if stop > i:
        return stop, copy(data, i, stop, out, begin), 0, 0
    o, line = begin, begin  # line: where the line begins in out (or the run of spaces, in a line)
    newlines = 2 if at_start else 0  # the start of a document is like a blank line
    changed, garbled, code = 0, 0, 0
    while i < end:
        code, size = decode(data, i, end)
        kind = table[code]
        if kind == ch.NEWLINE:
            size = 2 if code == 13 and i + 1 < end and data[i + 1] == 10 else size
            changed |= (_NEWLINES if code != 10 else 0) | (_SPACES if o > line else 0)
            o = line
            if newlines < 2:
                out[o] = 10
                o += 1
            else:
                changed |= _BLANK_LINES
            newlines += 1
            line = o
        elif kind == ch.SPACE:
            plain = code == 32 or code == 9
            out[o] = code if plain else 32
            changed |= 0 if plain else _SPACES
            o += 1
        elif kind < ch.PLAIN:
            changed |= _CONTROL if kind == ch.CONTROL else _INVISIBLE if kind == ch.INVISIBLE else _GARBLED
            garbled += 1 if kind == ch.GARBLED else 0
        else:
            break
        i += size
    if i >= end:
        return i, begin, changed | (_SPACES if o > line else 0) | (_BLANK_LINES if line > begin else 0), garbled
    if newlines > 0:
        ascii_next = code < 0x80 or (fullwidth and table[code] == ch.FULLWIDTH)
        keep = min(o - line, _INDENT) if ascii_next else 0
    else:
        keep = min(o - line, 1)
        for k in range(line, o):
            out[line] = 9 if out[k] == 9 else out[line]
    return i, line + keep, changed | (_SPACES if line + keep < o else 0), garbled
