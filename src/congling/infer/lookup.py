"""Prompt lookup (Saxena 2023): what followed the same words earlier in the text is a good guess of what follows now."""

from collections.abc import Sequence

import numpy as np

_LONGEST, _SHORTEST = 4, 2  # tokens that must be the same
_WINDOW = 4096  # tokens looked back at: bounds the time


def draft(ids: Sequence[int], count: int) -> list[int]:
    """Up to ``count`` tokens that followed the latest earlier occurrence of the last tokens of ``ids``, the longest
    match first; none when there is no match of two."""
    if count < 1:
        return []
    recent = np.asarray(ids[-_WINDOW:], dtype=np.int32)
    text = recent.tobytes()
    for length in range(min(_LONGEST, len(recent) - 1), _SHORTEST - 1, -1):
        place = _latest(text, text[-4 * length :])
        if place is not None:
            return [int(i) for i in recent[place + length : place + length + count]]
    return []


def _latest(text: bytes, words: bytes) -> int | None:
    """Where ``words`` (4 bytes a token) stand in ``text`` for the last time but at its very end."""
    place = text.rfind(words, 0, len(text) - 4)
    while place % 4 and place >= 0:  # across the border of two tokens
        place = text.rfind(words, 0, place + len(words) - 1)
    return place // 4 if place >= 0 else None
