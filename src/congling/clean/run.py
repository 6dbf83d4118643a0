"""The cleaning stage: raw files in, a corpus and the rejected documents with their reasons out.

Four passes over tasks, with a look at the whole between them; each leaves files in ``work/``, so that a killed run goes
on. See docs/cleaning.md.

1. ``parts``: files are read, normalised, masked, measured, judged by fixed limits, fingerprinted.
   ``compare``: quantile limits, exact and near-duplicates.
2. ``boilerplate``: lines and adverts that repeat across the documents that stay.
3. ``finish``: those are cut, evaluation sets and low quality kept out; what stays is dealt into buckets.
   ``write.find_twins``: documents that cutting made equal.
4. ``write``: each bucket, in its random order, becomes a shard.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from congling.artifact import Stage, atomic_open, write_json
from congling.clean.compare import Parts, compare
from congling.clean.config import CleanConfig
from congling.clean.finish import FinishJob, finish_part
from congling.clean.normalise import CHANGES
from congling.clean.parts import STAYS, ReadTask, part_files, read_file
from congling.clean.prepare import prepare
from congling.clean.privacy import KINDS
from congling.clean.quality.prepare import load_decisions
from congling.clean.rules import REASONS
from congling.clean.tally import Tally
from congling.clean.write import find_twins, write_shard
from congling.corpus.executor import Pool
from congling.corpus.readers import find_files
from congling.corpus.streams import split_file
from congling.reporter import Reporter

_DONE = "summary.json"  # there from when all is written until the work is cleared away
EVIDENCE = "evidence"  # folder in the stage's: what `congling clean explain` and the report page need
_SUMMARY_EXAMPLES = 3  # rejects a reason, in the manifest
_SHOWN = 120  # characters of them
_BUCKET_MB = 64  # of text that are put in order in memory at a time
_GROUPS = 20  # of duplicates, shown in the report


def run(stage: Stage, reporter: Reporter, config: CleanConfig) -> dict[str, Any]:
    """Writes ``corpus-*.parquet`` and ``rejects-*.parquet``; returns the counts. Raises ValueError when nothing stays.

    Bytes add up: ``bytes_normalised`` (all documents, normalised) is ``bytes_out`` plus ``bytes_cut`` plus the bytes of
    all ``reasons``.
    """
    if config.labels:
        load_decisions(config)  # before hours of work depend on them
    steps = _Steps(reporter)
    work, evidence, done = stage.path / "work", stage.path / EVIDENCE, stage.path / EVIDENCE / _DONE
    if done.exists():  # killed while the work was being cleared away: half of it must not be gone on from
        summary: dict[str, Any] = json.loads(done.read_bytes())
        _clear(work, done)
        return summary
    with Pool(config.workers, config.executor) as pool:
        tasks = _read_tasks(input_files(stage, config), work / "parts", config)
        parts = _read(tasks, pool, steps)
        for file in (file for file, rows in _rows_of_files(parts, tasks).items() if not rows):
            reporter.warn(f"{file}: no documents in it")
        with steps("compare"):
            compared = compare(parts, work / "compared", config, pool, reporter)
        with steps("boilerplate"):
            prepare(parts, compared, evidence, work / "boilerplate", config, stage.seed, pool, reporter)
        shards, buckets = _shards_and_buckets(parts, compared.reason, config)
        job = FinishJob(parts, compared, config, stage.path, evidence, work / "pieces", stage.seed, shards, buckets)
        sizes = [counts["bytes_normalised"] for counts in parts.counts]
        steps.map("finish", pool, partial(finish_part, job), range(len(parts.files)), sum(sizes), "B")
        twins = find_twins(job.pieces, len(parts.files))
        steps.map("write", pool, partial(write_shard, job, twins), range(shards), shards, "shards")
    summary = _summary(job, tasks, steps)
    if summary["documents_out"] == 0:
        raise ValueError(_nothing_left(summary))
    write_json(done, summary)
    _clear(work, done)
    return summary


def _clear(work: Path, done: Path) -> None:
    """Removes what the passes left; ``done`` goes last."""
    if work.exists():
        shutil.rmtree(work)
    done.unlink()


def input_files(stage: Stage, config: CleanConfig) -> list[Path]:
    """The raw files, sorted: those that ``congling fetch`` brought, or those of ``clean.input``."""
    if "fetch" in stage.inputs:
        return find_files([stage.inputs["fetch"] / "corpus"])
    if not config.input:
        raise ValueError("clean.input is empty: give files, folders or globs of raw text")
    return find_files(config.input)


def _read_tasks(files: Sequence[Path], folder: Path, config: CleanConfig) -> list[ReadTask]:
    spans = [(file, span) for file in files for span in split_file(file, encoding=config.encoding)]
    return [ReadTask(number, file, span, folder, config) for number, (file, span) in enumerate(spans)]


def _read(tasks: Sequence[ReadTask], pool: Pool, steps: "_Steps") -> Parts:
    """Pass 1; returns the parts in the order of the input."""
    steps.map("read", pool, read_file, tasks, sum(task.bytes for task in tasks), "B")
    return Parts(tuple(part_files(tasks[0].folder)))


def _shards_and_buckets(parts: Parts, reason: Any, config: CleanConfig) -> tuple[int, int]:
    """So many that a shard has about ``shard_mb`` of text, a bucket at most _BUCKET_MB."""
    staying = [np.count_nonzero(reason[parts.slice(i)] == STAYS) for i in range(len(parts.files))]
    sizes = [c["bytes_normalised"] * n / max(c["rows"], 1) for c, n in zip(parts.counts, staying, strict=True)]
    megabytes = sum(sizes) / (1 << 20)
    shards = max(1, round(megabytes / config.shard_mb))
    return shards, shards * max(1, math.ceil(megabytes / shards / _BUCKET_MB))


class _Steps:
    """Wall time of each step, and its progress."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

    def map(
        self, name: str, pool: Pool, function: Callable[[Any], int], tasks: Sequence[Any], total: float, unit: str
    ) -> None:
        """``function`` of all tasks, under a bar that advances by what it returns."""
        with self(name), self._reporter.progress(name, total, unit) as bar:
            for size in pool.map(function, tasks):
                bar.advance(size if unit == "B" else 1)


