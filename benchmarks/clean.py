"""Cleaning speed in MB of text a second and core, and what the rules measure on real text.

    python benchmarks/clean.py [folder]        (default: ../shared/data beside the repository)

Prints the kernels one by one on one core, the whole of pass 1 (reading, kernels, writing the part) for each file, the
stage with one and two workers, and quantiles of each measure: the defaults of ``[clean]`` were chosen from them.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from congling import artifact
from congling.clean.config import CleanConfig
from congling.clean.minhash import fingerprint
from congling.clean.normalise import normalise
from congling.clean.parts import FileTask, clean_file, part_counts
from congling.clean.rules import RULES
from congling.clean.run import run
from congling.clean.statistics import measure
from congling.corpus.readers import find_files, read_documents
from congling.reporter import Reporter

QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)


def main(folder):
    if not folder.is_dir():
        print(f"benchmarks/clean.py: skipped, {folder} is not there")
        return
    names = [name for name in ("dirty", "pretrain") if (folder / name).is_dir()]
    files = find_files([folder / name for name in names] or [folder])
    normalise(pa.array(["热身"], pa.large_string()))
    kernels(files)
    with tempfile.TemporaryDirectory() as scratch:
        first_pass(files, Path(scratch))
        for workers in (1, 2):
            whole_stage(files, Path(scratch) / str(workers), workers)


def kernels(files):
    """Each kernel on all text of a file at once, best of three; and what the rules measure."""
    print(f"{'MB/s, one core':44} {'MB':>6} normalise statistics fingerprint together")
    measures = {}
    for file in files:
        text = pa.concat_arrays([b["text"] for b in read_documents(file, on_reject=lambda reject: None)])
        size = text.nbytes / 1e6
        normal, first = timed(lambda text=text: normalise(text))
        counts, second = timed(lambda text=normal.text: measure(text))
        _, third = timed(lambda text=normal.text: fingerprint(text, 5))
        rates = [size / t for t in (first, second, third, first + second + third)]
        print(f"{file.name:44.44} {size:6.1f} {rates[0]:9.0f} {rates[1]:10.0f} {rates[2]:11.0f} {rates[3]:8.0f}")
        for rule in RULES:
            measures.setdefault(rule.__name__, {})[file.name] = rule(normal, counts, CleanConfig()).values
    for rule, values in measures.items():
        print(f"\n{rule:44}" + "".join(f"{f'{100 * q:g} %':>9}" for q in QUANTILES))
        for name, measured in values.items():
            print(f"{name:44.44}" + "".join(f"{v:9.3g}" for v in np.quantile(measured, QUANTILES)))


def first_pass(files, scratch):
    print(f"\n{'pass 1, one core':44} {'MB':>6}   MB/s")
    for number, file in enumerate(files):
        part = scratch / f"{number}.parquet"
        start = time.perf_counter()
        clean_file(FileTask(file, part, CleanConfig()))
        seconds = time.perf_counter() - start
        size = part_counts(part)["bytes"] / 1e6
        print(f"{file.name:44.44} {size:6.1f} {size / seconds:6.1f}")


def whole_stage(files, out, workers):
    config = CleanConfig(input=tuple(map(str, files)), workers=workers)
    start = time.perf_counter()
    with artifact.stage(out, "clean", {"clean": config}, {}, seed=1) as (stage, summary):
        summary |= run(stage, Reporter(quiet=True), config)
    seconds = time.perf_counter() - start
    size = summary["bytes_in"] / 1e6
    print(f"\nstage, {workers} workers: {size:.0f} MB in {seconds:.1f} s, {size / seconds:.1f} MB/s")
    if workers == 1:
        shown = {k: v for k, v in summary.items() if k != "examples"}
        print(json.dumps(shown, ensure_ascii=False))


def timed(function):
    best, result = float("inf"), None
    for _ in range(3):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return result, best


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data")
