"""Decoding speed of a preset with random weights, batch 1 and batched, in tokens a second.

Usage: python benchmarks/decode.py [key=value of [model] …]
"""

import sys
import time

import torch

from common import store
from congling.config import load
from congling.infer.config import SampleConfig
from congling.infer.engine import generate, generate_batch
from congling.model.transformer import Transformer
from congling.recipe import Recipe

SAMPLING = SampleConfig(max_tokens=64, max_context=4096)


def speed(model, context):
    """Tokens a second after a prompt of ``context`` tokens; the prompt's own time is left out."""
    best = 0.0
    for _ in range(3):
        tokens = generate(model, [5] * context, SAMPLING, ())
        next(tokens)
        start = time.perf_counter()
        best = max(best, sum(1 for _ in tokens) / (time.perf_counter() - start))
    return round(best, 1)


def batch_speed(model, batch):
    """Tokens a second of ``batch`` answers to prompts of 20 to 40 tokens, prompts included."""
    prompts = [[5] * (20 + i % 21) for i in range(batch)]
    start = time.perf_counter()
    answers = generate_batch(model, prompts, SAMPLING, (), batch)
    return round(sum(map(len, answers)) / (time.perf_counter() - start), 1)


def main(overrides):
    architecture = load(Recipe, None, overrides, "model").model.resolve(8192)
    result = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = Transformer(architecture).to(dtype).eval()
        result[name] = {f"context {n}": speed(model, n) for n in (18, 512)}
        result[name] |= {f"batch {n}": batch_speed(model, n) for n in (1, 32)}
    store("decode", result)


if __name__ == "__main__":
    main(sys.argv[1:])
