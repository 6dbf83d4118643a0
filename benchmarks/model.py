"""Speed of training on a CPU: forward and backward passes in tokens a second on one and two threads, a whole update of
Muon, and attention beside torch's own.

Every round measures the peak of bf16 matrix products too: the machine is noisy, the share of the peak is less so.
"share" is FLOPs of the model (train/cost.py) · tokens a second / peak.

Usage: python benchmarks/model.py [threads …]      default 1 2; alone on the machine
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from common import store
from congling.model.attend import attend
from congling.model.config import ModelConfig
from congling.model.positions import make_position
from congling.model.transformer import Transformer
from congling.train.config import LoopConfig
from congling.train.cost import flops_per_token
from congling.train.optimizers import Optimizer
from congling.train.precision import malloc_environment
from seed_like import STEPS, SeedLike, orthogonalise_step

# preset: ids, rows, length. 65,802 are the seed's own.
CASES = {"jerry-0.18b": (65_802, 8, 256), "base-0.18b": (65_536, 8, 256), "demo": (8192, 32, 128)}
ROUNDS = 7
BF16 = torch.bfloat16


def timed(function):
    """Seconds, and processor seconds of all threads (what other programs take does not count there)."""
    start, busy = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - busy


def fastest(function, repeats=ROUNDS):
    """Seconds of the quickest of ``repeats`` calls, after a warm-up."""
    function()
    return min(timed(function)[0] for _ in range(repeats))


def peak(dtype=BF16):
    """FLOP/s of a matrix product of the shape that training has."""
    a, b = torch.randn(2048, 768, dtype=dtype), torch.randn(768, 4096, dtype=dtype)
    return 2 * 2048 * 768 * 4096 / fastest(lambda: a @ b, 5)


def training(preset):
    vocab_size, rows, length = CASES[preset]
    model = Transformer(ModelConfig(preset=preset).resolve(vocab_size)).train()
    ids = torch.randint(vocab_size, (rows, length))

    def step():
        with torch.autocast("cpu", BF16):
            loss = model.loss(ids, ids).objective
        loss.backward()
        model.zero_grad()

    for _ in range(3):  # the heap grows to its size
        step()
    tokens, found = rows * length, []
    for _ in range(ROUNDS):
        top = peak()
        seconds, busy = timed(step)
        share = flops_per_token(model.architecture, length) * tokens / seconds / top
        found.append((tokens / seconds, tokens / busy, top, share))
    speeds, per_busy, peaks, shares = zip(*found, strict=True)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": round(max(speeds)),
        "median": round(median(speeds)),
        "tokens_per_processor_second": round(max(per_busy)),
        "peak_gflops": round(max(peaks) / 1e9),
        "share": round(median(shares), 3),
        **update(model),
    }


def update(model):
    """A whole step of the optimizer: Muon for the matrices, AdamW for the rest."""
    optimizer = Optimizer(model, LoopConfig(muon_step=0), BF16)
    found = []
    for step in range(4):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        found.append(timed(lambda step=step: optimizer.step(step, 1e-3)))
    seconds, busy = (min(column) for column in zip(*found[1:], strict=True))
    return {"update_seconds": round(seconds, 2), "update_processor_seconds": round(busy, 2)}


def seed_like():
    """The same model in the plainest code, float32, 2 rows of 256; of its Muon one step of 20 is measured."""
    vocab_size, _, length = CASES["jerry-0.18b"]
    model = SeedLike(vocab_size)
    ids = torch.randint(vocab_size, (2, length))

    def step():
        model.loss(ids, ids).backward()
        model.zero_grad()

    speed = 2 * length / fastest(step, 3)
    shapes = {(768, 128): 12 * 3 * 12, (1536, 768): 12 * 3, (vocab_size, 768): 1}  # heads of q, k, v; others; head
    one_step = 0.0
    for shape, count in shapes.items():
        x = torch.randn(shape) / shape[0] ** 0.5
        one_step += count * fastest(lambda x=x: orthogonalise_step(x), 2)
    return {
        "tokens_per_second": round(speed, 1),
        "peak_gflops": round(peak(torch.float32) / 1e9),
        "update_seconds": round(STEPS * one_step, 1),
    }


def attention_milliseconds(preset, rows, length):
    """One layer's attention, forward and backward in bf16: ours with its positions, torch's without any."""
    architecture = ModelConfig(preset=preset).resolve(8192)
    shape = rows, architecture.num_heads, length, architecture.head_dim
    q, k, v = (torch.randn(shape, dtype=BF16, requires_grad=True) for _ in range(3))
    position = make_position(architecture)

    def milliseconds(function):
        return round(1e3 * fastest(lambda: function().sum().backward()), 2)

    found = {
        "ours": milliseconds(lambda: attend(q, k, v, position)),
        "scaled_dot_product_attention": milliseconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
    }
    if architecture.talking_heads:
        talking = torch.eye(architecture.num_heads, requires_grad=True)
        found["ours, talking heads"] = milliseconds(lambda: attend(q, k, v, position, None, talking, talking))
    return found


def measure():
    """Everything on the threads of this process."""
    return {
        **{preset: training(preset) for preset in CASES},
        "seed-like": seed_like(),
        "attention_milliseconds": {
            f"{preset} {rows}x{length}": attention_milliseconds(preset, rows, length)
            for preset, rows, length in (("demo", 64, 64), ("demo", 16, 256), ("jerry-0.18b", 8, 256))
        },
    }


def main(threads):
    found = {}
    for count in threads:
        environment = {**os.environ, **malloc_environment(os.environ), "OMP_NUM_THREADS": str(count)}
        command = [sys.executable, __file__, "measure"]
        done = subprocess.run(command, env=environment, cwd=Path.cwd(), stdout=subprocess.PIPE, text=True, check=True)
        found[f"{count} threads"] = json.loads(done.stdout)
    store("model", {"rows": {preset: f"{r} x {t}" for preset, (_, r, t) in CASES.items()}, **found})


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        print(json.dumps(measure()))
    else:
        main(sys.argv[1:] or ["1", "2"])
