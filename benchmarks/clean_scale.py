"""Does the cleaning stage stay linear, and small, on 20 GB? Makes crawls of several sizes, cleans them, watches memory.

    python benchmarks/clean_scale.py FOLDER [GB …, 2 20] [keep]

``crawl.py`` says what they are made of. FOLDER must not be there yet, needs 3 times the largest size in free disk, and
is deleted in the end but for ``keep``.

The stage runs as a user runs it, ``congling clean RECIPE``, with two workers and everything on. Memory is that of the
whole tree of processes, sampled twice a second: anonymous and shared pages, shared ones in proportion (PSS), without
pages of files, which are page cache.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from clean_speed import LEXICON, OPTIONS
from common import store
from crawl import make, save_source

WORKERS = 2
PERIOD = 0.5  # seconds between samples


def main(folder, sizes, keep):
    needed, free = 3 * max(sizes), shutil.disk_usage(folder.parent).free / 1e9
    if free < needed:
        sys.exit(f"clean_scale.py: {folder} needs {needed:.0f} GB of disk, {free:.0f} are free")
    folder.mkdir()
    save_source(folder)
    (folder / "lexicon.txt").write_text("\n".join(LEXICON))
    runs = {}
    try:
        for size in (0.02, *sizes):  # the first compiles
            made = make(folder / f"{size:g}", size)
            print(f"{size:g} GB made: {made}", flush=True)
            run = made | clean(folder, f"{size:g}", keep)
            run["seconds_per_gb"] = 1e3 * run["seconds"] / run["text_mb"]
            run["json_mb_s"] = run["json_mb"] / run["seconds"]
            print(json.dumps({name: value for name, value in run.items() if name != "timeline"}), flush=True)
            runs[f"{size:g}"] = run
    finally:
        if not keep:
            shutil.rmtree(folder)
    del runs["0.02"]
    show(runs)
    smallest, largest = (runs[f"{size:g}"]["seconds_per_gb"] for size in (min(sizes), max(sizes)))
    store("clean-scale", {"runs": runs, "seconds_per_gb_ratio": largest / smallest, "workers": WORKERS})


def clean(folder, name, keep):
    """Runs ``congling clean`` on a crawl; seconds, memory, disk."""
    recipe = folder / f"{name}.toml"
    options = OPTIONS | {"input": (str(folder / name),), "workers": WORKERS, "lexicon": str(folder / "lexicon.txt")}
    lines = ["[run]", f'name = "{name}-run"', f'dir = "{folder}"', "seed = 1", "[clean]"]
    recipe.write_text("\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in options.items())]))
    input_bytes = folder_bytes(folder / name)
    os.sync()  # what was written to make the crawl must not be written during the run
    start = time.perf_counter()
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "congling", "clean", recipe], stdout=log, stderr=log)
        peaks = watch(process, folder / f"{name}-run")
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"congling clean ended with {process.returncode}:\n{(folder / f'{name}.log').read_text()[-2000:]}")
    (manifest,) = (folder / f"{name}-run").rglob("clean/manifest.json")
    summary = json.loads(manifest.read_bytes())["summary"]
    found = {
        "input_file_mb": input_bytes / 1e6,
        "seconds": seconds,
        "stage_seconds": summary["seconds"],
        "documents_in": summary["documents_in"],
        "documents_out": summary["documents_out"],
        "reasons": {reason: count["documents"] for reason, count in summary["reasons"].items()},
        "disk_left_mb": folder_bytes(manifest.parent) / 1e6,
        **peaks,
    }
    if not keep:
        shutil.rmtree(folder / name)
        shutil.rmtree(folder / f"{name}-run")
    return found


def watch(process, stage):
    """Waits for the process; peaks of its tree's memory, of one process under it, of the disk it uses (MB).

    ``timeline``: up to 40 times (seconds since the start; memory of all, of the first process, of one under it).
    """
    peaks = dict.fromkeys(("memory_mb", "with_files_mb", "root_mb", "worker_mb", "worker_rss_mb", "disk_mb"), 0.0)
    ticks, timeline, start = 0, [], time.perf_counter()
    while process.poll() is None:
        root, *others = [memory(pid) for pid in tree(process.pid)]
        now = {
            "memory_mb": sum(m["own"] for m in (root, *others)),
            "with_files_mb": sum(m["Pss"] for m in (root, *others)),
            "root_mb": root["own"],
            "worker_mb": max((m["own"] for m in others), default=0),
            "worker_rss_mb": max((m["Rss"] for m in others), default=0),
            "disk_mb": folder_bytes(stage) / 1e6 if ticks % 4 == 0 else 0,
        }
        peaks = {name: max(peak, now[name]) for name, peak in peaks.items()}
        timeline.append([time.perf_counter() - start, now["memory_mb"], now["root_mb"], now["worker_mb"]])
        ticks += 1
        time.sleep(PERIOD)
    bins = [timeline[i : i + len(timeline) // 40 + 1] for i in range(0, len(timeline), len(timeline) // 40 + 1)]
    return peaks | {"timeline": [[round(max(column)) for column in zip(*rows, strict=True)] for rows in bins]}


def tree(pid):
    """Ids of a process and of all under it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:  # ended in between
                continue
    return found


def memory(pid):
    """MB of a process: "Rss", "Pss", and "own", the part of Pss that is no page of a file."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        lines = []
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}
    own = found.get("Pss_Anon", 0) + found.get("Pss_Shmem", 0)
    return {"Rss": found.get("Rss", 0), "Pss": found.get("Pss", 0), "own": own}


def folder_bytes(folder):
    """Bytes on disk under a folder whose files may come and go."""
    total, folders = 0, [folder]
    while folders:
        try:
            for entry in os.scandir(folders.pop()):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def show(runs):
    columns = (
        "text_mb",
        "seconds",
        "seconds_per_gb",
        "json_mb_s",
        "memory_mb",
        "worker_mb",
        "worker_rss_mb",
        "disk_mb",
    )
    print(f"\n{'GB':>6}" + "".join(f"{name:>16}" for name in columns))
    for name, run in runs.items():
        print(f"{name:>6}" + "".join(f"{run[column]:16.1f}" for column in columns))


if __name__ == "__main__":
    words = [word for word in sys.argv[2:] if word != "keep"]
    main(Path(sys.argv[1]).absolute(), tuple(map(float, words)) or (2.0, 20.0), "keep" in sys.argv[2:])
