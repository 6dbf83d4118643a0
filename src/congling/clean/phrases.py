"""Finds any of up to some 100,000 phrases in letters, in one walk.

At every ``step``-th letter of a text it is asked whether the next few are a head: some letters of a phrase, from one
of its first ``step`` on, so that one head of each phrase is met. A filter small enough for a cache answers most often;
else a table tells the phrases, which are compared letter by letter. Heads and steps are as long as the shortest phrase
allows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.letters import NEWLINE, Letters, hash_gram, letters_of, make_filter, may_hold, push

_HEADS, _STEPS = (4, 8), 8  # fewest and most letters of a head; most letters from one to the next


class Matcher(NamedTuple):
    """P phrases as arrays for the kernels, in their order: the longest first."""

    letters: Letters
    ends: NDArray[np.int64]  # [P + 1]: phrase p is letters[ends[p]:ends[p + 1]]
    numbers: NDArray[np.int64]  # [P], what to call each: its place among those given
    head: int  # letters
    step: int  # letters
    filter: NDArray[np.uint64]  # of the heads
    heads: NDArray[np.uint64]  # [P · step], hashes, sorted
    places: NDArray[np.int64]  # [P · step], of each: phrase · step + letters before; most before, then longest, first


def make_matcher(phrases: Sequence[str]) -> Matcher:
    """The matcher of phrases of at least one letter each; only their letters count. Raises ValueError."""
    letters, bounds, _ = letters_of(pa.array(phrases, pa.large_string()), NEWLINE)
    sizes = np.diff(bounds) - 1
    if len(sizes) and not sizes.min():
        raise ValueError(f"the phrase {phrases[int(sizes.argmin())]!r} has no letters to look for")
    shortest = int(sizes.min(initial=_HEADS[1] + _STEPS))
    head = min(shortest, max(_HEADS[0], min(_HEADS[1], shortest // 2)))
    step = min(_STEPS, shortest - head + 1)
    order = np.argsort(-sizes, kind="stable")
    texts = [letters[bounds[p] : bounds[p + 1] - 1] for p in order]
    ends = np.cumsum([0, *sizes[order]])
    flat = np.concatenate([np.empty(0, np.uint16), *texts])
    heads = _hash_heads(flat, ends, head, step)
    places = np.lexsort((np.tile(-np.arange(step), len(order)), heads))
    return Matcher(flat, ends, order, head, step, make_filter(heads, 32), heads[places], places)


@njit(nogil=True, cache=True)
def _hash_heads(letters: Letters, ends: NDArray[np.int64], head: int, step: int) -> NDArray[np.uint64]:
    """The hashes of the heads of all phrases, [P · step]."""
    heads = np.empty((len(ends) - 1) * step, np.uint64)
    for k in range(len(heads)):
        heads[k] = _hash_head(letters, ends[k // step] + k % step, head)
    return heads


@njit(nogil=True, cache=True, inline="always")
def _hash_head(letters: Letters, begin: int, head: int) -> np.uint64:
    old, new = np.uint64(0), np.uint64(0)
    for i in range(np.uint64(begin), np.uint64(begin + head)):
        old, new = push(old, new, letters[i])
    return hash_gram(old, new)


def find(letters: Letters, matcher: Matcher) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places in letters where phrases begin, ascending, and of each the longest that does, as its place in the
    matcher [F]."""
    begins, found = np.empty(len(letters), np.int64), np.empty(len(letters), np.int64)
    count = _find(letters, matcher, begins, found)
    return begins[:count], found[:count]


@njit(nogil=True, cache=True)
def _find(letters: Letters, matcher: Matcher, begins: NDArray[np.int64], found: NDArray[np.int64]) -> int:
    heads, step, count = matcher.heads, matcher.step, 0
    for i in range(0, len(letters) - matcher.head + 1, step):
        h = _hash_head(letters, i, matcher.head)
        if not may_hold(matcher.filter, h):
            continue
        k = np.searchsorted(heads, h)
        while k < len(heads) and heads[k] == h:
            p, gone = divmod(matcher.places[k], step)
            k += 1
            begin, size = i - gone, matcher.ends[p + 1] - matcher.ends[p]
            if (count and begins[count - 1] == begin) or begin < 0 or begin + size > len(letters):
                continue
            same = 0
            while same < size and letters[begin + same] == matcher.letters[matcher.ends[p] + same]:
                same += 1
            if same == size:
                begins[count], found[count] = begin, p
                count += 1
    return count
