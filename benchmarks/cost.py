# ruff: noqa: E501
"""The cost estimate against real trainings on this machine: tokens a second from the measured peak and the assumed
share of it, and memory, beside what a few steps take.

Usage: nice python benchmarks/cost.py [case …]        OMP_NUM_THREADS sets the threads
       python benchmarks/cost.py tables               writes docs/training.md between its markers
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from common import store
from congling.artifact import Stage
from congling.config import load
from congling.corpus.tokens import TokenWriter
from congling.model.config import ModelConfig
from congling.pipeline import peak_memory, reset_peak_memory
from congling.pretrain.config import PretrainConfig
from congling.pretrain.run import run
from congling.recipe import Recipe
from congling.reporter import Reporter
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary
from congling.train.cost import estimate, mfu
from congling.train.devices import find_device
from congling.train.precision import malloc_environment
from tokenizer_tables import ROOT, newest, put, table

ONCE = {"valid_every": 10**6, "sample_prompts": (), "log_every": 10**6, "checkpoint_every": 10**6}
DEMO = {"lengths": (64, 128, 256), "length_shares": (0.4, 0.3, 0.3), "batch_tokens": 4096, "micro_batch_tokens": 4096}
WIDE = {"tokens": 3 * 4096, "lengths": (256,), "batch_tokens": 4096, "micro_batch_tokens": 2048, "valid_tokens": 2048}
# name: preset, ids, settings. demo: recipes/demo.toml, fewer steps. The others: as the recipes, with a CPU's batches.
CASES = {
    "demo": ("demo", 8192, {**DEMO, "tokens": 12 * 4096, "muon_step": 4, "valid_tokens": 16_384}),
    "base-0.18b": ("base-0.18b", 65_536, {**WIDE, "muon_step": 0}),
    "jerry-0.18b": ("jerry-0.18b", 65_536, {**WIDE, "precision": "bf16"}),
}


def make_tokens(folder, vocab_size):
    """A finished stage ``tokenize`` of random documents: the cost does not depend on the text."""
    folder.mkdir()
    count = vocab_size - 16 - 256
    pieces = [chr(0x4E00 + n) if n < 0x5000 else chr(0x20000 + n) for n in range(count)]
    Tokenizer(Vocabulary("congling", pieces, [-1_000_000] * count, [1] * count)).save(folder / "vocabulary.txt")
    rng = np.random.default_rng(1)
    for split in ("train", "valid"):
        with TokenWriter(folder, split, np.uint16) as writer:
            writer.write(rng.integers(vocab_size, size=120_000), np.arange(0, 120_001, 300))


def measure(name):
    """One training in this process, and its estimate."""
    preset, vocab_size, settings = CASES[name]
    model, config = ModelConfig(preset=preset), PretrainConfig(**{**ONCE, **settings})
    device = find_device("this")
    predicted = estimate(model.resolve(vocab_size), config, device)
    with tempfile.TemporaryDirectory() as place:
        make_tokens(Path(place) / "tokenize", vocab_size)
        stage = Stage("pretrain", Path(place) / "pretrain", {"tokenize": Path(place) / "tokenize"}, 1, "", False)
        stage.path.mkdir()
        reset_peak_memory()
        wall, processor = time.perf_counter(), time.process_time()
        summary = run(stage, Reporter(quiet=True), model, config)
        share = (time.process_time() - processor) / (time.perf_counter() - wall) / torch.get_num_threads()
        memory = peak_memory()
        disk = sum(f.stat().st_size for f in stage.path.rglob("*") if f.is_file())
    return figures(predicted, config, summary["tokens_per_second"], min(share, 1.0), memory, disk)


def figures(predicted, config, rate, share, memory, disk):
    """``share``: of the time, in which this process had its processors; others used them too."""
    peak = predicted.device.peak(predicted.precision)
    validation = (predicted.steps // config.valid_every + 1) * config.valid_tokens / 3
    updates = predicted.extra_flops - validation * predicted.flops_per_token[config.lengths[-1]]
    own = mfu(rate, predicted.mean_flops, peak)
    return {
        "peak_gflops": round(peak / 1e9),
        "precision": predicted.precision,
        "parameters": sum(predicted.parameters.values()),
        "mflop_a_token": round(predicted.mean_flops / 1e6, 1),
        "predicted_tokens_per_second": [round(x) for x in predicted.tokens_per_second],
        "tokens_per_second": round(rate),
        "share_of_the_processors": round(share, 3),
        "tokens_per_second_undisturbed": round(rate / share),
        "mfu": round(own, 3),
        "mfu_undisturbed": round(own / share, 3),
        "and_with_muon": round(own / share * (1 + updates / predicted.flops), 3),
        "memory": {
            "predicted": predicted.memory.total,
            "moment": predicted.memory.moment,
            "parts": predicted.memory.parts,
            "measured": memory,
            "ratio": round(predicted.memory.total / memory, 2),
        },
        "checkpoint_bytes": predicted.checkpoint_bytes,
        "disk": {"at_most": predicted.disk, "measured": disk},
    }


def recipe_row(name, device):
    """The estimate of a shipped recipe on a device, with the micro-batch that fits."""
    recipe = load(Recipe, ROOT / "recipes" / f"{name}.toml", [])
    found = estimate(recipe.model.resolve(recipe.tokenizer.vocab_size), recipe.pretrain, find_device(device))
    micro = min(found.fits, recipe.pretrain.micro_batch_tokens)
    config = recipe.pretrain.model_copy(update={"micro_batch_tokens": micro})
    found = estimate(recipe.model.resolve(recipe.tokenizer.vocab_size), config, find_device(device))
    hours, energy = ([x / 3600 for x in found.seconds], found.kilowatt_hours)
    return {
        "precision": found.precision,
        "FLOPs": f"{found.flops:.2e}",
        "MFU": f"{100 * found.mfu[0]:.0f}–{100 * found.mfu[1]:.0f} %",
        "tokens/s": "–".join(f"{x / 1e3:,.0f} k" for x in found.tokens_per_second),
        "hours": "–".join(f"{x:,.0f}" for x in hours),
        "kWh": "–".join(f"{x:,.0f}" for x in energy),
        "micro_batch_tokens": f"{micro:,}",
        "memory, GiB": f"{found.memory.total / 2**30:.1f} of {found.device.memory / 2**30:.0f}",
        "disk, GiB": f"{found.disk / 2**30:.0f}",
    }


def measured_row(row):
    low, high = row["predicted_tokens_per_second"]
    return {
        "peak, GFLOP/s": row["peak_gflops"],
        "tokens/s predicted": f"{low:,}–{high:,}",
        "measured": f"{row['tokens_per_second_undisturbed']:,}",
        "MFU": f"{100 * row['mfu_undisturbed']:.0f} %",
        "with Muon's products": f"{100 * row['and_with_muon']:.0f} %",
        "memory predicted, GiB": f"{row['memory']['predicted'] / 2**30:.2f}",
        "memory measured": f"{row['memory']['measured'] / 2**30:.2f}",
    }


def document():
    rows = {
        f"{name}, {device}": recipe_row(name, device)
        for name in ("base-0.18b", "jerry-0.18b")
        for device in ("rtx-4090", "a100-80", "h100")
    }
    result = newest("cost")
    cases = {name: measured_row(row) for name, row in result["figures"].items() if name in CASES}
    return "\n\n".join(
        [
            "The shipped recipes (all of their tokens), estimated on three devices; `jerry` in float32, as the seed. MFU assumed:",
            table("recipe, device", rows),
            f"The estimate against a few steps on this machine ({result['hardware']['cpu']}, {result['figures']['threads']} thread, "
            f"{result['date'][:10]}; other work on the machine taken out by processor time):",
            table("training", cases),
            "Three updates (demo: twelve) on a machine that other work kept busy: repeat on a quiet one. They save only at the end, so "
            "that the memory counted for a checkpoint under way (base 1.76 GiB, jerry 2.07) is not in the measured peak.",
        ]
    )


def main(names):
    """A process a case: peaks of memory do not mix, and the allocator gets its settings."""
    result = {"threads": torch.get_num_threads()}
    environment = {**os.environ, **malloc_environment(os.environ)}
    for name in names:
        command = [sys.executable, __file__, "--measure", name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        result[name] = json.loads(done.stdout.splitlines()[-1])
    store("cost", result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
    elif sys.argv[1:] == ["tables"]:
        put(ROOT / "docs" / "training.md", document(), "cost")
    else:
        main(sys.argv[1:] or list(CASES))
