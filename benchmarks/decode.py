"""Decoding on a CPU with random weights, batch 1: ours and llama.cpp's, by turns in one run.

Usage: python benchmarks/decode.py [threads=1,2] [rounds=8] [key=value of [model] …]
Prints and stores, for both 0.18 B presets (or the one of preset=…), threads and precisions: tokens/s at contexts 18 and
1,024, seconds of a prompt of 1,024 (in the engine's pieces of 256), bytes of the cache a token. llama.cpp's model is a
Llama with as many weights: f16 beside bf16, q8_0 beside int8, q4_0 beside int4. Best of the rounds.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from common import store
from congling.config import load
from congling.infer.cpu.backend import CpuBackend
from congling.model.transformer import Transformer
from congling.recipe import Recipe
from llama_peer import KINDS, Llama, write_model
from one_sequence import forward

CONTEXTS = (18, 1024)
PIECE, TOKENS = 256, 16
PAGES = 64


class Ours:
    def __init__(self, transformer, precision, cache, threads):
        self.backend = CpuBackend(transformer, precision, cache, "auto", threads)
        self.backend.allocate(PAGES)
        self.table = np.arange(PAGES, dtype=np.int32)[None]
        self.bytes = self.backend.page_bytes // self.backend.page_tokens

    def speed(self, context):
        """(seconds of the prompt, tokens a second behind it), greedy."""
        start = time.perf_counter()
        for done in range(0, context, PIECE):
            ids = [300 + i % 1000 for i in range(done, min(done + PIECE, context))]
            logits = forward(self.backend, self.table, ids, done, True)
        middle = time.perf_counter()
        for i in range(TOKENS):
            logits = forward(self.backend, self.table, [int(logits[0].argmax())], context + i, False)
        return middle - start, TOKENS / (time.perf_counter() - middle)


class Theirs:
    def __init__(self, path, threads):
        self.llama = Llama(path, threads)

    def speed(self, context):
        timings = self.llama.timings(context, TOKENS + 1)
        return timings["prompt_ms"] / 1000, timings["predicted_per_second"]


def measure(rivals, rounds):
    best = {name: {} for name in rivals}
    for _ in range(rounds):
        for context in CONTEXTS:
            for name, rival in rivals.items():
                seconds, speed = rival.speed(context)
                figures = best[name]
                figures[f"tokens/s at {context}"] = round(max(speed, figures.get(f"tokens/s at {context}", 0)), 1)
                if context == CONTEXTS[-1]:
                    key = f"prompt of {context}, s"
                    figures[key] = round(min(seconds, figures.get(key, 1e9)), 2)
    for name, rival in rivals.items():
        if isinstance(rival, Ours):
            best[name]["cache bytes/token"] = rival.bytes
            best[name]["cache"] = f"{rival.backend.cache} {rival.backend.cache_precision}"
    return best


def main(overrides):
    options = dict(o.split("=", 1) for o in overrides)
    threads = [int(n) for n in options.pop("threads", "1,2").split(",")]
    rounds, presets = int(options.pop("rounds", 8)), [options.pop("preset", None)]
    torch.set_num_threads(1)
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for preset in ("base-0.18b", "jerry-0.18b") if presets == [None] else presets:
            changes = [f"preset={preset}", *(f"{k}={v}" for k, v in options.items())]
            architecture = load(Recipe, None, changes, "model").model.resolve(65_536)
            transformer = Transformer(architecture).eval()
            for precision, kind in KINDS.items():
                path = Path(folder) / f"{kind}.gguf"
                if not path.exists():
                    write_model(path, kind, architecture)
                for count in threads:
                    rivals = {f"ours {c}": Ours(transformer, precision, c, count) for c in ("kv", "absorbed")}
                    rivals["llama.cpp"] = Theirs(path, count)
                    found = result[f"{preset} {precision} {count} threads"] = measure(rivals, rounds)
                    print(preset, precision, count, found, flush=True)
    store("decode", result)


if __name__ == "__main__":
    main(sys.argv[1:])
