"""Training on one GPU: tokens a second and MFU of base-0.18b and jerry-0.18b in bf16 at length 1,024, and what talking
heads cost by the kernels and by plain torch. Every path is checked against float64 on the GPU first.

Usage: python benchmarks/gpu_training.py [rows=64] [talking_rows=64] [lengths=1024,4096]
"""

import sys
import time

import torch

from common import store
from congling.model.attend import attend
from congling.model.config import ModelConfig
from congling.model.flex import flex_attend
from congling.model.positions import DistanceDecay
from congling.model.talking_heads import talking_attend
from congling.model.transformer import Transformer
from congling.train.compile import compile_layers
from congling.train.cost import flops_per_token, mfu
from congling.train.devices import device_peak

VOCABULARY, LENGTH = 65_536, 1024
WANTED = {"base-0.18b": 400_000, "jerry-0.18b": 250_000}  # tokens/s on an H100
HEADS, WIDTH = 12, 128
TOLERANCE = 0.05  # of the largest value, in bf16


def seconds(function, repeats=10):
    """Median of ``repeats`` calls after two for warming up, each from an idle device to an idle device."""
    taken = []
    for call in range(repeats + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        if call >= 2:
            taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]


def peak_bytes(function):
    """Memory that the call needs at once, beyond what is there before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def attention_inputs(rows, length, dtype, groups=1):
    torch.manual_seed(0)
    tensors = [torch.randn(rows, HEADS, length, WIDTH, device="cuda", dtype=dtype) for _ in range(3)]
    maps = [torch.eye(HEADS, device="cuda") + torch.randn(HEADS, HEADS, device="cuda") / 10 for _ in range(2)]
    position = DistanceDecay(groups, 0.1, 0.01).cuda()
    return [t.requires_grad_() for t in tensors], position, [m.requires_grad_() for m in maps]


def forward_and_backward(function, tensors, position, maps):
    for leaf in (*tensors, *position.parameters(), *maps):
        leaf.grad = None
    y = function(*tensors, position, None, *maps)
    y.backward(torch.ones_like(y))
    return [y.detach(), *(leaf.grad for leaf in (*tensors, *position.parameters(), *maps))]


def check(function, talking):
    """Largest error of output and gradients beside float64, by the largest value. Exits when it is too large."""
    tensors, position, maps = attention_inputs(2, 700, torch.bfloat16, 1 if talking else HEADS)
    maps = maps if talking else []
    got = forward_and_backward(function, tensors, position, maps)
    double = [t.detach().double().requires_grad_() for t in (*tensors, *maps)]
    wanted = forward_and_backward(attend, double[:3], position.double(), double[3:])
    worst = max(float((g.double() - w).abs().max() / w.abs().max()) for g, w in zip(got, wanted, strict=True))
    if not worst < TOLERANCE:
        sys.exit(f"{function.__name__}: differs from float64 by {worst:.3g} of the largest value, at most {TOLERANCE}")
    return worst


def talking_heads_costs(length, rows):
    """One layer's attention, forward and backward in bf16: milliseconds and bytes, by kernels and by plain torch."""
    made = attention_inputs(rows, length, torch.bfloat16)
    result = {"rows": rows}
    for name, function in (("kernels", talking_attend), ("plain torch", attend)):
        try:
            result[name] = {
                "milliseconds": 1e3 * seconds(lambda function=function: forward_and_backward(function, *made)),
                "bytes": peak_bytes(lambda function=function: forward_and_backward(function, *made)),
            }
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            result[name] = "out of memory"
    return result


def training_speed(preset, rows, plain_talking_heads=False):
    """Forward and backward of a micro-batch, layers compiled: tokens/s, MFU, bytes. Without the optimizer's step."""
    torch._dynamo.reset()
    architecture = ModelConfig(preset=preset).resolve(VOCABULARY)
    model = Transformer(architecture).cuda()
    if plain_talking_heads:
        for layer in model.layers:
            layer.attention.attend = plain(layer.attention)
    compile_layers(model, "on", "cuda")
    ids = torch.randint(VOCABULARY, (rows, LENGTH), device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = model.loss(ids, ids)
        loss.objective.backward()

    speed = rows * LENGTH / seconds(step)
    flops = flops_per_token(architecture, LENGTH)
    peak = device_peak("cuda", torch.bfloat16)
    return {
        "rows": rows,
        "tokens_per_second": round(speed),
        "mfu": mfu(speed, flops, peak),
        "flops_per_token": flops,
        "peak_flops": peak,
        "bytes": peak_bytes(step),
    }


def plain(attention):
    """``attention.attend`` with every score in memory."""

    def materialised(q, k, v, documents):
        with torch.autocast("cuda", enabled=False):
            return attend(q, k, v, attention.position, documents, attention.talking_before, attention.talking_after)

    return materialised


def main(rows=64, talking_rows=64, lengths="1024,4096"):
    if not torch.cuda.is_available():
        sys.exit("gpu_training: no CUDA device here")
    errors = {
        "flex, decay a head": check(flex_attend, talking=False),
        "talking heads": check(talking_attend, talking=True),
        "plain torch": check(attend, talking=True),
    }
    figures = {"gpu": torch.cuda.get_device_name(), "largest_error": errors, "wanted_tokens_per_second": WANTED}
    rows, talking_rows = int(rows), int(talking_rows)
    figures["base-0.18b"] = training_speed("base-0.18b", rows)
    figures["jerry-0.18b"] = training_speed("jerry-0.18b", talking_rows)
    figures["jerry-0.18b, plain torch"] = training_speed("jerry-0.18b", max(1, talking_rows // 8), True)
    figures["talking_heads"] = {
        length: talking_heads_costs(int(length), max(1, 16_384 // int(length))) for length in lengths.split(",")
    }
    store("gpu-training", figures)


if __name__ == "__main__":
    main(**dict(pair.split("=", 1) for pair in sys.argv[1:]))
