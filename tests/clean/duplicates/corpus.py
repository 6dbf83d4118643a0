"""Synthetic documents with planted copies, parts of them with fingerprints, and brute force over sets of shingles."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from congling.clean.duplicates.fingerprint import fingerprint, save_fingerprints
from congling.clean.duplicates.search import find_duplicates
from congling.corpus.executor import Pool
from congling.reporter import Reporter

SHINGLE = 5


def random_text(rng, length):
    return "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(length))


def edited(rng, text, edits):
    """``text`` after some substitutions, deletions, insertions, and moves of a stretch."""
    for _ in range(edits):
        place = rng.randrange(len(text))
        kind = rng.randrange(8)
        if kind < 3:
            text = text[:place] + random_text(rng, 1) + text[place + 1 :]
        elif kind < 5:
            text = text[:place] + text[place + 1 :]
        elif kind < 7:
            text = text[:place] + random_text(rng, 1) + text[place:]
        else:
            end = place + rng.randrange(5, 40)
            rest = text[:place] + text[end:]
            other = rng.randrange(len(rest) + 1)
            text = rest[:other] + text[place:end] + rest[other:]
    return text


def jaccard(one, other):
    """Exact, of texts that are letters only."""
    a, b = ({t[i : i + SHINGLE] for i in range(len(t) - SHINGLE + 1)} for t in (one, other))
    return len(a & b) / max(len(a | b), 1)


def write_parts(folder, texts, parts=1):
    """Parts of the texts, cut into equal runs; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, rows in enumerate(np.array_split(np.arange(len(texts)), parts)):
        text = pa.array([texts[i] for i in rows], pa.large_string())
        files.append(folder / f"{number:05d}.parquet")
        pq.write_table(pa.table({"text": text}), files[-1], row_group_size=100)
        save_fingerprints(files[-1].with_suffix(""), [fingerprint(text, SHINGLE)])
    return files


def search(folder, texts, threshold=0.8, parts=1, workers=1, alive=None, **options):
    """The duplicates among the texts."""
    files = write_parts(folder / "parts", texts, parts)
    alive = np.ones(len(texts), bool) if alive is None else np.array(alive)
    masks = np.split(alive, np.cumsum([len(rows) for rows in np.array_split(np.arange(len(texts)), parts)])[:-1])
    with Pool(workers) as pool:
        quiet = Reporter(io.StringIO(), quiet=True)
        return find_duplicates(files, masks, threshold, SHINGLE, folder / "search", pool, quiet, **options)
