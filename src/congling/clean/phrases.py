"""Finds any of up to some 100,000 phrases in letters, in one walk.

The first letters of each phrase, as many as the shortest has (8 at most), are hashed into a filter small enough for a
cache. Where the same number of letters of a text may be in it, the table of such heads tells the phrases that begin so,
which are compared letter by letter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.letters import Letters, hash_gram, letters_of, make_filter, may_hold, push

_HEAD = 8  # letters
NONE = -1


class Matcher(NamedTuple):
    """P phrases as arrays for the kernels, in their order: of those with the same head the longest first."""

    letters: Letters
    ends: NDArray[np.int64]  # [P + 1]: phrase p is letters[ends[p]:ends[p + 1]]
    numbers: NDArray[np.int64]  # [P], what to call each: its place among those given
    head: int  # letters
    filter: NDArray[np.uint64]  # of the heads
    heads: NDArray[np.uint64]  # [S], hashes, 0: a free slot
    first: NDArray[np.int64]  # [S], the first phrase with this head


def make_matcher(phrases: Sequence[str]) -> Matcher:
    """The matcher of phrases of at least one letter each; only their letters count. Raises ValueError."""
    flat, _ = letters_of(pa.array(phrases, pa.large_string()))
    texts = _split(flat)
    for phrase, text in zip(phrases, texts, strict=True):
        if not len(text):
            raise ValueError(f"the phrase {phrase!r} has no letters to look for")
    head = min([_HEAD, *map(len, texts)])
    keys = [text.astype(">u2").tobytes() for text in texts]
    order = sorted(range(len(keys)), key=lambda p: (keys[p][: 2 * head], -len(keys[p]), keys[p]))
    ends = np.cumsum([0, *(len(texts[p]) for p in order)])
    letters = np.concatenate([np.empty(0, np.uint16), *(texts[p] for p in order)])
    slots = 1 << max((2 * len(keys)).bit_length(), 4)
    heads, first = np.zeros(slots, np.uint64), np.zeros(slots, np.int64)
    _fill(letters, ends, head, heads, first)
    return Matcher(letters, ends, np.array(order, np.int64), head, make_filter(heads[heads != 0]), heads, first)


def _split(flat: Letters) -> list[Letters]:
    ends = np.flatnonzero(flat == 0)
    return [part[part != 0] for part in np.split(flat, ends)[: len(ends)]]


@njit(nogil=True, cache=True, inline="always")
def _masks(head: int) -> tuple[np.uint64, np.uint64]:
    """What of the last 4 letters but 4, and of the last 4, belongs to a head."""
    ones = np.uint64(0xFFFFFFFFFFFFFFFF)
    if head >= 4:
        return (ones >> np.uint64(16 * (8 - head)) if head > 4 else np.uint64(0)), ones
    return np.uint64(0), ones >> np.uint64(16 * (4 - head))


@njit(nogil=True, cache=True)
def _hash_head(letters: Letters, begin: int, head: int) -> np.uint64:
    old, new = np.uint64(0), np.uint64(0)
    for i in range(begin, begin + head):
        old, new = push(old, new, letters[i])
    return hash_gram(old, new)


@njit(nogil=True, cache=True)
def _fill(
    letters: Letters,
    ends: NDArray[np.int64],
    head: int,
    heads: NDArray[np.uint64],
    first: NDArray[np.int64],
) -> None:
    mask = np.uint64(len(heads) - 1)
    for p in range(len(ends) - 1):
        h = _hash_head(letters, ends[p], head)
        slot = (h >> np.uint64(40)) & mask
        while heads[slot] != 0 and heads[slot] != h:
            slot = (slot + np.uint64(1)) & mask
        if heads[slot] == 0:
            heads[slot], first[slot] = h, p


@njit(nogil=True, cache=True)
def find(letters: Letters, n: int, matcher: Matcher, begins: NDArray[np.int64], found: NDArray[np.int64]) -> int:
    """Fills ``begins`` and ``found`` [n] with the places where a phrase begins, and the longest that does (its place in
    the matcher); returns their number."""
    if len(matcher.numbers) == 0:
        return 0
    candidates, count = _candidates(letters[:n], matcher.head, *_masks(matcher.head), matcher.filter, begins), 0
    for k in range(candidates):
        p = _longest(letters, begins[k], n, matcher)
        if p != NONE:
            begins[count], found[count] = begins[k], p
            count += 1
    return count


@njit(nogil=True, cache=True)
def _candidates(
    letters: Letters,
    head: int,
    old_mask: np.uint64,
    new_mask: np.uint64,
    filter: NDArray[np.uint64],
    begins: NDArray[np.int64],
) -> int:
    """Fills the places where a head may stand; returns how many."""
    old, new, count = np.uint64(0), np.uint64(0), 0
    for i in range(len(letters)):
        old, new = push(old, new, letters[i])
        if may_hold(filter, hash_gram(old & old_mask, new & new_mask)) and i >= head - 1:
            begins[count] = i - head + 1
            count += 1
    return count


@njit(nogil=True, cache=True)
def _longest(letters: Letters, begin: int, n: int, matcher: Matcher) -> int:
    """The longest phrase that stands at letter ``begin``; NONE if there is none."""
    h = _hash_head(letters, begin, matcher.head)
    heads, ends, mask = matcher.heads, matcher.ends, np.uint64(len(matcher.heads) - 1)
    slot = (h >> np.uint64(40)) & mask
    while heads[slot] != h:
        if heads[slot] == 0:
            return NONE
        slot = (slot + np.uint64(1)) & mask
    first = p = matcher.first[slot]
    while p < len(ends) - 1:
        for k in range(matcher.head):
            if matcher.letters[ends[p] + k] != matcher.letters[ends[first] + k]:
                return NONE  # the next head
        size, k = ends[p + 1] - ends[p], 0
        while k < size and begin + k < n and letters[begin + k] == matcher.letters[ends[p] + k]:
            k += 1
        if k == size:
            return p
        p += 1
    return NONE
