"""Which n-grams of a document's letters repeat; see ``statistics`` for what is made of it.

Repeated n-grams, n = 5 to 10, are found in one walk, as LZ77 (Ziv & Lempel 1977) finds matches. At a letter, look for
the latest place where the same 5 letters were met, and take the longest run of letters that are the same here and
there, L. For each n ≤ L the L letters are repeated. Where the run goes on for 10 letters or more there is nothing to
find, and the walk goes on where 9 are left of it. So n = 5 is exact; for more, an n-gram whose 5 letters were met
again elsewhere in between may go unseen (at most 0.06 of a share in 240 real texts of four kinds).

Before any n-gram is looked up, counters that n-grams share by their hash tell which may be there more than once. They
need no branch and are never too low; few places are left to look at, of each next n fewer.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import Bytes

Letters = NDArray[np.uint16]
Places = NDArray[np.int32]
TOP_GRAMS = (2, 3, 4)
REPEATED_GRAMS = (5, 6, 7, 8, 9, 10)
SPARE = 8  # elements that an array of letters needs beyond them: they are read four at a time
PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_TAG = np.uint64(0xFFFFFFFFFFFF0000)
ONE, TWO, _THREE = map(np.uint64, (1, 2, 3))  # an unsigned index is not checked for counting from the end

# numba counts references to the arrays that a function is given, by atomic instructions: 110 ns a line of a poem, two
# thirds of the walk over it. A function that makes no array may do without.
kernel = njit(nogil=True, cache=True, _nrt=False)


@njit(nogil=True, cache=True, inline="always")
def _four(letters: Letters, i: Any) -> Any:
    """The letters at i to i + 3 in one word, the first lowest: the compiler makes one load of it."""
    u = np.uint64(i)
    low = np.uint64(letters[u]) | np.uint64(letters[u + ONE]) << np.uint64(16)
    return low | np.uint64(letters[u + TWO]) << np.uint64(32) | np.uint64(letters[u + _THREE]) << np.uint64(48)


@kernel
def keep_repeated(
    letters: Letters,
    n: int,
    size: int,
    again: Bytes,
    counters: Letters,
    places: Places,
    slots: NDArray[np.uint32],
) -> tuple[int, int]:
    """Where an n-gram of ``size`` (2 to 5) of the n letters may be there more than once: in ``places``.

    again [n]: whether the n-gram of size − 1 at a letter may be so; on return the same of ``size``. Only where two
    such meet can a longer one be. Counters that several n-grams may share tell, without a branch.

    Returns the number of places and the largest of the counters.
    """
    count = 0
    for i in range(n - size + 1):
        places[count] = i
        count += again[i] & again[i + 1]
    again[:n] = 0
    bits = bits_for(4 * count)
    counters[: 1 << bits] = 0
    cut, shift = np.uint64(64 - 16 * min(size, 4)), np.uint64(64 - bits)
    most = 0
    for k in range(count):
        key = _four(letters, places[k]) << cut
        if size > 4:
            key ^= np.uint64(letters[np.uint64(places[k] + 4)]) * _MIX
        slot = key * PRIME >> shift
        slots[k] = slot
        counters[slot] += np.uint16(1)
        most = max(most, int(counters[slot]))
    kept = 0
    for k in range(count):
        place, slot = places[k], slots[k]
        more = counters[slot] > 1
        places[kept], slots[kept], again[np.uint32(place)] = place, slot, more
        kept += more
    return kept, most


@kernel
def most_frequent(
    letters: Letters,
    size: int,
    kept: int,
    most: int,
    counters: Letters,
    places: Places,
    slots: NDArray[np.uint32],
    table: NDArray[np.uint64],
) -> int:
    """How often the most frequent n-gram of ``size`` comes again, of those at ``places`` (see ``keep_repeated``).

    The counters are never too low. So at first only those above half the largest are counted exactly, then, as long as
    an n-gram not counted may be more frequent than what was found, those of half as many.
    """
    found, rest = min(most, 1), most  # of the n-grams not counted none is there more often than ``rest``
    cut = np.uint64(64 - 16 * size)
    while found < rest:
        rest, count = max(rest // 2, found), 0
        for k in range(kept):
            count += counters[slots[k]] > rest
        bits = bits_for(2 * count)
        mask, shift = np.uint64((1 << bits) - 1), np.uint64(64 - bits)
        table[: 1 << bits] = 0
        for k in range(kept):
            if counters[slots[k]] > rest:
                h = (_four(letters, places[k]) << cut) * PRIME
                slot, tag = h >> shift, h & _TAG  # an entry: 48 bits of the hash, then how often it came
                while table[slot] != 0 and table[slot] & _TAG != tag:
                    slot = (slot + ONE) & mask
                table[slot] = (table[slot] | tag) + ONE
                found = max(found, int(np.int64(table[slot] & ~_TAG)))
    return max(found - 1, 0)


@kernel
def count_repeated(
    letters: Letters,
    n: int,
    places: Places,
    wide: Letters,
    table: NDArray[np.uint32],
    counted: NDArray[np.int64],
    row: NDArray[np.int64],
) -> None:
    """Counts the letters in n-grams that came before, a letter once for each n; see the module for how.

    places: where the 5 letters from there on may be there more than once.
    """
    if len(places) < 2:
        return
    bits = bits_for(2 * len(places))
    mask, shift = np.uint64((1 << bits) - 1), np.uint64(64 - bits)
    table[: 1 << bits] = 0
    counted[:] = 0  # for each n: letters before this one have been counted
    before = np.uint16(0)
    for i in range(n):
        wide[i] = before
        before += np.uint16(letters[i] >= 128)
    wide[n] = before
    go, tags = 0, np.uint32(0xFFFF0000)
    for i in places:
        if i < go:
            continue
        key = _four(letters, i)
        h = (key ^ np.uint64(letters[np.uint64(i + 4)]) * _MIX) * PRIME
        slot, tag = h >> shift, np.uint32(h >> np.uint64(16)) & tags  # an entry: 16 bits of the hash, the place + 1
        length = 0
        while table[slot] != 0:
            if table[slot] & tags == tag:
                place = np.int64(table[slot] & ~tags) - 1
                other, length = _four(letters, place) ^ key, 0
                while other == 0 and i + length < n:
                    length += 4
                    other = _four(letters, place + length) ^ _four(letters, i + length)
                length += (other << np.uint64(48) == 0) + (other << np.uint64(32) == 0) + (other << np.uint64(16) == 0)
                length = min(length, n - i)
                if length >= REPEATED_GRAMS[0]:
                    break
            slot = (slot + ONE) & mask
        table[slot] = tag | np.uint32(i + 1)
        if length >= REPEATED_GRAMS[0]:
            for k in range(min(length - 4, len(row))):
                until = max(counted[k], i + length)
                row[k] += np.int64(wide[until]) - np.int64(wide[max(counted[k], i)])
                counted[k] = until
        go = i + max(1, length - REPEATED_GRAMS[-1] + 1)


@kernel
def bits_for(least: int) -> int:
    """The least b >= 2 with 2^b >= ``least``."""
    bits = 2
    while 1 << bits < least:
        bits += 1
    return bits
