"""The kernel of ``normalise``: rewrites documents in one walk over their bytes. No character grows."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.clean import characters as ch
from congling.clean.characters import Bytes, decode

# Bits of what was changed (in the order of normalise.CHANGES), and of what Python should look at.
_CONTROL, _INVISIBLE, _GARBLED, _NEWLINES, _SPACES, _BLANK_LINES, _FULLWIDTH, _PUNCTUATION, HTML, NFC = [
    1 << bit for bit in range(10)
]
_INDENT = 32  # most white space kept at the start of a line, characters


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
    data: Bytes,
    i: int,
    end: int,
    table: Bytes,
    fullwidth: bool,
    out: Bytes,
    o: int,
    counts: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Writes one document at ``out[o:]``; returns the end of it, the changes and the needs."""
    start, amp, less = o, -1, -1  # amp, less: where the last & and < are in out
    last, run = -1, 0  # the repetition under way
    changed, need, read, garbled = 0, 0, 0, 0
    while i < end:
        code, size = decode(data, i, end)
        kind = table[code]
        if kind < ch.PLAIN:
            before = o
            i, o, more, lost = _white_space(data, i, end, table, fullwidth, out, o, o == start)
            changed |= more
            garbled += lost
            last = last if o == before else -1
            continue
        i += size
        read += 1
        if kind == ch.FULLWIDTH and fullwidth:
            code, size = code - 0xFEE0, 1
            changed |= _FULLWIDTH
        elif kind == ch.COMPOSES:
            need |= NFC
        if kind >= ch.REPEAT2:
            run = run + 1 if code == last else 1
            last = code
            if run > (2 if kind == ch.REPEAT2 else 3 if kind == ch.REPEAT3 else 8):
                changed |= _PUNCTUATION
                continue
        else:
            last = -1
        if size == 1:
            out[o] = code
        else:
            for k in range(size):
                out[o + k] = data[i - size + k]
        if kind == ch.MARKUP:
            amp, less = (o, less) if code == 38 else (amp, o) if code == 60 else (amp, less)
            need |= HTML if code == 62 and _ends_tag(out, less, o) else 0
        elif code == 59 and amp >= 0 and _is_name(out, amp + 1, o):
            need |= HTML
        o += size
    counts[0], counts[1] = garbled, read + garbled
    return o, changed, need


@njit(nogil=True, cache=True)
def _white_space(
    data: Bytes, i: int, end: int, table: Bytes, fullwidth: bool, out: Bytes, begin: int, at_start: bool
) -> tuple[int, int, int, int]:
    """Walks over white space and dropped characters; returns (i, end in out, changes, garbled characters)."""
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


@njit(nogil=True, cache=True)
def _ends_tag(out: Bytes, less: int, o: int) -> bool:
    """Whether the ``>`` to come at ``out[o]`` may end a tag or a comment."""
    if o >= 2 and out[o - 1] == 45 and out[o - 2] == 45:
        return True
    return (
        less >= 0 and less + 1 < o and (out[less + 1] == 47 or out[less + 1] == 33 or _is_name(out, less + 1, less + 2))
    )


@njit(nogil=True, cache=True)
def _is_name(out: Bytes, begin: int, end: int) -> bool:
    """Whether ``out[begin:end]`` may be the name of an entity: 1 to 32 of A-Z a-z 0-9 #."""
    if end <= begin or end - begin > 32:
        return False
    for k in range(begin, end):
        b = out[k]
        if not (48 <= b <= 57 or 65 <= b <= 90 or 97 <= b <= 122 or b == 35):
            return False
    return True
