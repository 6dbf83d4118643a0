"""The seed's tokenizer, rule by rule (SEED §2), so that its models can be used."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
from numba import njit

from congling.tokenizer.kernels import Bytes, Floats, Ids, decode_utf8, longest_document, walk_back
from congling.tokenizer.trie import BASE, CHECK, LENGTH_BITS, TOKEN, Ints, Longs
from congling.tokenizer.vocabulary import Vocabulary


def read_seed(file: Path) -> Vocabulary:
    """Reads ``vocab_b_*.txt``: ``piece<TAB>count`` a line. Raises ValueError that names file and line.

    A line that begins with a tab is the count of a control character that broke the line. ``,`` and three control
    characters, which the seed's file cannot hold, are added as the seed adds them. Ids follow the code points.
    """
    try:
        lines = file.read_bytes().decode("utf-8").split("\n")
    except FileNotFoundError:
        raise ValueError(f"{file}: no such vocabulary") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 at byte {error.start}; it is no vocabulary of the seed") from None
    counts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        piece, tab, count = line.rpartition("\t")
        if line.startswith("\t") or not line.strip():
            continue
        if tab and count.isascii() and count.isdigit() and int(count):
            counts[piece] = int(count)
        else:
            raise ValueError(f"{file}:{number}: expected piece, tab, count, found {line[:40]!r}")
    if not counts:
        raise ValueError(f"{file}: holds no pieces; expected piece, tab, count on each line")
    if "." in counts:
        counts |= {",": counts["."], "\r": 1, "\n": 1, "\t": 1}
    pieces = sorted(counts)
    of_length: Counter[int] = Counter()
    for piece in pieces:
        of_length[len(piece)] += counts[piece]
    scores = [math.log(counts[p] / of_length[len(p)]) for p in pieces]
    return Vocabulary("seed", pieces, scores, [counts[p] for p in pieces])


@njit(cache=True, nogil=True)
def encode_seed(
    data: Bytes, offsets: Longs, cells: Ints, table: Ints, byte_ids: Ints, scores: Floats
) -> tuple[Ids, Longs]:
    """Rows of the seed's models for each document, and their offsets.

    cells: of a trie that reads forwards. scores [rows]: natural logarithms in float64, as the seed's.
    """
    out = np.empty(offsets[-1] - offsets[0], np.uint32)
    ends = np.zeros(len(offsets), np.int64)
    size = longest_document(offsets) + 2
    codes, begins, back = np.empty(size, np.int32), np.empty(size, np.int64), np.empty(size, np.int32)
    path, value = np.empty(size, np.uint32), np.empty(size, np.float64)
    at = 0
    for d in range(len(offsets) - 1):
        n = decode_utf8(data, offsets[d], offsets[d + 1], table, codes, begins)
        _forward(codes, n, cells, scores, value, back)
        place = walk_back(data, n, begins, back, byte_ids, path)
        ends[d + 1] = at + len(path) - place
        out[at : ends[d + 1]] = path[place:]
        at = ends[d + 1]
    return out[:at], ends


@njit(cache=True, nogil=True)
def _forward(codes: Ints, n: int, cells: Ints, scores: Floats, value: Floats, back: Ints) -> None:
    """back[j] = the match stored at position j, 0 where no path arrived (the walk back takes bytes there).

    The seed takes matches by end, longest first. Scattering from each start in turn meets, for a fixed end, the
    longest match first too, and whether a start is reached is settled when its turn comes.
    """
    back[: n + 1] = 0
    value[0] = 0.0
    reached = 0  # the nearest reached position at or before start
    for start in range(n):
        if back[start] != 0:
            reached = start
        slot, end = np.int64(codes[start + 1]), start + 1
        while True:
            token = cells[slot, TOKEN]
            if token >> LENGTH_BITS:  # a piece ends here
                new = value[reached] + scores[token >> LENGTH_BITS]
                if back[end] == 0 or (reached == start and new > value[end]):
                    value[end] = new
                    back[end] = token
            child = np.int64(cells[slot, BASE]) + np.int64(codes[end + 1])
            if cells[child, CHECK] != slot:
                break
            slot, end = child, end + 1
