"""The cache on a CPU: which form is fast at which length, the longest context in 8 GB, and what prompt lookup gains.

Usage: python benchmarks/cache.py [MODEL_FOLDER TOKENS_FOLDER] [contexts=18,256,1024,4096] [rounds=5] [gigabytes=8]
One thread, random weights of both 0.18 B presets. A long cache is filled with copies of one computed page, so that
no prompt of a million tokens has to be computed; what a step then reads and computes is the same. With the folders of a
pretrained model and its tokens: greedy answers with and without prompt lookup (8 tokens), no penalties.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from common import store
from congling.corpus.tokens import TokenDataset
from congling.infer.config import EngineConfig, SampleConfig
from congling.infer.cpu.backend import CpuBackend
from congling.infer.engine import Engine
from congling.infer.model import Model
from congling.model.config import ModelConfig
from congling.model.transformer import Transformer
from one_sequence import forward
from server_process import holdings

PRESETS = ("base-0.18b", "jerry-0.18b")
CASES = [("bf16", "bf16"), ("bf16", "int8"), ("int8", "int8"), ("int4", "int8")]
PROMPT, ANSWER, GUESSED = 96, 128, 8


def transformer(preset):
    return Transformer(ModelConfig(preset=preset).resolve(65_536)).eval()


def fill(backend, pages):
    """Computes a page of tokens and copies it into all others."""
    backend.allocate(pages)
    table = np.arange(pages, dtype=np.int32)[None]
    forward(backend, table, range(300, 300 + backend.page_tokens), 0, True)
    for page in range(1, pages):
        backend.copy_page(0, page)
    return table


def step(backend, table, context, rows=1):
    """Seconds of one forward pass of ``rows`` tokens behind ``context`` others."""
    start = time.perf_counter()
    forward(backend, table, range(400, 400 + rows), context, False, every=True)
    return time.perf_counter() - start


def sweep(contexts, rounds):
    """Tokens/s of each form at each length, by turns; and the seconds of 1 + 8 rows for those of one."""
    result = {}
    for preset in PRESETS:
        model = transformer(preset)
        for weights, cache in CASES:
            backends = {form: CpuBackend(model, weights, form, cache, threads=1) for form in ("kv", "absorbed")}
            tables = {form: fill(backend, max(contexts) // 32 + 2) for form, backend in backends.items()}
            best = {form: dict.fromkeys(contexts, 1e9) for form in backends}
            wide = dict.fromkeys(backends, 1e9)
            for _ in range(rounds):
                for form, backend in backends.items():
                    for context in contexts:
                        for _ in range(6):
                            best[form][context] = min(best[form][context], step(backend, tables[form], context))
                    wide[form] = min(wide[form], *(step(backend, tables[form], 256, 1 + GUESSED) for _ in range(6)))
            for form, seconds in best.items():
                row = {f"tokens/s at {c}": round(1 / s, 1) for c, s in seconds.items()}
                row |= {"of 18 at 1024": round(seconds[18] / seconds[1024], 3)} if 1024 in seconds else {}
                row["a step of 9 for one of 1"] = round(wide[form] / seconds[256], 2) if 256 in seconds else None
                result[f"{preset} {weights}, cache {form} {cache}"] = row
                print(preset, weights, form, cache, row, flush=True)
    return result


def longest(preset, weights, form, cache, gigabytes):
    """In a process of its own: as many tokens as fit, tried; peak of the whole process."""
    model = transformer(preset)
    backend = CpuBackend(model, weights, form, cache, threads=1)
    heads = model.architecture.num_heads
    del model
    base = holdings(os.getpid())["rss_mb"] * 2**20
    a_token = backend.page_bytes / 32 + 3 * 4 * heads * 1.25  # three buffers of scores, a row for each head
    pages = int((gigabytes * 1e9 - base - 2e8) / a_token / 32)
    table = fill(backend, pages)
    seconds = [step(backend, table, 32 * pages - 1) for _ in range(2)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {
        "tokens": 32 * pages,
        "seconds a token": round(min(seconds), 2),
        "memory, GB": round(holdings(os.getpid())["rss_mb"] * 2**20 / 1e9, 2),
        "peak, GB": round(peak / 1e9, 2),
    }
    print(json.dumps(found))


def longest_of_all(gigabytes):
    result = {}
    for preset, form in (("jerry-0.18b", "absorbed"), ("jerry-0.18b", "kv"), ("base-0.18b", "kv")):
        for weights, cache in (("bf16", "bf16"), ("int8", "int8")):
            command = [sys.executable, __file__, "longest", preset, weights, form, cache, str(gigabytes)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout)
            result[f"{preset} {weights}, cache {form} {cache}"] = found
            print(preset, weights, form, cache, found, flush=True)
    return result


def lookup(model_folder, tokens_folder):
    """Greedy answers to pieces of held-out texts: how many tokens a step makes, and how fast."""
    model, dataset = Model.load(model_folder), TokenDataset(Path(tokens_folder), "valid")
    prompts = [dataset.read(4 * PROMPT * i, PROMPT).tolist() for i in range(24)]
    sampling = SampleConfig(temperature=0, repetition_penalty=0, max_tokens=ANSWER)
    result = {}
    for count in (0, GUESSED):
        engine = Engine(CpuBackend(model.transformer, "bf16", threads=1), EngineConfig(lookup=count))
        start = time.perf_counter()
        for prompt in prompts:
            handle = engine.submit(model.request(prompt, sampling, ends=()))
            assert sum(event.token is not None for event in handle.events()) == ANSWER
        seconds, stats = time.perf_counter() - start, engine.stats
        result[f"lookup={count}"] = {
            "tokens/s": round(stats.tokens / seconds, 1),
            "tokens a step": round(stats.tokens / stats.steps, 3),
            "guessed": stats.guessed_tokens,
            "accepted": stats.accepted_tokens,
        }
    return result


def main(words):
    torch.set_num_threads(1)
    if words[:1] == ["longest"]:
        return longest(*words[1:5], float(words[5]))
    options = dict(word.split("=", 1) for word in words if "=" in word)
    folders = [word for word in words if "=" not in word]
    contexts = [int(c) for c in options.get("contexts", "18,256,1024,4096").split(",")]
    result = {"speed": sweep(contexts, int(options.get("rounds", 5)))}
    result["longest"] = longest_of_all(float(options.get("gigabytes", 8)))
    if len(folders) == 2:
        result["lookup"] = lookup(*folders)
    store("cache", result)


if __name__ == "__main__":
    main(sys.argv[1:])
