"""Ten million strings through the tokenizer: random bytes, random characters of every plane, real Chinese with bytes
changed, cut and repeated. Each must come back exactly, with ids in range, the same alone, in a batch and on threads.

Usage: python benchmarks/fuzz_tokenizer.py [million strings] [VOCABULARY]; without a vocabulary the seed's pieces under
our rule and under the seed's own, from ../shared. Then documents of 0 bytes and of 1 GB.
"""

import resource
import sys
import time

import numpy as np

from common import store
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.trie import LOWEST_SCORE, SCALE
from congling.tokenizer.vocabulary import Vocabulary
from texts import SEED_VOCABULARY, corpus, first_bytes

BATCH = 200_000


def random_bytes(rng, real):
    lengths = rng.integers(0, 40, BATCH)
    return rng.integers(0, 256, lengths.sum(), dtype=np.uint8), lengths


def random_characters(rng, real):
    """Code points of all planes, surrogates too, most of them where text is."""
    lengths = rng.integers(0, 14, BATCH)
    ranges = np.array(
        [(0, 0x80), (0x80, 0x800), (0x800, 0x10000), (0x4E00, 0xA000), (0xD800, 0xE000), (0x10000, 0x110000)]
    )
    low, high = ranges[rng.integers(0, len(ranges), lengths.sum())].T
    points = rng.integers(low, high)
    text = points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    sizes = 1 + np.searchsorted([0x80, 0x800, 0x10000], points, "right")
    ends = np.concatenate([[0], np.cumsum(sizes)])[np.cumsum(lengths)]
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8), np.diff(ends, prepend=0)


def changed_text(rng, real):
    """Pieces of real text cut anywhere, with a byte in twenty changed, or one that repeats."""
    starts, lengths = rng.integers(0, len(real) - 64, BATCH), rng.integers(0, 64, BATCH)
    index = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    stuck = np.repeat(rng.random(BATCH) < 0.05, lengths)
    data = real[np.where(stuck, np.repeat(starts, lengths), index)].copy()
    changed = rng.random(len(data)) < 0.05 * np.repeat(rng.random(BATCH) < 0.5, lengths)
    data[changed] = rng.integers(0, 256, int(changed.sum()), dtype=np.uint8)
    return data, lengths


def check(tokenizer, data, lengths, rng):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids, starts = tokenizer.encode_batch((data, offsets))
    assert len(ids) == 0 or int(ids.max()) < tokenizer.vocab_size, "id out of range"
    if tokenizer.special:
        assert len(ids) == 0 or int(ids.min()) >= len(tokenizer.special), "special id from text"
    assert tokenizer.decode_bytes(ids) == data.tobytes(), "bytes differ"
    sizes = np.concatenate([[0], np.cumsum(tokenizer.token_bytes[ids])])
    assert np.array_equal(np.diff(sizes[starts]), lengths), "a document's bytes differ"
    on_threads = tokenizer.encode_batch((data, offsets), threads=2)
    assert np.array_equal(on_threads[0], ids), "threads differ"
    assert np.array_equal(on_threads[1], starts), "threads differ"
    for d in rng.integers(0, len(lengths), 200):
        alone = tokenizer.encode(data[offsets[d] : offsets[d + 1]].tobytes())
        assert alone == ids[starts[d] : starts[d + 1]].tolist(), "alone differs"


def large_documents(tokenizer, real):
    """A document of 1 GB of real text, among empty ones."""
    data = np.resize(real, 1_000_000_000)
    offsets = np.array([0, 0, len(data), len(data)])
    start = time.perf_counter()
    ids, starts = tokenizer.encode_batch((data, offsets))
    seconds = time.perf_counter() - start
    assert starts[1] == 0
    assert starts[2] == starts[3] == len(ids)
    assert int(tokenizer.token_bytes[ids].sum()) == len(data)
    assert tokenizer.decode_bytes(ids[:1_000_000]) == data[: tokenizer.token_bytes[ids[:1_000_000]].sum()].tobytes()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "bytes": len(data),
        "tokens": len(ids),
        "seconds": round(seconds, 1),
        "peak_gb_of_the_process": round(peak / 1e6, 1),
    }


def main():
    millions = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    if len(sys.argv) > 2:
        tokenizers = {sys.argv[2]: Tokenizer.load(sys.argv[2])}
    elif SEED_VOCABULARY.exists():
        seed = Tokenizer.from_seed(SEED_VOCABULARY)
        v = seed.vocabulary
        scores = [max(LOWEST_SCORE, round(score * SCALE)) for score in v.scores]
        tokenizers = {"our rule": Tokenizer(Vocabulary("congling", v.pieces, scores, v.counts)), "seed's rule": seed}
    else:
        print(f"skipped: no {SEED_VOCABULARY}")
        return
    train, _ = corpus()
    real = np.frombuffer("\n".join(first_bytes(train, 50_000_000)).encode(), np.uint8)
    rng, strings, size, start = np.random.default_rng(2026), 0, 0, time.perf_counter()
    while strings < millions * 1e6:
        for make in (random_bytes, random_characters, changed_text):
            data, lengths = make(rng, real)
            for tokenizer in tokenizers.values():
                check(tokenizer, data, lengths, rng)
            strings, size = strings + len(lengths), size + len(data)
    figures = {"strings": strings, "bytes": size, "seconds": round(time.perf_counter() - start), "faults": 0}
    store(
        "fuzz-tokenizer",
        {**figures, "vocabularies": list(tokenizers), "large": large_documents(next(iter(tokenizers.values())), real)},
    )


if __name__ == "__main__":
    main()
