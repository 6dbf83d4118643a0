"""Traditional characters become simplified ones: what OpenCC's conversion t2s makes of a document, many times as fast.

A character becomes what OpenCC makes of it alone, unless a phrase says otherwise (乾 becomes 干, but stays in 乾坤).
Few characters are ever such an exception, and no phrase has punctuation in it. So a kernel converts by a table, and
clauses with one of those characters go to OpenCC. Another exception is what describes a character that Unicode lacks
(⿰馬旦): OpenCC leaves the parts as they are, were they punctuation; from there on the document goes to OpenCC.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import CODE_POINTS, Bytes, copy, decode, encode
from congling.corpus.documents import from_buffers, text_buffers

# What a phrase of OpenCC 1.4 converts otherwise than the character alone: test_traditional.py reads its dictionaries.
AMBIGUOUS = "么乾俱剋劄吒哩噁坏彷徵扞於昇氾沈濛甦畫瞭祕脩蒐薹藉衹袷覆計谿逕釐鉅鍊鍾陞麼麽"
_COMPATIBLE = ((0xF900, 0xFB00), (0x2F800, 0x2FA20))  # OpenCC sees the characters they are compatible with
_DESCRIBES = (0x2FF0, 0x3000)
_HAN = ((0x3400, 0xA000), (0x20000, 0x323B0))  # all the others that it changes
_OPENCC = -1

Numbers = NDArray[np.int64]


def simplify(text: pa.LargeStringArray, wanted: NDArray[np.uint16]) -> tuple[pa.LargeStringArray, NDArray[np.bool_]]:
    """Of the documents that are ``wanted`` [N] those that conversion changes, converted, and which they are [N].

    The documents are normalised: no NUL.
    """
    data, offsets = text_buffers(text)
    spans = np.empty((int(offsets[-1] - offsets[0]) // 3 + 1, 2), np.int64)
    spans = spans[: _find(data, offsets, wanted, _table(), spans)]
    pieces = np.empty(int((spans[:, 1] - spans[:, 0] + 1).sum()), np.uint8)
    _join(data, spans, pieces)
    pieces = np.frombuffer(_by_opencc(pieces.tobytes().decode()).encode(), np.uint8)
    out = np.empty(int(offsets[-1] - offsets[0]) * 4 // 3 + len(pieces), np.uint8)
    ends, changed = np.zeros(len(offsets), np.int64), np.zeros(len(text), np.bool_)
    _convert(data, offsets, wanted, _table(), spans, pieces, out, ends, changed)
    ends = ends[np.flatnonzero([True, *changed])]
    return from_buffers(out[: ends[-1]], ends), changed


def _by_opencc(pieces: str) -> str:
    """The pieces, NUL behind each: in one call (quicker) unless one may take the next for a part of a character."""
    alone = any(chr(code) in pieces for code in range(*_DESCRIBES))
    return "\0".join(map(_converter(), pieces.split("\0"))) if alone else _converter()(pieces)


@cache
def _converter() -> Callable[[str], str]:
    from opencc import OpenCC  # only corpora with traditional characters need it

    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


@cache
def _table() -> NDArray[np.int32]:
    """What becomes of each code point, int32 [0x110000]; _OPENCC where its neighbours tell."""
    table = np.arange(CODE_POINTS, dtype=np.int32)
    codes = np.concatenate([np.arange(first, end) for first, end in _HAN])
    table[codes] = [ord(c) for c in _converter()("\n".join(map(chr, codes))).split("\n")]
    table[[ord(c) for c in AMBIGUOUS]] = _OPENCC
    for first, end in (*_COMPATIBLE, _DESCRIBES):
        table[first:end] = _OPENCC
    return table


@njit(nogil=True, cache=True)
def _find(data: Bytes, offsets: Numbers, wanted: NDArray[np.uint16], table: NDArray[np.int32], spans: Numbers) -> int:
    """Fills ``spans`` with (begin, end) of the clauses that OpenCC is to convert; returns their number."""
    found = 0
    for d in range(len(wanted)):
        begin, end = offsets[d], offsets[d + 1] if wanted[d] else offsets[d]
        i = begin
        while i < end:
            code, size = decode(data, i, end)
            if table[np.uintp(code)] != _OPENCC:
                i += size
                continue
            first, described = i, False
            while first > begin and not _parts(data, first):
                first -= 1
            first += data[first] < 0x80
            while i < end and (described or not _parts(data, i)):
                described |= data[i] == 0xE2 and data[i + 1] == 0xBF and data[i + 2] >= 0xB0
                i += 1
            spans[found, 0], spans[found, 1], begin = first, i, i
            found += 1
    return found


@njit(nogil=True, cache=True)
def _parts(data: Bytes, i: int) -> bool:
    """Whether ASCII, or punctuation of the blocks U+3000 and U+FF00, begins at ``i``: no phrase has it."""
    a = data[i]
    return bool(a < 0x80 or (a == 0xE3 and data[i + 1] == 0x80) or (a == 0xEF and data[i + 1] >= 0xBC))


@njit(nogil=True, cache=True)
def _join(data: Bytes, spans: Numbers, out: Bytes) -> None:
    """Writes the spans to ``out``, NUL behind each."""
    o = 0
    for begin, end in spans:
        o = copy(data, begin, end, out, o) + 1
        out[o - 1] = 0


@njit(nogil=True, cache=True)
def _convert(
    data: Bytes,
    offsets: Numbers,
    wanted: NDArray[np.uint16],
    table: NDArray[np.int32],
    spans: Numbers,
    pieces: Bytes,
    out: Bytes,
    ends: Numbers,
    changed: NDArray[np.bool_],
) -> None:
    """Writes the documents that change to ``out``; of the spans, the ``pieces`` in their place."""
    o, s, p = 0, 0, 0
    for d in range(len(wanted)):
        i, end = offsets[d], offsets[d + 1] if wanted[d] else offsets[d]
        other = False
        while i < end:
            stop = spans[s, 0] if s < len(spans) and spans[s, 0] < end else end
            while i < stop:
                code, size = decode(data, i, end)
                new = table[np.uintp(code)]
                other |= new != code
                if size == 1:
                    out[np.uintp(o)] = new
                    o += 1
                elif 0x800 <= new < 0x10000:
                    out[np.uintp(o)] = 0xE0 | new >> 12
                    out[np.uintp(o + 1)] = 0x80 | new >> 6 & 63
                    out[np.uintp(o + 2)] = 0x80 | new & 63
                    o += 3
                else:
                    o = encode(out, o, new)
                i += size
            if i < end:
                while pieces[p] != 0:
                    out[o] = pieces[p]
                    other |= i >= spans[s, 1] or out[o] != data[i]
                    i, o, p = i + 1, o + 1, p + 1
                other |= i != spans[s, 1]
                i, s, p = spans[s, 1], s + 1, p + 1
        changed[d] = other
        o = o if other else ends[d]
        ends[d + 1] = o
