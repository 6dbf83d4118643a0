"""``congling clean explain ID``: what happened to a document, step by step, and why.

The document is read again from its source and goes through the same functions with the same knowledge (limits,
boilerplate, evaluation sets, classifier) that the stage left in ``evidence/``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from congling import artifact
from congling.clean.config import CleanConfig
from congling.clean.judges import Judges
from congling.clean.normalise import CHANGES, normalise
from congling.clean.parts import ReadTask, read_units
from congling.clean.privacy import KINDS, mask
from congling.clean.rules import RULES, format_number, measures
from congling.clean.run import EVIDENCE
from congling.clean.statistics import measure
from congling.corpus.shards import shard_files
from congling.corpus.streams import split_file

_SHOWN = 300  # characters of a text


def explain(folder: Path, id: int) -> list[tuple[str, str]]:
    """(step, what happened) of document ``id`` of the finished clean stage in ``folder``.

    Raises ValueError when there is no such document, or the stage is not finished.
    """
    manifest = artifact.read_manifest(folder, "clean")
    found = find_document(folder, id)
    if found is None:
        raise ValueError(f"{folder}: no document {id}; ids are 0 to {manifest['summary']['documents_in'] - 1}")
    file, row, document = found
    config = CleanConfig.model_validate_json(json.dumps(manifest["config"]["clean"]))
    report = json.loads((folder / EVIDENCE / "report.json").read_bytes())
    steps = [*_from_source(folder / EVIDENCE, report["files"], config, id, document)]
    if document.get("reason"):
        steps.append(("verdict", f"dropped, {document['reason']}: {document['detail']} ({file.name}, row {row})"))
    else:
        steps.append(("verdict", f"stays ({file.name}, row {row}): {_excerpt(document['text'])}"))
    for kept, size in report["groups"]:
        if kept == id:
            steps.append(("duplicates", f"stands for {size} others"))
    return steps


def find_document(folder: Path, id: int) -> tuple[Path, int, dict[str, Any]] | None:
    """(file, row, columns) of a document among the corpus and the rejects; None when it is in neither."""
    for file in (*shard_files(folder, "corpus"), *shard_files(folder, "rejects")):
        with pq.ParquetFile(file) as parquet:
            rows = np.flatnonzero(parquet.read(["id"])["id"].to_numpy() == id)
            if len(rows):
                return file, int(rows[0]), _row(parquet, int(rows[0]))
    return None


def _row(parquet: Any, row: int) -> dict[str, Any]:
    for group in range(parquet.num_row_groups):
        size = parquet.metadata.row_group(group).num_rows
        if row < size:
            columns: dict[str, Any] = parquet.read_row_group(group).slice(row, 1).to_pylist()[0]
            return columns
        row -= size
    raise ValueError("row beyond the end")


def _from_source(
    evidence: Path, files: dict[str, int], config: CleanConfig, id: int, document: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    place, names = id, iter(files)
    while place >= files[name := next(names)]:
        place -= files[name]
    yield "source", f"{name}, record {place + 1} (bad ones counted behind their batch), source {document['source']!r}"
    source = Path(name)
    if not source.exists():
        yield "read", "the source file is no longer there: only the verdict is known"
        return
    raw = _read_again(source, config, place)
    if raw is None:
        yield "read", "could not be read as text"
        return
    yield "read", f"{len(raw.encode('utf-8', 'replace')):,} bytes: {_excerpt(raw)}"
    yield from _through_the_steps(evidence, config, raw)


def _read_again(source: Path, config: CleanConfig, place: int) -> str | None:
    """The text of record ``place`` of a file; None when the reader rejected it."""
    for span in split_file(source, encoding=config.encoding):
        for batch, rejects in read_units(ReadTask(0, source, span, Path(), config)):
            if place < len(batch):
                text: str = batch["text"][place].as_py()
                return text
            if place < len(batch) + len(rejects):
                return None
            place -= len(batch) + len(rejects)
    return None


def _through_the_steps(evidence: Path, config: CleanConfig, raw: str) -> Iterator[tuple[str, str]]:
    judges = Judges.load(evidence, config)
    normal = normalise(pa.array([raw], pa.large_string()), config)
    changes = [name for bit, name in enumerate(CHANGES) if normal.changes[0] >> bit & 1]
    text = normal.text[0].as_py()
    yield "normalised", f"{', '.join(changes) or 'nothing to change'}; {len(text.encode()):,} bytes: {_excerpt(text)}"
    values = measures(normal, measure(normal.text))[0]
    for number, rule in enumerate(RULES):
        low, high = judges.limits[number]
        broken = "" if low <= values[number] <= high else "  ← broken"
        bounds = f"{format_number(low) if low > -np.inf else '–'} … {format_number(high) if high < np.inf else '–'}"
        yield "measured", f"{rule.what} {format_number(values[number])} ({bounds}){broken}"
    masked, counts = mask(normal.text, config.mask)
    finds = ", ".join(f"{kind} {n}" for kind, n in zip(KINDS, counts[0].tolist(), strict=True) if n)
    yield "masked", finds or "nothing found"
    verdict = judges.judge(masked)
    if judges.boilerplate is not None:
        yield "boilerplate", judges.boilerplate.describe(masked) or "none found"
    if judges.evals is not None:
        item = verdict.item[0]
        yield "evaluation sets", judges.evals.names[item] if item >= 0 else "no overlap"
    if verdict.score is not None and judges.classifier is not None:
        yield "quality", f"{verdict.score[0]:.3f} (least {judges.classifier.least:.3f})"


def _excerpt(text: str) -> str:
    shown = text[:_SHOWN].replace("\n", "⏎")
    return f"“{shown}{'…' if len(text) > _SHOWN else ''}”"
