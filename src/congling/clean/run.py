"""The cleaning stage: raw files in, a corpus and the rejected documents with their reasons out.

Pass 1 cleans each file by itself (``parts``), pass 2 finds duplicates among all (``duplicates``), pass 3 writes the
shards in the order of files and documents. A killed run goes on from the parts that are whole.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from congling.artifact import Stage
from congling.clean.config import CleanConfig
from congling.clean.duplicates import Duplicates, find_duplicates
from congling.clean.normalise import CHANGES
from congling.clean.parts import REJECTS, FileTask, clean_file, part_counts, part_path, read_fingerprints, read_part
from congling.clean.rules import DUPLICATE, NEAR_DUPLICATE, REASONS
from congling.corpus.documents import make_batch
from congling.corpus.executor import map_tasks
from congling.corpus.readers import find_files
from congling.corpus.shards import ShardWriter
from congling.reporter import Reporter

_EXAMPLES = 3  # rejects shown a reason, of _SHOWN characters
_SHOWN = 120


def run(stage: Stage, reporter: Reporter, config: CleanConfig) -> dict[str, Any]:
    """Writes ``corpus-*.parquet`` and ``rejects-*.parquet``; returns the counts. Raises ValueError when nothing stays.

    Bytes add up: ``bytes_normalised`` (all documents, normalised) is ``bytes_out`` plus the bytes of all ``reasons``.
    """
    parts = _clean_files(input_files(stage, config), stage.path / "parts", reporter, config)
    duplicates = find_duplicates(read_fingerprints(parts), config.jaccard, reporter)
    summary = _summary_of_parts(parts)
    _write_shards(stage.path, parts, duplicates, reporter, config, summary)
    if summary["documents_out"] == 0:
        raise ValueError(_nothing_left(summary))
    shutil.rmtree(stage.path / "parts")
    return summary


def input_files(stage: Stage, config: CleanConfig) -> list[Path]:
    """The raw files, sorted: those that ``congling fetch`` brought, or those of ``clean.input``."""
    if "fetch" in stage.inputs:
        return find_files([stage.inputs["fetch"] / "corpus"])
    if not config.input:
        raise ValueError("clean.input is empty: give files, folders or globs of raw text")
    return find_files(config.input)


def _clean_files(files: Sequence[Path], folder: Path, reporter: Reporter, config: CleanConfig) -> list[Path]:
    """Pass 1; returns the parts in the order of the files."""
    tasks = [FileTask(file, part_path(folder, number), config) for number, file in enumerate(files)]
    todo = [task for task in tasks if not task.part.exists()]
    sizes = {task.source: task.source.stat().st_size for task in tasks}
    done = sum(sizes.values()) - sum(sizes[task.source] for task in todo)
    workers = min(config.workers or os.cpu_count() or 1, max(1, len(todo)))
    with reporter.progress("files", sum(sizes.values()), "B", done) as bar:
        for size in map_tasks(clean_file, todo, workers):
            bar.advance(size)
    return [task.part for task in tasks]


def _summary_of_parts(parts: Sequence[Path]) -> dict[str, Any]:
    counts = [part_counts(part) for part in parts]
    changes = np.sum([c["changes"] for c in counts], axis=0)
    return {
        "files": len(parts),
        "documents_in": sum(c["documents"] for c in counts),
        "bytes_in": sum(c["bytes"] for c in counts),
        "bytes_normalised": sum(c["bytes_normalised"] for c in counts),
        "normalised": dict(zip(CHANGES, changes.tolist(), strict=True)),
    }


def _write_shards(
    folder: Path,
    parts: Sequence[Path],
    duplicates: Duplicates,
    reporter: Reporter,
    config: CleanConfig,
    summary: dict[str, Any],
) -> None:
    """Pass 3; adds what stays, and what does not, to the summary."""
    for stale in (*folder.glob("corpus-*.parquet"), *folder.glob("rejects-*.parquet")):
        stale.unlink()  # of a run that was killed here
    reasons = {reason: {"documents": 0, "bytes": 0} for reason in REASONS}
    examples: dict[str, list[dict[str, str]]] = {}
    shard_bytes, characters, size = config.shard_mb << 20, 0, 0
    with (
        ShardWriter(folder, "corpus", shard_bytes) as corpus,
        ShardWriter(folder, "rejects", shard_bytes, REJECTS) as rejects,
        reporter.progress("corpus", summary["documents_in"], "documents") as bar,
    ):
        for kept, dropped in _divided(parts, duplicates, config.jaccard):
            corpus.write(make_batch(kept["text"], kept["source"], corpus.rows))
            rejects.write(_renumbered(dropped, rejects.rows))
            _tally(dropped, reasons, examples)
            characters += pc.sum(kept["characters"]).as_py() or 0
            size += pc.sum(pc.binary_length(kept["text"])).as_py() or 0
            bar.advance(len(kept) + len(dropped))
    summary |= {"documents_out": corpus.rows, "bytes_out": size, "characters_out": characters}
    summary["reasons"] = {reason: count for reason, count in reasons.items() if count["documents"]}
    summary["examples"] = {reason: examples[reason] for reason in summary["reasons"]}


def _divided(
    parts: Sequence[Path], duplicates: Duplicates, jaccard: float
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """The batches of all parts, each as what stays and what does not (with reason and detail)."""
    stays = duplicates.kept == np.arange(len(duplicates.kept))
    ids = np.cumsum(stays) - 1  # in the corpus
    begin = 0  # of the batch among the documents that pass 1 kept
    for batch in (batch for part in parts for batch in read_part(part)):
        passed = np.asarray(pc.equal(batch["reason"], ""))
        keep = passed.copy()
        keep[passed] = stays[begin : begin + passed.sum()]
        reason, detail = batch["reason"].to_pylist(), batch["detail"].to_pylist()
        numbers = begin + np.cumsum(passed) - 1
        for i in np.flatnonzero(passed & ~keep):
            reason[i], detail[i] = _duplicate(duplicates, int(numbers[i]), ids, jaccard)
        begin += int(passed.sum())
        batch = batch.set_column(3, "reason", pa.array(reason, pa.string()))
        batch = batch.set_column(4, "detail", pa.array(detail, pa.string()))
        yield batch.filter(pa.array(keep)), batch.filter(pa.array(~keep))


def _duplicate(duplicates: Duplicates, i: int, ids: NDArray[np.int64], jaccard: float) -> tuple[str, str]:
    """(reason, detail) of a document that another stands for."""
    stays = f"document {ids[duplicates.kept[i]]}"
    if duplicates.exact[i]:
        return DUPLICATE, f"of {stays}"
    similarity = duplicates.similarity[i]
    measured = f"jaccard {similarity:.2f} with {stays}"
    return NEAR_DUPLICATE, f"{measured} >= {jaccard:g}" if similarity >= jaccard else f"{measured}, joined by others"


def _renumbered(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    ids = pa.array(np.arange(first, first + len(batch)))
    return batch.set_column(0, "id", ids).select(REJECTS.names)


def _tally(
    dropped: pa.RecordBatch, reasons: dict[str, dict[str, int]], examples: dict[str, list[dict[str, str]]]
) -> None:
    """Counts the documents and bytes of each reason, and keeps the first few as examples."""
    sizes = pc.binary_length(dropped["text"]).to_pylist()
    for i, reason in enumerate(dropped["reason"].to_pylist()):
        reasons[reason]["documents"] += 1
        reasons[reason]["bytes"] += sizes[i]
        shown = examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES:
            text, detail, source = (dropped[name][i].as_py() for name in ("text", "detail", "source"))
            shown.append({"text": text[:_SHOWN], "detail": detail, "source": source})


def _nothing_left(summary: dict[str, Any]) -> str:
    if not summary["documents_in"]:
        return f"clean: no documents in {summary['files']} input files; check clean.input"
    counts = ", ".join(f"{reason} {count['documents']}" for reason, count in summary["reasons"].items())
    return (
        f"clean: all {summary['documents_in']} documents were dropped ({counts}); "
        "loosen the limits of these rules in [clean] (rejects-*.parquet has each document and its measure)"
    )
