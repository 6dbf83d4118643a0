"""Segmentation kernels over Arrow string buffers (bytes, offsets): no Python object a document, no lock held.

A document becomes dense character codes, ``BLOCK`` at a time. For each block the pieces that end at each character are
found first, one length after the other for all characters together (branch-free: each look-up writes its result and
the list of what goes on grows by 0 or 1), then the best token that ends there is chosen (Viterbi). A branch that a
processor cannot predict costs more than all else here, so the choice is made by maxima alone. Only the chosen token of
each character is kept for the whole document, for the walk back.

Scores are integers (10⁻⁶ nats), so results do not depend on the order of additions; the seed's are its floats. Of
paths that tie, the one whose last token is longest stands. A character that is not a piece by itself may be taken as
byte tokens, ``BYTE_SCORE`` each, which is below any piece; so any bytes have a segmentation.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.tokenizer.trie import FIRST_CODE, MAX_LENGTH, SCALE, Arrays, Codes, Longs

BLOCK = 512  # characters at a time: what is known of them stays in the first-level cache
BEFORE = MAX_LENGTH  # characters of the block before that are still looked at
LENGTH_BITS = 4  # a step of a path is slot << 4 | length in characters − 1

Bytes = NDArray[np.uint8]
Ids = NDArray[np.uint32]
Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]
Work = tuple[Codes, Longs, Longs, Longs, Longs, Longs, Ids, Ids, Ids, Bytes, Ids, Ids, Floats]

_U0, _U1, _U2, _U3 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)
U32, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_BITS = np.uint64(LENGTH_BITS)


@njit(inline="always")
def decode_utf8(data: Bytes, at: int, end: int, table: Codes, codes: Codes) -> tuple[int, int]:
    """Codes of the next characters of data[at:end] behind the first ``BEFORE`` of ``codes``, as many as fit.

    Returns their number and where the next begins. A byte that is not part of valid UTF-8 (RFC 3629: no overlong
    forms, no surrogates) is a character of its own with code 1.
    """
    n, i, limit, stop = np.uint64(BEFORE), np.uint64(at), np.uint64(len(codes)), np.uint64(end)
    while i < stop and n < limit:
        first = np.int64(data[i])
        size, point = _U1, first
        if first & 0xF0 == 0xE0 and i + _U2 < stop:  # nearly all Chinese text; written out here, as it is twice as fast
            b, c = np.int64(data[i + _U1]), np.int64(data[i + _U2])
            size, point = _U3, (first & 0x0F) << 12 | (b & 0x3F) << 6 | (c & 0x3F)
            if (b & 0xC0 != 0x80) | (c & 0xC0 != 0x80) | (point < 0x800) | (point >> 11 == 0x1B):
                size, point = _U1, -1
        elif first >= 0x80:
            point = -1
            if 0xC2 <= first <= 0xDF and i + _U1 < stop:
                b = np.int64(data[i + _U1])
                if b & 0xC0 == 0x80:
                    size, point = _U2, (first & 0x1F) << 6 | (b & 0x3F)
            elif 0xF0 <= first <= 0xF4 and i + _U3 < stop:
                b, c, d = np.int64(data[i + _U1]), np.int64(data[i + _U2]), np.int64(data[i + _U3])
                joined = (first & 0x07) << 18 | (b & 0x3F) << 12 | (c & 0x3F) << 6 | (d & 0x3F)
                marks = (b & 0xC0 == 0x80) & (c & 0xC0 == 0x80) & (d & 0xC0 == 0x80)
                if marks & (joined >= 0x10000) & (joined <= 0x10FFFF):
                    size, point = _U3 + _U1, joined
        codes[n] = table[np.uint64(point)] if point >= 0 else 1
        n += _U1
        i += size
    return np.int64(n) - BEFORE, np.int64(i)


@njit(cache=True, nogil=True)
def workspace(scores: Longs) -> Work:
    """codes, values (both: of the characters before, then the block's), then for each character of a block: scores of
    the tokens of one, two, three, more characters [BLOCK · 16]; steps of two, of three, of more [BLOCK · 16]; what is
    special (see ``_match``); a list of characters and one of nodes or steps; totals."""
    return (
        np.zeros(BEFORE + BLOCK, np.uint32),
        np.zeros(BEFORE + BLOCK, scores.dtype),
        np.zeros(BLOCK, scores.dtype),
        np.zeros(BLOCK, scores.dtype),
        np.zeros(BLOCK, scores.dtype),
        np.zeros(BLOCK * MAX_LENGTH, scores.dtype),
        np.zeros(BLOCK, np.uint32),
        np.zeros(BLOCK, np.uint32),
        np.zeros(BLOCK * MAX_LENGTH, np.uint32),
        np.zeros(BLOCK, np.uint8),
        np.zeros(BLOCK + 1, np.uint32),
        np.zeros(BLOCK + 1, np.uint32),
        np.zeros(BEFORE + BLOCK, np.float64),
    )


@njit(inline="always")
def _match(count: int, trie: Arrays, plain: int, work: Work) -> None:
    """Scores and steps of all pieces that end at each of ``count`` characters.

    special[k]: length of the longest match at k if it is above 3, else whether k is in pieces, but none itself.
    """
    link, scores = trie[0], trie[1]
    codes, _, one, two, three, more, step_two, step_three, step_more, special, alive, nodes, _ = work
    for n in range(count):
        three[n] = scores[0]
    first_plain, before = np.uint64(plain), np.uint64(codes[BEFORE - 1])
    k, kept, limit = _U0, _U0, np.uint64(count)
    while k < limit:
        slot = np.uint64(codes[np.uint64(BEFORE) + k])
        child = (link[slot] >> U32) + before
        before = slot
        found = (link[child] & LOW) == slot
        alive[kept] = k
        nodes[kept] = child
        kept += _U1 if found else _U0
        child = child if found else _U0
        one[k] = scores[slot]
        two[k] = scores[child]
        step_two[k] = child << _BITS | _U1
        special[k] = slot - np.uint64(FIRST_CODE) < first_plain - np.uint64(FIRST_CODE)
        k += _U1
    living, kept, n = kept, _U0, _U0
    while n < living:
        k, slot = np.uint64(alive[n]), np.uint64(nodes[n])
        child = (link[slot] >> U32) + np.uint64(codes[k + np.uint64(BEFORE - 2)])
        alive[kept] = k
        nodes[kept] = child
        kept += _U1 if (link[child] & LOW) == slot else _U0
        n += _U1
    living, kept, n = kept, _U0, _U0
    while n < living:
        k, slot = np.uint64(alive[n]), np.uint64(nodes[n])
        three[k] = scores[slot]
        step_three[k] = slot << _BITS | _U2
        child = (link[slot] >> U32) + np.uint64(codes[k + np.uint64(BEFORE - 3)])
        alive[kept] = k
        nodes[kept] = child
        kept += _U1 if (link[child] & LOW) == slot else _U0
        n += _U1
    last = _U3  # length in characters, less 1
    while kept:
        living, kept, n = kept, _U0, _U0
        while n < living:
            k, slot = np.uint64(alive[n]), np.uint64(nodes[n])
            more[k << _BITS | last] = scores[slot]
            step_more[k << _BITS | last] = slot << _BITS | last
            special[k] = last + _U1
            child = (link[slot] >> U32) + np.uint64(codes[k + np.uint64(BEFORE - 1) - last])
            alive[kept] = k
            nodes[kept] = child
            kept += _U1 if (link[child] & LOW) == slot else _U0
            n += _U1
        last += _U1


@njit(inline="always")
def _choose(count: int, trie: Arrays, plain: int, unreached: np.uint64, work: Work, back: Ids) -> np.uint64:
    """back[k] = step of the best path to the position behind character k of the block.

    plain: the codes 5 … plain − 1 are characters that no path need reach (``_choose_seed``); 5 for vocabularies of our
    own. A character in no piece needs no such care: no match ends at it or goes across.
    unreached: bit n of it tells that the position n + 1 characters back is not reached; returned brought up to date.
    """
    codes, values, one, two, three, more, step_two, step_three, step_more, special, places, steps, _ = work
    value, second, third = values[BEFORE - 1], values[BEFORE - 2], values[BEFORE - 3]
    k, limit, kept = _U0, np.uint64(count), _U0
    while k < limit:
        single, pair, triple = value + one[k], second + two[k], third + three[k]
        top = triple if triple > pair else pair
        top = top if top > single else single
        if (special[k] != 0) | (unreached != 0):
            step = _U0
            if unreached or FIRST_CODE <= np.int64(codes[np.uint64(BEFORE) + k]) < plain:
                top, step, missed = _choose_seed(k, np.uint64(plain), trie[1][0], unreached, work)
                unreached = (unreached << _U1 | missed) & np.uint64(0xFFFF)
            else:
                for length in range(4, special[k] + 1):
                    m = np.uint64(length)
                    other = values[np.uint64(BEFORE) + k - m] + more[k << _BITS | (m - _U1)]
                    if other >= top:
                        top, step = other, np.uint64(step_more[k << _BITS | (m - _U1)])
            places[kept], steps[kept] = k, step
            kept += _U1 if step else _U0
        values[np.uint64(BEFORE) + k] = top
        third, second, value = second, value, top
        k += _U1
    for n in range(count):  # which of the first three it was: so that it needs no branch, and many at a time
        top = values[n + BEFORE]
        step_one = codes[n + BEFORE] << np.uint32(LENGTH_BITS)
        shorter = step_two[n] if values[n + (BEFORE - 2)] + two[n] == top else step_one
        back[n] = step_three[n] if values[n + (BEFORE - 3)] + three[n] == top else shorter
    k = _U0
    while k < kept:
        back[np.uint64(places[k])] = steps[k]
        k += _U1
    return unreached


@njit(inline="always")
def _choose_seed(
    k: np.uint64, plain: np.uint64, none: float, unreached: np.uint64, work: Work
) -> tuple[float, np.uint64, np.uint64]:
    """Value, step and whether it stays unreached, of a position in a vocabulary of the seed's kind (SEED §2).

    Matches come longest first. The first stands, even when it begins where no path arrives: then it stands on the
    nearest position before, whose value is kept in between. Another replaces it if a path reaches its begin and it is
    strictly better. A position without a match takes the bytes of its character.
    """
    codes, values, one, two, three, more, step_two, step_three, step_more, special, _, _, _ = work
    place = np.uint64(BEFORE) + k
    top, step, missed = values[place - _U1], np.uint64(codes[place]) << _BITS, _U1
    for length in range(max(np.int64(special[k]), 3), 0, -1):
        m = np.uint64(length)
        if length == 1:
            if FIRST_CODE <= codes[place] < plain:
                break
            score, own = one[k], np.uint64(codes[place]) << _BITS
        elif length == 2:
            score, own = two[k], np.uint64(step_two[k])
        elif length == 3:
            score, own = three[k], np.uint64(step_three[k])
        else:
            score, own = more[k << _BITS | (m - _U1)], np.uint64(step_more[k << _BITS | (m - _U1)])
        other = values[place - m] + score
        reached = (unreached >> (m - _U1)) & _U1 == 0
        if score != none and (missed or (reached and other > top)):
            top, step, missed = other, own, _U0
    return top, step, missed


@njit(inline="always")
def _sample(count: int, trie: Arrays, work: Work, alpha: float, key: np.uint64, back: Ids, at: int) -> np.uint64:
    """Draws back[at + k]: so that a path has the probability exp(alpha · its score) / Σ of that over all paths.

    total[j] = ln Σ exp(alpha · score) over all paths to j (forward filtering). Going backwards from the end, the token
    (i, j) must have probability exp(total[i] + alpha · score − total[j]). That depends on j alone, so it is drawn at
    once for every j while total[j] is summed up: each further token replaces the one held with its share of the sum so
    far (reservoir sampling). Returns the state of the random numbers.
    """
    link, scores = trie[0], trie[1]
    codes, total = work[0], work[12]
    unit, none = alpha / SCALE, scores[0]
    for k in range(BEFORE, BEFORE + count):
        slot, start = np.int64(codes[k]), k - 1
        held = total[start] + unit * scores[slot]
        step = slot << LENGTH_BITS
        while True:
            child = np.int64(link[slot] >> U32) + np.int64(codes[start])
            if np.int64(link[child] & LOW) != slot:
                break
            slot = child
            start -= 1
            if scores[slot] == none:
                continue
            new = total[start] + unit * scores[slot]
            held = max(held, new) + math.log1p(math.exp(-abs(held - new)))
            key, share = next_random(key)
            if share < math.exp(new - held):
                step = slot << LENGTH_BITS | (k - 1 - start)
        total[k] = held
        back[at + k - BEFORE] = step
    return key


@njit(cache=True, nogil=True)
def next_random(state: np.uint64) -> tuple[np.uint64, float]:
    """splitmix64 (Steele et al. 2014): the next state, and a number in [0, 1)."""
    state += np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return state, np.float64(z >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True, nogil=True)
def find_path(
    data: Bytes, start: int, end: int, trie: Arrays, plain: int, alpha: float, keys: Keys, work: Work, back: Ids
) -> int:
    """Steps to each of the n characters of a document in ``back``; returns n. keys: empty, or one to sample with."""
    codes, values, totals = work[0], work[1], work[12]
    codes[:BEFORE], values[:BEFORE], totals[:BEFORE] = 0, 0, 0.0
    n, at, unreached, key = 0, start, _U0, keys[0] if len(keys) else _U0
    while at < end:
        count, at = decode_utf8(data, at, end, trie[3], codes)
        if len(keys):
            key = _sample(count, trie, work, alpha, key, back, n)
        else:
            _match(count, trie, plain, work)
            unreached = _choose(count, trie, plain, unreached, work, back[n : n + count])
        n += count
        if at < end:
            for k in range(BEFORE):
                codes[k], values[k], totals[k] = codes[count + k], values[count + k], totals[count + k]
    return n


@njit(cache=True, nogil=True)
def longest_document(offsets: Longs) -> int:
    """In bytes; 0 for no documents."""
    longest = 0
    for d in range(len(offsets) - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    return longest
