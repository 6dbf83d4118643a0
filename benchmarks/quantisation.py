"""What weights and caches of few bits cost: held-out bits per byte through the CPU backend's own forward.

Usage: python benchmarks/quantisation.py MODEL_FOLDER TOKENS_FOLDER [tokens=16384] [seq_len=512] [decode=256]
MODEL_FOLDER: of a pretrain stage; TOKENS_FOLDER: of its tokenize stage. The windows are read as prompts in pieces of
256; the first ``decode`` tokens also token by token, the other form of attention. bf16 is rounded, not trained.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch

from common import store
from congling.corpus.tokens import TokenDataset
from congling.evaluate.bits import count_bytes, measure, windows
from congling.infer.cpu.backend import CpuBackend
from congling.infer.model import Model
from congling.model.loss import IGNORE
from one_sequence import forward

CASES = [
    ("fp32", "fp32"), ("fp32", "bf16"), ("fp32", "int8"), ("bf16", "bf16"), ("bf16", "int8"), ("int8", "bf16"),
    ("int8", "int8"), ("int4", "bf16"), ("int4", "int8"),
]  # fmt: skip


def nats(backend, ids, targets, piece, prompt):
    """Summed loss of one window, in pieces."""
    total = 0.0
    table = np.arange(len(ids) // 32 + 2, dtype=np.int32)[None]
    for start in range(0, len(ids), piece):
        logits = forward(backend, table, ids[start : start + piece], start, prompt, every=True)
        goals = torch.from_numpy(targets[start : start + piece])
        total += float(torch.nn.functional.cross_entropy(logits, goals, ignore_index=IGNORE, reduction="sum"))
    return total


def bits(backend, batches, token_bytes, piece, prompt):
    backend.allocate(1 + max(batch.ids.shape[1] for batch in batches) // 32 + 1)
    total = sum(
        nats(backend, row.numpy(), goals.numpy(), piece, prompt)
        for batch in batches
        for row, goals in zip(batch.ids, batch.targets, strict=True)
    )
    count = sum(count_bytes(batch, torch.from_numpy(token_bytes.astype(np.int64))) for batch in batches)
    return total / math.log(2) / count


def main(model_folder, tokens_folder, options):
    settings = {"tokens": 16_384, "seq_len": 512, "decode": 256} | {
        key: int(value) for key, value in (o.split("=", 1) for o in options)
    }
    torch.set_num_threads(1)
    model, dataset = Model.load(model_folder), TokenDataset(Path(tokens_folder), "valid")
    sizes = model.tokenizer.token_bytes
    many = list(windows(dataset, settings["seq_len"], settings["tokens"]))
    few = list(windows(dataset, settings["decode"], settings["decode"]))
    result = {"settings": settings, "reference": {}}
    for name, batches in (("prompts", many), ("decoding", few)):
        result["reference"][name] = round(measure(model.transformer, batches, sizes, torch.float32).bits_per_byte, 5)
    caches = ("kv",) if model.transformer.architecture.position == "rope" else ("kv", "absorbed")
    for precision, cache_precision in CASES:
        for cache in caches:
            backend = CpuBackend(model.transformer, precision, cache, cache_precision, threads=1)
            found = {
                "prompts": round(bits(backend, many, sizes, 256, True), 5),
                "decoding": round(bits(backend, few, sizes, 1, False), 5),
            }
            result[f"weights {precision}, cache {cache} {cache_precision}"] = found
            print(precision, cache, cache_precision, found, flush=True)
    store("quantisation", result)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
