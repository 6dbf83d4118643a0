"""The seed's tokenizer, rule by rule (SEED §2), so that its models can be used."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.tokenizer.kernels import Bytes, Ints, Longs, decode_utf8, scratch
from congling.tokenizer.trie import BASE, CHECK, PIECE
from congling.tokenizer.vocabulary import Vocabulary

FIRST_ROW = 256  # of pieces: seed id 1 + 255; the row of byte b is 255 − b


def read_seed(file: Path) -> Vocabulary:
    """Reads ``vocab_b_*.txt``: ``piece<TAB>count`` a line. Raises ValueError that names file and line.

    A line that begins with a tab is the count of a control character that broke the line. ``,`` and three control
    characters, which the seed's file cannot hold, are added as the seed adds them. Ids follow the code points.
    """
    counts: dict[str, int] = {}
    for number, line in enumerate(file.read_bytes().decode("utf-8").split("\n"), 1):
        piece, tab, count = line.rpartition("\t")
        if not line or (tab and not piece):
            continue
        if not tab and line.strip() == "":
            continue  # the control character itself
        if not tab or not count.isdigit():
            raise ValueError(f"{file}:{number}: expected piece, tab, count, found {line[:40]!r}")
        counts[piece] = int(count)
    if "." in counts:
        counts |= {",": counts["."], "\r": 1, "\n": 1, "\t": 1}
    pieces = sorted(counts)
    of_length: Counter[int] = Counter()
    for piece in pieces:
        of_length[len(piece)] += counts[piece]
    scores = [math.log(counts[p] / of_length[len(p)]) for p in pieces]
    return Vocabulary(
        "seed", pieces, list(range(FIRST_ROW, FIRST_ROW + len(pieces))), scores, [counts[p] for p in pieces]
    )


@njit(cache=True, nogil=True)
def encode_seed(
    data: Bytes, offsets: Longs, cells: Ints, table: Ints, scores: NDArray[np.float64]
) -> tuple[NDArray[np.uint32], Longs]:
    """Rows of the seed's models for each document, and their offsets; scores [pieces] in float64, as the seed's."""
    out = np.empty(offsets[-1] - offsets[0], np.uint32)
    ends = np.zeros(len(offsets), np.int64)
    codes, begins, _, origin, piece = scratch(offsets)
    value = np.empty(len(codes), np.float64)
    at = 0
    for d in range(len(offsets) - 1):
        n = decode_utf8(data, offsets[d], offsets[d + 1], table, codes, begins)
        _forward_seed(codes, n, cells, scores, value, origin, piece)
        at = _emit_seed(data, n, begins, origin, piece, out, at)
        ends[d + 1] = at
    return out[:at], ends


@njit(cache=True, nogil=True)
def _forward_seed(
    codes: Ints, n: int, cells: Ints, scores: NDArray[np.float64], value: NDArray[np.float64], origin: Ints, piece: Ints
) -> None:
    """The seed takes matches by end, longest first. Scattering from each start in turn meets, for a fixed end, the
    longest match first too, and whether a start is reached is settled when its turn comes."""
    for j in range(n + 1):
        origin[j] = -1
    origin[0] = 0
    value[0] = 0.0
    reached = 0  # the nearest reached position at or before i
    for i in range(n):
        if origin[i] >= 0:
            reached = i
        slot, base, k = 0, cells[BASE], i
        while k < n and codes[k] != 0 and base >= 0:
            target = base + codes[k]
            if cells[4 * target + CHECK] != slot:
                break
            slot = target
            k += 1
            number = cells[4 * slot + PIECE]
            if number >= 0:
                new = value[reached] + scores[number]
                if origin[k] < 0 or (reached == i and new > value[k]):
                    value[k] = new
                    origin[k] = i
                    piece[k] = number
            base = cells[4 * slot + BASE]


@njit(cache=True, nogil=True)
def _emit_seed(data: Bytes, n: int, begins: Longs, origin: Ints, piece: Ints, out: NDArray[np.uint32], at: int) -> int:
    """Walks back: the stored start where a path arrived, one character's bytes where none did; then turns round."""
    place = at
    j = n
    while j > 0:
        if origin[j] >= 0:
            out[place] = FIRST_ROW + piece[j]
            place += 1
            j = np.int64(origin[j])
        else:
            for b in range(begins[j] - 1, begins[j - 1] - 1, -1):
                out[place] = 255 - np.int64(data[b])
                place += 1
            j -= 1
    out[at:place] = out[at:place][::-1].copy()
    return place
