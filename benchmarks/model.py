"""Training speed of the demo preset on a CPU: a forward and backward pass, in tokens a second, and what its attention
costs beside torch's own.

Usage, with the GLIBC_TUNABLES of congling.train.precision set: python benchmarks/model.py [key=value of [model] …]
"""

import os
import sys
import time

import torch
import torch.nn.functional as F

from common import store
from congling.config import load
from congling.model.attend import attend
from congling.model.config import ModelConfig
from congling.model.positions import make_position
from congling.model.transformer import Transformer
from congling.recipe import Recipe

SHAPES = ((64, 64), (32, 128), (16, 256))
VOCABULARY = 8192


def fastest(function, repeats=6):
    """Seconds of the quickest of ``repeats`` calls, after a warm-up."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def step_speed(model, batch, length, dtype):
    ids = torch.randint(model.architecture.vocab_size, (batch, length))

    def step():
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss, _ = model.loss(ids, ids)
        loss.backward()
        model.zero_grad()

    return batch * length / fastest(step)


def attention_milliseconds(config, batch, length):
    """One layer's attention, forward and backward in bf16: ours with distance decay, torch's without any position."""
    shape = batch, config.num_heads, length, config.head_dim
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    position = make_position(config)

    def seconds(function):
        return fastest(lambda: function().sum().backward())

    ours = seconds(lambda: attend(q, k, v, position))
    torchs = seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return {"ours": round(1e3 * ours, 2), "scaled_dot_product_attention": round(1e3 * torchs, 2)}


def main(overrides):
    section: ModelConfig = load(Recipe, None, overrides, "model").model
    architecture = section.resolve(VOCABULARY)
    model = Transformer(architecture)
    result = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),
        "tokens_per_second": {
            name: {f"{b}x{t}": round(step_speed(model, b, t, dtype)) for b, t in SHAPES}
            for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
        },
        "attention_milliseconds": {f"{b}x{t}": attention_milliseconds(architecture, b, t) for b, t in SHAPES},
    }
    store("model", result)


if __name__ == "__main__":
    main(sys.argv[1:])
