"""Near-duplicates: errors of the estimates, recall and precision against brute force, speed and memory.

    python benchmarks/duplicates.py [data folder] [thousands of documents]     (default: ../shared/data, 1000)

1. Real text in pieces, with copies whose Jaccard similarity is spread over 0.5 to 1 (characters substituted, deleted,
   inserted, sentences moved), poems of 20 letters among them; all pairs by an inverted index of the shingles as text.
2. Estimates of MinHash against that truth: of the full minima, and of the 8 bits that are kept.
3. Synthetic documents of 1 KB, a tenth of them copies: time on one core and the peak of memory.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from common import store
from congling.clean.characters import ASCII_LETTER, LETTER, class_table
from congling.clean.duplicates import fingerprint as fp
from congling.clean.duplicates.search import find_duplicates
from congling.corpus.documents import from_buffers, text_buffers
from congling.corpus.executor import Pool
from congling.corpus.readers import read_documents
from congling.reporter import Reporter

SHINGLE, THRESHOLD = 5, 0.8
LETTERS, PART = 333, 100_000  # of a synthetic document; documents a part


def main(folder, thousands):
    figures = {}
    if folder.is_dir():
        text = pa.concat_arrays(
            [b["text"] for f in sorted(folder.glob("pretrain/*novels*")) for b in read_documents(f)]
        )
        figures["fingerprint_mb_per_second"] = fingerprint_speed(text)
        texts = planted(text, random.Random(0))
        truth = similar_pairs([letters(t) for t in texts])
        figures["quality"] = quality(texts, truth)
        figures["estimates"] = estimates(texts, truth)
    figures["search"] = search_speed(thousands)
    store("duplicates", figures)


def planted(text, rng):
    """1500 pieces of 60 to 1000 characters and 500 poems, each with three copies changed more and more."""
    pieces = []
    for document in rng.sample(text.to_pylist(), 2000):
        length = 24 if len(pieces) >= 1500 else rng.randrange(60, 1000)
        begin = rng.randrange(max(1, len(document) - length))
        pieces.append(document[begin : begin + length])
    texts = [p for piece in pieces for p in (piece, *(changed(rng, piece, rng.uniform(0, 0.06)) for _ in range(3)))]
    rng.shuffle(texts)
    return texts


def changed(rng, text, share):
    for _ in range(round(share * len(text) + rng.random())):
        place, kind = rng.randrange(max(1, len(text))), rng.randrange(8)
        new = chr(rng.randrange(0x4E00, 0x9000)) * (kind < 5)
        text = text[:place] + new + text[place + (kind < 3 or kind >= 5) :]
    sentences = text.split("。")
    if rng.random() < 0.3 and len(sentences) > 2:
        sentences.insert(rng.randrange(len(sentences)), sentences.pop(rng.randrange(len(sentences))))
    return "。".join(sentences)


def letters(text):
    classes = class_table()
    return "".join(
        chr(ord(c) | 32) if classes[ord(c)] == ASCII_LETTER else c for c in text if classes[ord(c)] <= LETTER
    )


def similar_pairs(texts):
    """(one, other, Jaccard) of all pairs that share a shingle at all and are alike by 0.3, exactly."""
    numbers = {}
    sets = [
        sorted({numbers.setdefault(t[i : i + SHINGLE], len(numbers)) for i in range(len(t) - SHINGLE + 1)})
        for t in texts
    ]
    sizes = np.array([len(s) for s in sets])
    flat, owner = np.concatenate([np.array(s, np.int64) for s in sets]), np.repeat(np.arange(len(sets)), sizes)
    order = np.argsort(flat, kind="stable")
    begins = np.searchsorted(flat[order], np.arange(len(numbers) + 1))
    return np.array(count_common(flat, np.cumsum([0, *sizes]), owner[order], begins, 0.3))


@njit
def count_common(flat, bounds, owners, begins, least):
    found, common = [], np.zeros(len(bounds), np.int64)
    for d in range(len(bounds) - 1):
        common[:d] = 0
        for shingle in flat[bounds[d] : bounds[d + 1]]:
            for other in owners[begins[shingle] : begins[shingle + 1]]:
                if other < d:
                    common[other] += 1
        for other in range(d):
            total = bounds[d + 1] - bounds[d] + bounds[other + 1] - bounds[other] - common[other]
            if common[other] > 0 and common[other] >= least * total:
                found.append((float(d), float(other), common[other] / total))
    return found


def quality(texts, truth):
    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch) / "0.parquet"
        write_part(part, pa.array(texts, pa.large_string()))
        found = search([part], [len(texts)], Path(scratch))
        kept, exact, similarity = np.array(found.kept), np.array(found.exact), np.array(found.similarity)
    gone = kept != np.arange(len(kept))
    pairs, alike = truth[:, :2].astype(int), truth[:, 2]
    near = alike >= THRESHOLD
    real = {tuple(pair): j for pair, j in zip(pairs.tolist(), alike, strict=True)}
    dropped = [(max(i, kept[i]), min(i, kept[i])) for i in np.flatnonzero(gone & ~exact)]
    true = np.array([real.get(pair, 0) for pair in dropped])
    caught = gone[pairs].any(1)
    return {
        "documents": len(texts),
        "pairs_at_least_0.8": int(near.sum()),
        "dropped_exact": int(exact.sum()),
        "dropped_near": len(dropped),
        "recall": float(caught[near].mean()),
        "recall_0.80_to_0.85": float(caught[near & (alike < 0.85)].mean()),
        "precision": float((true >= THRESHOLD).mean()),
        "largest_error_of_similarity": float(np.abs(true - similarity[gone & ~exact]).max()),
    }


def estimates(texts, truth):
    """Mean absolute and root mean square errors, beside what theory says of the second."""
    text = pa.array(texts, pa.large_string())
    signatures, full = fp.fingerprint(text, SHINGLE).signatures, full_minima(text)
    one, other = truth[:, 0].astype(int), truth[:, 1].astype(int)
    j = truth[:, 2]
    share = (signatures[one] == signatures[other]).mean(1)
    found = {"full": (full[one] == full[other]).mean(1), "8 bits": (share - 1 / 256) / (1 - 1 / 256)}
    agree = {"full": j, "8 bits": j + (1 - j) / 256}
    figures = {"pairs": len(j), "one_by_root_k": fp.PERMUTATIONS**-0.5}
    for name, estimate in found.items():
        theory = agree[name] * (1 - agree[name]) / fp.PERMUTATIONS / (1 if name == "full" else 1 - 1 / 256) ** 2
        figures[name] = {
            "mean_absolute_error": float(np.abs(estimate - j).mean()),
            "root_mean_square_error": float(np.sqrt(np.mean((estimate - j) ** 2))),
            "theory": float(np.sqrt(theory.mean())),
            "bias": float((estimate - j).mean()),
        }
    return figures


def full_minima(text):
    data, offsets = text_buffers(text)
    out, room = np.empty((len(text), fp.PERMUTATIONS), np.uint32), int(np.diff(offsets).max()) + 4
    found, shingles = np.empty(room, np.uint32), np.empty(room, np.uint32)
    for d in range(len(text)):
        n, _ = fp.find_letters(data, offsets[d], offsets[d + 1], class_table(), found)
        count = fp.hash_shingles(found, n, fp.shingle_weights(SHINGLE), shingles)
        fp._minima(shingles, count, *fp._functions(), out[d])
    return out


def fingerprint_speed(text):
    fp.fingerprint(text[:1], SHINGLE)
    best = min(timed(lambda: fp.fingerprint(text, SHINGLE)) for _ in range(5))
    _, offsets = text_buffers(text)
    return float(offsets[-1] - offsets[0]) / 1e6 / best


def search_speed(thousands):
    """The search on one core; peak of memory of this process, files mapped included."""
    with tempfile.TemporaryDirectory() as scratch:
        counts = [min(PART, thousands * 1000 - begin) for begin in range(0, thousands * 1000, PART)]
        files = [Path(scratch) / f"{number:05d}.parquet" for number in range(len(counts))]
        for number, (file, count) in enumerate(zip(files, counts, strict=True)):
            write_part(file, synthetic(np.random.default_rng(number), count))
        search(files[:1], counts[:1], Path(scratch) / "warm")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
        before = status("VmHWM")
        start = time.process_time(), time.monotonic()
        found = search(files, counts, Path(scratch) / "search")
        seconds = time.process_time() - start[0], time.monotonic() - start[1]
        dropped = int((found.kept != np.arange(len(found.kept))).sum())
    return {
        "documents": sum(counts),
        "dropped": dropped,
        "processor_seconds": seconds[0],
        "wall_seconds": seconds[1],
        "peak_mb": status("VmHWM") / 1024,
        "peak_mb_before": before / 1024,
    }


def synthetic(rng, count):
    """``count`` documents of 333 letters; every tenth is one before it with 0 to 2.5 % of its letters changed."""
    codes = rng.integers(0x4E00, 0x9000, (count, LETTERS), dtype=np.uint16)
    copies = np.arange(10, count, 10)
    codes[copies] = np.where(
        rng.random((len(copies), LETTERS)) < rng.random((len(copies), 1)) * 0.025, codes[copies], codes[copies - 5]
    )
    data = np.stack([0xE0 | codes >> 12, 0x80 | codes >> 6 & 63, 0x80 | codes & 63], axis=2).astype(np.uint8)
    return from_buffers(data.reshape(-1), np.arange(count + 1) * 3 * LETTERS)


def write_part(file, text):
    pq.write_table(pa.table({"text": text}), file, row_group_size=8000, compression="lz4", use_dictionary=False)
    fp.save_fingerprints(file.with_suffix(""), [fp.fingerprint(text, SHINGLE)])


def search(files, counts, folder):
    alive = [np.ones(count, bool) for count in counts]
    with Pool(1) as pool:
        return find_duplicates(files, alive, THRESHOLD, SHINGLE, folder, pool, Reporter(quiet=True))


def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def timed(function):
    start = time.thread_time()
    function()
    return time.thread_time() - start


if __name__ == "__main__":
    arguments = sys.argv[1:]
    data = Path(arguments[0]) if arguments else Path(__file__).parents[2] / "shared" / "data"
    main(data, int(arguments[1]) if len(arguments) > 1 else 1000)
