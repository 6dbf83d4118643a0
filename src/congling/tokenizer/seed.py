"""The seed's vocabulary file (SEED §2), so that its models can be used; its rule of segmentation is in the kernels."""

import math
from collections import Counter
from pathlib import Path

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
