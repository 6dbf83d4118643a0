"""Time and memory to train a vocabulary of 65,536 ids: ours beside SentencePiece unigram on all of the pretraining text
under ../shared, one thread each; and ours on 2 GB made from it, for growth.

Each training runs in a process of its own, so that its peak of memory is its own. `pip install sentencepiece` for the
peer, which takes half an hour. Usage: python benchmarks/tokenizer_training.py [ours] [sentencepiece] [growth]
[memory]; rows of an earlier run of the same day stay.
"""

import json
import multiprocessing
import re
import sys
import tempfile
from pathlib import Path

import numpy as np

from common import RESULTS, store
from congling.tokenizer.config import TokenizerConfig
from texts import SHARED, corpus, num_bytes
from vocabularies import train_sentencepiece, train_stage, write_corpus

SIZE = 65_536


def alone(function, *arguments):
    """What ``function`` returns in a new process, and that process's peak of memory in MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (function, arguments))


def _measured(function, arguments):
    found = function(*arguments)
    # Not getrusage: its maximum is handed down from the process that started this one.
    status = Path("/proc/self/status").read_text()
    return {**found, "peak_mb": round(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000)}


def ours(folder, options):
    """Seconds of each part of training on the corpus in ``folder``."""
    config = TokenizerConfig(vocab_size=SIZE, **options)
    with tempfile.TemporaryDirectory() as name:
        seconds, summary = train_stage(folder, Path(name) / "v", config)
        rows = [json.loads(line) for line in (Path(name) / "v" / "metrics.jsonl").read_text().splitlines()]
    times = [row["time"] for row in rows if row["kind"] == "round"]
    rounds = {"seconds_of_a_round": round(float(np.median(np.diff(times))), 2)} if len(times) > 2 else {}
    return {"seconds": round(seconds, 1), "rounds": summary["rounds"], "candidates": summary["candidates"], **rounds}


def sentencepiece():
    train, _ = corpus()
    return {"seconds": round(train_sentencepiece(train, SIZE).seconds, 1)}


def changed(text, rng):
    """The text with one character in fifty replaced by another of it."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32).copy()
    places = np.flatnonzero(rng.random(len(points)) < 0.02)
    points[places] = points[rng.integers(0, len(points), len(places))]
    return points.tobytes().decode("utf-32-le")


def main():
    if not (SHARED / "data").is_dir():
        print(f"skipped: no {SHARED / 'data'}")
        return
    wanted = sys.argv[1:] or ["ours", "sentencepiece", "growth"]
    stored = sorted(RESULTS.glob("tokenizer-training-*.json"))
    rows = json.loads(stored[-1].read_text())["figures"] if stored and sys.argv[1:] else {}
    train, _ = corpus()
    size = num_bytes(train)
    rows["bytes"] = size
    with tempfile.TemporaryDirectory() as name:
        if "memory" in wanted:  # alone, where another job has the second core
            rng = np.random.default_rng(0)
            copies = [changed(text, rng) for _ in range(round(2e9 / size)) for text in train if text]
            big = write_corpus(copies, Path(name) / "many")
            del copies
            rows["peak MB on 2 GB, 2 threads"] = alone(ours, big, {"threads": 2})["peak_mb"]
        if "ours" in wanted or "growth" in wanted:
            folder = write_corpus(train, Path(name) / "once")
            alone(ours, folder, {"max_rounds": 1, "threads": 1})  # compiles
        if "ours" in wanted:
            rows["ours, 1 thread"] = alone(ours, folder, {"threads": 1})
            rows["ours, 2 threads"] = alone(ours, folder, {"threads": 2})
            rows["ours, joining any, 1 thread"] = alone(ours, folder, {"threads": 1, "joining": "any"})
            rows["ours, sampled counting, 1 thread"] = alone(ours, folder, {"threads": 1, "counting": "sample"})
        if "sentencepiece" in wanted:
            rows["SentencePiece unigram, 1 thread"] = alone(sentencepiece)
        if "growth" in wanted:
            rng = np.random.default_rng(0)
            copies = [changed(text, rng) for _ in range(round(2e9 / size)) for text in train if text]
            big = write_corpus(copies, Path(name) / "many")
            rows["ours, 2 threads, 2 GB"] = {"bytes": num_bytes(copies), **alone(ours, big, {"threads": 2})}
            del copies
            rows["ours, 2 threads, once"] = alone(ours, folder, {"threads": 2})
    mine, theirs = rows.get("ours, 1 thread"), rows.get("SentencePiece unigram, 1 thread")
    if mine and theirs:
        rows["times as fast as SentencePiece"] = round(theirs["seconds"] / mine["seconds"], 1)
    if "ours, 2 threads, 2 GB" in rows:
        once, many = rows["ours, 2 threads, once"], rows["ours, 2 threads, 2 GB"]
        rows["seconds a GB, once and 2 GB"] = [
            round(once["seconds"] / size * 1e9, 1),
            round(many["seconds"] / many["bytes"] * 1e9, 1),
        ]
    store("tokenizer-training", rows)


if __name__ == "__main__":
    main()
