"""What a character is to the cleaning kernels: two tables over all code points, indexed by the code point."""

import re
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
NEWLINE, SPACE, CONTROL, INVISIBLE, GARBLED = range(5)
PLAIN, SUSPECT, TRADITIONAL, FULLWIDTH, COMPOSES, MARKUP, REPEAT2, REPEAT3, REPEAT8, ECHO = range(5, 15)

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
    table[0xA1:0x100] = SUSPECT
    for code in range(0x4E00, 0xA000):
        table[code] = SUSPECT if is_suspect(code) else TRADITIONAL if _is_traditional(chr(code)) else PLAIN
    table[_code_points_that_compose()] = COMPOSES
    table[list(compatible())] = COMPOSES
    table[[*range(0x20), *range(0x7F, 0xA0)]] = CONTROL
    _set(table, "&<", MARKUP)
    _set(table, "·×°±§÷", PLAIN)  # in sound Chinese text too
    _set(table, "!?~,;:！？～，；：。、．", REPEAT3)
    _set(table, "…⋯", REPEAT2)
    _set(table, ".-=*_#+·—─━═＝－＿＊﹏", REPEAT8)
    _set(table, "烫屯锟", ECHO)
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
    """(code point, length in bytes) of the UTF-8 character at ``data[i]``; U+FFFD and 1 where it is cut off.

    An index that is unsigned is quicker, as is a walk from byte to byte: this is the inner loop of all kernels.
    """
    a = np.int64(data[np.uintp(i)])
    if a < 0x80:
        return a, 1
    if a < 0xC0 or i + 1 >= end:
        return 0xFFFD, 1
    b = np.int64(data[np.uintp(i + 1)]) & 63
    if a < 0xE0:
        return (a & 31) << 6 | b, 2
    if i + 2 >= end:
        return 0xFFFD, 1
    c = np.int64(data[np.uintp(i + 2)]) & 63
    if a < 0xF0:
        return (a & 15) << 12 | b << 6 | c, 3
    code = (a & 7) << 18 | b << 12 | c << 6
    if a > 0xF4 or i + 3 >= end or code >= 0x110000:
        return 0xFFFD, 1
    return code | (np.int64(data[np.uintp(i + 3)]) & 63), 4


@njit(nogil=True, cache=True)
def copy(data: Bytes, i: int, end: int, out: Bytes, o: int) -> int:
    """Copies ``data[i:end]`` to ``out[o:]``; the end of it. (An unsigned index may not be negative: quicker.)"""
    for k in range(end - i):
        out[np.uintp(o + k)] = data[np.uintp(i + k)]
    return o + end - i


@njit(nogil=True, cache=True)
def encode(out: Bytes, o: int, code: int) -> int:
    """Writes a code point as UTF-8; the end of it."""
    if code < 0x80:
        out[o] = code
        return o + 1
    size = 2 if code < 0x800 else 3 if code < 0x10000 else 4
    for k in range(size - 1, 0, -1):
        out[o + k] = 0x80 | code & 63
        code >>= 6
    out[o] = (0xF00 >> size) & 0xFF | code
    return o + size


@cache
def compatible() -> dict[int, str]:
    """Where NFKC is safe, as a table for ``str.translate``: the same character as an old encoding or a font has it.

    Latin ligatures, radicals that look like characters (PDF files have them), half-width kana, and units whose parts
    are ASCII letters (U+339E is km). Not: punctuation that would become ASCII, what is circled, raised or a fraction,
    Roman numerals, ℃ and №, letters of mathematics, Arabic forms: those look different for a reason.
    """
    letters = (*range(0xFB00, 0xFB07), 0x2E9F, 0x2EF3, *range(0x2F00, 0x2FD6), *range(0xFF61, 0xFFA0))
    units = [c for c in range(0x3371, 0x33E0) if re.fullmatch("[A-Za-z]+", unicodedata.normalize("NFKC", chr(c)))]
    return {code: unicodedata.normalize("NFKC", chr(code)) for code in (*letters, *units)}


def is_suspect(code: int) -> bool:
    """Whether GBK makes the Han character ``code`` of bytes that are common at the start of UTF-8 Chinese.

    That is: of a leading byte and one that continues (涓, 鐨), or of one that continues and a leading byte (犲).
    A third of Chinese that was misread is of them, and at most 0.4 % of sound text.
    """
    a, b = encoded(chr(code), "gbk") or (0, 0)
    return (0xE3 <= a <= 0xEF and 0x80 <= b <= 0xBF) or (0x81 <= a <= 0xA0 and 0xE3 <= b <= 0xEF)


def _is_traditional(char: str) -> bool:
    """In Taiwan's character set, not in the mainland's: with few rare characters besides, what OpenCC changes."""
    return encoded(char, "big5") is not None and encoded(char, "gb2312") is None


def encoded(char: str, encoding: str) -> bytes | None:
    """The bytes of ``char`` in an encoding, None where it has none."""
    try:
        return char.encode(encoding)
    except UnicodeEncodeError:
        return None


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
