"""What a character is to the cleaning kernels: two tables over all code points, indexed by the code point."""

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
CODE_POINTS = 0x110000

# Kinds for normalisation (`normalise_table`): white space and what is dropped come before PLAIN.
NEWLINE, SPACE, CONTROL, INVISIBLE, GARBLED, PLAIN, FULLWIDTH, COMPOSES, MARKUP, REPEAT2, REPEAT3, REPEAT8 = range(12)

# Classes for counting (`class_table`). Those up to LETTER are letters: what duplicates are compared by.
HAN, ASCII_LETTER, DIGIT, LETTER, PUNCTUATION, WHITESPACE = range(6)

_SPACES = " \t\xa0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_NEWLINES = "\n\r\v\f\x85\u2028\u2029"
_INVISIBLE = "\xad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\ufeff\ufffc"
_INVISIBLE_RANGES = ((0x202A, 0x202F), (0x2060, 0x2070), (0xFFF9, 0xFFFC), (0xE0000, 0xE0080))
_GARBLED_RANGES = ((0xD800, 0xF900), (0xFDD0, 0xFDF0), (0xFFFD, 0x10000), (0xF0000, CODE_POINTS))
_HAN_RANGES = ((0x3005, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))  # 々〆〇 too


@cache
def normalise_table() -> Bytes:
    """Kind of each code point for the normalisation kernel, uint8 [0x110000]."""
    table = np.full(CODE_POINTS, PLAIN, np.uint8)
    table[_code_points_that_compose()] = COMPOSES
    table[[*range(0x20), *range(0x7F, 0xA0)]] = CONTROL
    _set(table, "&<>", MARKUP)
    _set(table, "!?~,;:！？～，；：。、．", REPEAT3)
    _set(table, "…⋯", REPEAT2)
    _set(table, ".-=*_#+·—─━═＝－＿＊﹏", REPEAT8)
    _set(table, _INVISIBLE, INVISIBLE)
    _fill(table, _INVISIBLE_RANGES, INVISIBLE)
    _fill(table, _GARBLED_RANGES, GARBLED)
    _fill(table, ((0xFF10, 0xFF1A), (0xFF21, 0xFF3B), (0xFF41, 0xFF5B)), FULLWIDTH)
    _set(table, _SPACES, SPACE)
    _set(table, _NEWLINES, NEWLINE)
    return table


@cache
def class_table() -> Bytes:
    """Class of each code point for counting, uint8 [0x110000]. Emoji and mathematical signs count as LETTER."""
    table = np.full(CODE_POINTS, LETTER, np.uint8)
    for code in (*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x10000)):
        category = unicodedata.category(chr(code))
        if category[0] == "P":
            table[code] = PUNCTUATION
        elif category[0] in "ZC":
            table[code] = WHITESPACE
    _set(table, "$+<=>^`|~", PUNCTUATION)  # "symbols" in Unicode
    _set(table, _SPACES + _NEWLINES, WHITESPACE)
    _fill(table, ((0x30, 0x3A),), DIGIT)
    _fill(table, ((0x41, 0x5B), (0x61, 0x7B)), ASCII_LETTER)
    _fill(table, _HAN_RANGES, HAN)
    return table


@njit(nogil=True, cache=True, inline="always")
def decode(data: Bytes, i: int, end: int) -> tuple[Any, int]:
    """(code point, length in bytes) of the UTF-8 character at ``data[i]``; U+FFFD and 1 where it is cut off."""
    a = np.int64(data[i])
    if a < 0x80:
        return a, 1
    if a >= 0xE0 and a < 0xF0 and i + 2 < end:
        return (a & 15) << 12 | (np.int64(data[i + 1]) & 63) << 6 | (np.int64(data[i + 2]) & 63), 3
    if a >= 0xC0 and a < 0xE0 and i + 1 < end:
        return (a & 31) << 6 | (np.int64(data[i + 1]) & 63), 2
    if a >= 0xF0 and a < 0xF5 and i + 3 < end:
        high = (a & 7) << 18 | (np.int64(data[i + 1]) & 63) << 12
        code = high | (np.int64(data[i + 2]) & 63) << 6 | (np.int64(data[i + 3]) & 63)
        if code < 0x110000:
            return code, 4
    return 0xFFFD, 1


def _code_points_that_compose() -> list[int]:
    """Code points that NFC may change, alone or after another: its quick check is not a plain yes for them."""
    found = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # conjoining jamo: composed by rule, not by table
    for code in _outside_han():
        char = chr(code)
        decomposed = unicodedata.decomposition(char)
        if decomposed and decomposed[0] != "<":
            found.update(int(part, 16) for part in decomposed.split()[1:])
        if unicodedata.combining(char) or (decomposed and unicodedata.normalize("NFC", char) != char):
            found.add(code)
    return sorted(found)


def _outside_han() -> Iterator[int]:
    for start, end in ((0xC0, 0x3400), (0xA000, 0xAC00), (0xF900, 0x10000), (0x10000, 0x1F000), (0x2F800, 0x2FA20)):
        yield from range(start, end)


def _set(table: Bytes, characters: str, value: int) -> None:
    table[[ord(c) for c in characters]] = value


def _fill(table: Bytes, ranges: Iterable[tuple[int, int]], value: int) -> None:
    for start, end in ranges:
        table[start:end] = value
