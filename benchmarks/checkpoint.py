"""Saving and loading the checkpoint of a 0.18 B training (weights, Muon and Adam state): seconds and peak memory.

Usage: nice python benchmarks/checkpoint.py        each case in a process of its own; needs 5 GB of disk and memory

plain: as the first version did: safetensors' bytes of a whole file, written, then read again for the hash.
save: congling's writer. load: verified and mapped, then copied into other tensors as a training does.
beside: what a training loses when the saver writes: its wait, and the slower steps while the disk is busy.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save

from common import store
from congling import artifact
from congling.model.config import ModelConfig
from congling.model.transformer import Transformer
from congling.pipeline import peak_memory, reset_peak_memory
from congling.reporter import Reporter
from congling.train.checkpoint import Checkpoint, Checkpoints
from congling.train.saver import Saver

CASES = ("plain", "save", "load", "beside")
ARCHITECTURE = ModelConfig(preset="base-0.18b").resolve(65_536)


def make_checkpoint() -> Checkpoint:
    """Of the shapes of base-0.18b under Muon: one average a matrix, two for the rest; the numbers do not matter."""
    with torch.device("meta"):
        model = Transformer(ARCHITECTURE, seed=None)
    roles, shapes = model.parameter_roles(), {n: p.shape for n, p in model.named_parameters()}
    weights = {name: torch.full(shape, 0.1) for name, shape in shapes.items()}
    optimizer = {}
    for name, shape in shapes.items():
        keys = ("exp_avg",) if roles[name] in ("matrix", "heads") else ("exp_avg", "exp_avg_sq")
        optimizer |= {f"{name}/{key}": torch.full(shape, 0.1) for key in keys}
    return Checkpoint(120, weights, optimizer, {})


def checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", "data", 2, architecture=ARCHITECTURE)


def plain(folder: Path) -> dict[str, float]:
    made = make_checkpoint()
    before, started = reset(), time.perf_counter()
    for name, tensors in (("weights", made.weights), ("optimizer", made.optimizer)):
        artifact.atomic_write(folder / name, save(tensors))
        artifact.hash_file(folder / name)
    return {"seconds": time.perf_counter() - started, "memory": peak_memory() - before}


def saved(folder: Path) -> dict[str, float]:
    made = make_checkpoint()
    before, started = reset(), time.perf_counter()
    checkpoints(folder).save(made)
    return {"seconds": time.perf_counter() - started, "memory": peak_memory() - before, "bytes": made.size}


def loaded(folder: Path) -> dict[str, float]:
    made = make_checkpoint()
    checkpoints(folder).save(made)
    before, started = reset(), time.perf_counter()
    found = checkpoints(folder).latest()
    verified = time.perf_counter() - started
    own = own_memory()
    for ours, theirs in ((made.weights, found.weights), (made.optimizer, found.optimizer)):
        for name, tensor in ours.items():
            tensor.copy_(theirs[name])
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "seconds_to_verify": verified,
        "own_memory": own_memory() - own,  # without the pages of the file, which the system takes back when it likes
        "memory_with_pages_of_the_file": peak_memory() - before,
    }


def beside(folder: Path) -> dict[str, float]:
    """A loop of products stands for the training: as many as fit into the time that the write takes."""
    made = make_checkpoint()
    square = torch.randn(1024, 1024)

    def steps(until) -> float:
        """Products a second until ``until`` says so."""
        started, count = time.perf_counter(), 0
        while not until(time.perf_counter() - started):
            square @ square
            count += 1
        return count / (time.perf_counter() - started)

    alone = steps(lambda seconds: seconds > 5)
    saver = Saver(checkpoints(folder), Reporter())
    before, figures = reset(), {}
    for name, step in (("first", 120), ("next", 240)):  # the next one uses the memory of the first again
        started = time.perf_counter()
        saver.save(replace(made, step=step))
        blocked = time.perf_counter() - started
        busy = steps(lambda _: saver._pending.done())
        seconds = time.perf_counter() - started
        saver.wait()
        figures[name] = {
            "blocked_seconds": blocked,
            "seconds_until_on_disk": seconds,
            "speed_meanwhile": busy / alone,
            "lost_seconds": blocked + (seconds - blocked) * (1 - busy / alone),
        }
        os.sync()
    saver.close()
    return {**figures, "memory": peak_memory() - before}


def reset() -> int:
    """Begins a new peak; returns the bytes in use now."""
    reset_peak_memory()
    return peak_memory()


def own_memory() -> int:
    """Bytes of this process that no file holds."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) << 10


def main() -> None:
    if len(sys.argv) > 1:
        case = {"plain": plain, "save": saved, "load": loaded, "beside": beside}[sys.argv[1]]
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(case(Path(folder))))
        return
    figures = {}
    for case in CASES:
        done = subprocess.run([sys.executable, __file__, case], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        figures[case] = json.loads(done.stdout)
        os.sync()  # what one case left to be written is not the next one's
    store("checkpoint", figures)


if __name__ == "__main__":
    main()