def _summary(job: FinishJob, tasks: Sequence[ReadTask], steps: _Steps) -> dict[str, Any]:
    """The counts of all parts and shards; the rest of what is known goes to ``evidence/report.json``."""
    tally = _tally(job)
    found = tally.summary
    counts = job.parts.counts
    reasons = {r: found["reasons"][r] for r in REASONS if r in found["reasons"]}
    changes = np.sum([c["changes"] for c in counts], axis=0)
    masked = {kind: sum(c["masked"][kind] for c in counts) for kind in KINDS}
    _write_evidence(job, tasks, tally)
    return {
        "files": len({task.source for task in tasks}),
        "documents_in": sum(c["rows"] for c in counts),
        "bytes_in": sum(c["bytes"] for c in counts),
        "bytes_normalised": sum(c["bytes_normalised"] for c in counts),
        "normalised": dict(zip(CHANGES, changes.tolist(), strict=True)),
        "masked": masked,
        "documents_out": found["documents"],
        "bytes_out": found["bytes"],
        "characters_out": found["characters"],
        "documents_cut": found["cut"][0],
        "bytes_cut": found["cut"][1],
        "reasons": {reason: {"documents": n, "bytes": size} for reason, (n, size) in reasons.items()},
        "examples": {
            reason: [_short(row) for row in found["examples"][reason][:_SUMMARY_EXAMPLES]] for reason in reasons
        },
        "seconds": steps.seconds,
        "processor_seconds": found["seconds"],
    }


def _tally(job: FinishJob) -> Tally:
    tally = Tally(job.seed)
    for file in sorted(job.pieces.glob("*.json")):
        tally.add(file)
    for counts in job.parts.counts:
        tally.add_seconds(counts["seconds"])
    return tally


def _write_evidence(job: FinishJob, tasks: Sequence[ReadTask], tally: Tally) -> None:
    """Where documents came from, the shapes of the corpus before and after, samples, groups of duplicates."""
    found = tally.summary
    before = sum(job.parts.load(i, "histograms.npy")[0] for i in range(len(job.parts.files)))
    with atomic_open(job.judges / "histograms.npz") as file:
        np.savez(file, before=before, after=tally.histograms)
    report = {
        "files": _rows_of_files(job.parts, tasks),
        "examples": found["examples"],
        **_groups(np.asarray(job.compared.kept)),
        "items": found["items"],
        "scores": found["scores"],
    }
    write_json(job.judges / "report.json", report)


def _rows_of_files(parts: Parts, tasks: Sequence[ReadTask]) -> dict[str, int]:
    """Documents of each input file, in order; what could not be read counts."""
    rows = {str(task.source): 0 for task in tasks}
    sources = {task.number: str(task.source) for task in tasks}
    for part, counts in zip(parts.files, parts.counts, strict=True):
        rows[sources[int(part.stem.partition("-")[0])]] += counts["rows"]
    return rows


def _groups(kept: NDArray[np.int64]) -> dict[str, Any]:
    """Groups of duplicates: (id that stays, documents that it stands for) of the largest; (size, groups of that)."""
    dropped = kept[kept != np.arange(len(kept))]
    ids, sizes = np.unique(dropped, return_counts=True)
    largest = np.argsort(-sizes, kind="stable")[:_GROUPS]
    by_size = np.unique(sizes, return_counts=True)
    return {
        "groups": np.stack([ids[largest], sizes[largest]], axis=1).tolist(),
        "group_sizes": np.stack(by_size, axis=1).tolist(),
    }


def _short(row: dict[str, Any]) -> dict[str, str]:
    return {"text": row["text"][:_SHOWN], "detail": row["detail"], "source": row["source"]}


def _nothing_left(summary: dict[str, Any]) -> str:
    if not summary["documents_in"]:
        return f"clean: no documents in {summary['files']} input files; check clean.input"
    counts = ", ".join(f"{reason} {count['documents']}" for reason, count in summary["reasons"].items())
    return (
        f"clean: all {summary['documents_in']} documents were dropped ({counts}); "
        "loosen the limits of these rules in [clean] (rejects-*.parquet has each document and its measure)"
    )
