"""Which characters may stand side by side in a piece."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

ALONE, HAN, LETTER, SPACE, NEWLINE, MARK = range(6)  # ALONE: digits, and what has no code
_HAN = (("\u3400", "\u4dbf"), ("\u4e00", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))


def kinds_of(points: Iterable[int]) -> NDArray[np.uint8]:
    """The kind of each code point."""
    return np.array([_kind(chr(point)) for point in points], np.uint8)


def _kind(character: str) -> int:
    if any(low <= character <= high for low, high in _HAN):
        return HAN
    if character.isnumeric():  # 1, ², ½, ①
        return ALONE
    if character in "\n\r":
        return NEWLINE
    if character.isspace():
        return SPACE
    return LETTER if character.isalpha() else MARK


def joins_of(joining: str) -> NDArray[np.bool_]:
    """[6, 6] whether a character of the second kind may follow one of the first inside a piece.

    han: Han characters alone, as the seed. words: the same kind, a letter or a mark after a space (as byte-level BPE
    has it), white space after a line break. any: all but digits.
    """
    joins = np.zeros((6, 6), bool)
    joins[HAN, HAN] = True
    if joining != "han":
        for kind in (LETTER, SPACE, NEWLINE, MARK):
            joins[kind, kind] = True
        joins[SPACE, LETTER] = joins[SPACE, MARK] = joins[NEWLINE, SPACE] = True
    if joining == "any":
        joins[1:, 1:] = True
    return joins
