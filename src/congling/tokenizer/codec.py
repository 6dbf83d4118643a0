"""What is done with the best path of a document, over Arrow buffers: ids, counts of its tokens; and back to bytes."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.tokenizer.kernels import (
    BEFORE,
    LENGTH_BITS,
    LOW,
    U32,
    Bytes,
    Ids,
    Keys,
    decode_utf8,
    find_path,
    longest_document,
    workspace,
)
from congling.tokenizer.trie import BYTE_BITS, BYTE_SCORE, FIRST_CODE, Arrays, Ints, Longs

_BYTE_MASK = (1 << BYTE_BITS) - 1
_U1, _BITS = np.uint64(1), np.uint64(LENGTH_BITS)


@njit(cache=True, nogil=True)
def encode_documents(
    data: Bytes, offsets: Longs, trie: Arrays, plain: int, byte_ids: Ints, alpha: float, keys: Keys
) -> tuple[Ids, Longs]:
    """Ids of the N documents data[offsets[d]:offsets[d + 1]], and their offsets [N + 1].

    byte_ids [256]: ids of the byte tokens. plain: see ``_choose``. keys: empty for the best path; else [N], the state
    of the random numbers with which each document's path is drawn (see ``_sample`` for alpha).
    """
    out = np.empty(offsets[-1] - offsets[0], np.uint32)
    ends = np.zeros(len(offsets), np.int64)
    tokens, work, longest = trie[2], workspace(trie[1]), longest_document(offsets)
    back, path = np.empty(longest, np.uint32), np.empty(longest, np.uint32)
    limit, at = np.uint64(longest), 0
    for d in range(len(offsets) - 1):
        j = np.uint64(find_path(data, offsets[d], offsets[d + 1], trie, plain, alpha, keys[d : d + 1], work, back))
        place, byte = limit, offsets[d + 1]
        while j:
            step = np.uint64(back[j - _U1])
            j -= (step & np.uint64(15)) + _U1
            token = np.int64(tokens[step >> _BITS])
            byte -= token & _BYTE_MASK
            if token > _BYTE_MASK:
                place -= _U1
                path[place] = token >> BYTE_BITS
            else:
                for i in range(byte + token - 1, byte - 1, -1):
                    place -= _U1
                    path[place] = byte_ids[data[i]]
        size = np.int64(limit - place)
        out[at : at + size] = path[longest - size :]
        at += size
        ends[d + 1] = at
    return out[:at], ends


@njit(cache=True, nogil=True)
def count_documents(data: Bytes, offsets: Longs, trie: Arrays, alpha: float, keys: Keys, uses: Longs) -> None:
    """Adds to ``uses`` [slots] how often the path of each document takes the token of each slot (see above)."""
    work, back = workspace(trie[1]), np.empty(longest_document(offsets), np.uint32)
    for d in range(len(offsets) - 1):
        j = find_path(data, offsets[d], offsets[d + 1], trie, FIRST_CODE, alpha, keys[d : d + 1], work, back)
        while j:
            step = np.int64(back[j - 1])
            uses[step >> LENGTH_BITS] += 1
            j -= (step & 15) + 1


@njit(cache=True, nogil=True)
def score_without_itself(data: Bytes, offsets: Longs, trie: Arrays) -> Longs:
    """Best score of each document (of at most MAX_LENGTH characters) without the token that is all of it; of one
    character: what its bytes cost."""
    link, scores = trie[0], trie[1]
    out = np.zeros(len(offsets) - 1, np.int64)
    codes, values = np.zeros(2 * BEFORE, np.uint32), np.zeros(2 * BEFORE, np.int64)
    for d in range(len(offsets) - 1):
        n, _ = decode_utf8(data, offsets[d], offsets[d + 1], trie[3], codes)
        if n == 1:
            out[d] = BYTE_SCORE * (offsets[d + 1] - offsets[d])
            continue
        for k in range(BEFORE, BEFORE + n):
            slot, start = np.int64(codes[k]), k - 1
            top = values[start] + scores[slot]
            while True:
                child = np.int64(link[slot] >> U32) + np.int64(codes[start])
                if start < BEFORE or np.int64(link[child] & LOW) != slot:
                    break
                slot = child
                start -= 1
                if k - start < n and values[start] + scores[slot] >= top:
                    top = values[start] + scores[slot]
            values[k] = top
        out[d] = values[BEFORE + n - 1]
    return out


@njit(cache=True, nogil=True)
def join_bytes(ids: Ids, words: NDArray[np.uint64], sizes: Bytes) -> Bytes:
    """The bytes of all ids in a row.

    words [V, W]: the bytes of each id, eight a number, the first in the lowest bits. sizes [V]: how many bytes.
    """
    total = 0
    for n in ids:
        total += np.int64(sizes[n])
    out = np.empty(total + 8, np.uint8)
    at = 0
    for n in ids:
        size = np.int64(sizes[n])
        for part in range((size + 7) >> 3):
            word, place = words[n, part], at + 8 * part
            for i in range(8):
                out[place + i] = word >> np.uint64(8 * i)
        at += size
    return out[:total]
