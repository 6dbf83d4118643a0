"""Pass 1: one input file becomes one part, ``parts/00000.parquet``.

A part holds every document of the file: those that stay normalised and with their fingerprint, the others with their
reason. It bears its name only when it is whole, so that a killed run goes on with the files that have none.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.config import CleanConfig
from congling.clean.minhash import PERMUTATIONS, Fingerprints, fingerprint
from congling.clean.normalise import CHANGES, normalise
from congling.clean.rules import judge
from congling.clean.statistics import measure
from congling.corpus.documents import SCHEMA
from congling.corpus.readers import read_documents
from congling.corpus.streams import Reject

REJECTS = pa.schema([*SCHEMA, ("reason", pa.string()), ("detail", pa.string())])  # reason "": the document stays
_HASHES = ("hash0", "hash1", "hash2")
_FINGERPRINT = pa.schema(
    [
        ("characters", pa.int64()),
        *((name, pa.uint64()) for name in _HASHES),
        ("signed", pa.bool_()),
        ("signature", pa.binary(PERMUTATIONS)),
    ]
)
_PART = pa.schema([*REJECTS, *_FINGERPRINT])
_META = b"congling"


@dataclass(frozen=True)
class FileTask:
    """An input file and the part it becomes."""

    source: Path
    part: Path
    config: CleanConfig


def part_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


def clean_file(task: FileTask) -> int:
    """Writes the part unless it is there; returns the size of the input file in bytes."""
    if not task.part.exists():
        counts = {"documents": 0, "bytes": 0, "bytes_normalised": 0, "changes": [0] * len(CHANGES)}
        with atomic_open(task.part) as file, pq.ParquetWriter(file, _PART, compression="lz4") as writer:
            for batch in _clean_batches(task, counts):
                writer.write_batch(batch)
            writer.add_key_value_metadata({_META: json.dumps(counts).encode()})
    return task.source.stat().st_size


def part_counts(part: Path) -> dict[str, Any]:
    """documents, bytes (of text as read), bytes_normalised, changes (documents, for each of CHANGES) of a part."""
    counts: dict[str, Any] = json.loads(pq.read_metadata(part).metadata[_META])
    return counts


def read_part(part: Path) -> Iterator[pa.RecordBatch]:
    """The documents of a part, as REJECTS and ``characters``."""
    with pq.ParquetFile(part) as parquet:
        for group in range(parquet.num_row_groups):
            yield from parquet.read_row_group(group, [*REJECTS.names, "characters"]).to_batches()


def read_fingerprints(parts: list[Path]) -> Fingerprints:
    """The fingerprints of all documents that stay in pass 1, in the order of the parts."""
    columns: list[Fingerprints] = [_read_fingerprints(part) for part in parts]
    return Fingerprints(
        np.concatenate([c.hashes for c in columns]),
        np.concatenate([c.characters for c in columns]),
        np.concatenate([c.signed for c in columns]),
        np.concatenate([c.signatures for c in columns]),
    )


def _read_fingerprints(part: Path) -> Fingerprints:
    table = pq.read_table(part, columns=["reason", *_FINGERPRINT.names], partitioning=None)
    table = table.filter(pc.equal(table["reason"], "")).combine_chunks()
    signatures = table["signature"].combine_chunks() if len(table) else pa.array([], pa.binary(PERMUTATIONS))
    flat = np.frombuffer(signatures.buffers()[1] or b"", np.uint8)
    first = signatures.offset * PERMUTATIONS
    return Fingerprints(
        np.stack([table[name].to_numpy() for name in _HASHES], axis=1),
        table["characters"].to_numpy(),
        table["signed"].to_numpy(),
        flat[first : first + len(table) * PERMUTATIONS].reshape(-1, PERMUTATIONS),
    )


def _clean_batches(task: FileTask, counts: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    config, unreadable = task.config, list[Reject]()
    on_reject = unreadable.append if config.bad_records == "reject" else None
    for batch in read_documents(task.source, text_key=config.text_key, encoding=config.encoding, on_reject=on_reject):
        yield _clean_batch(batch, config, counts)
        if unreadable:
            yield _reject_batch(unreadable, config, counts)
            unreadable.clear()
    if unreadable:
        yield _reject_batch(unreadable, config, counts)


def _clean_batch(batch: pa.RecordBatch, config: CleanConfig, counts: dict[str, Any]) -> pa.RecordBatch:
    normal = normalise(batch["text"], html=config.html, fullwidth=config.fullwidth)
    verdicts = judge(normal, measure(normal.text), config)
    reasons = pa.array([reason for reason, _ in verdicts], pa.string())
    details = pa.array([detail for _, detail in verdicts], pa.string())
    # What was garbled is seen in the text as it was read.
    text = pc.if_else(pc.equal(reasons, "garbled"), batch["text"], normal.text)
    _count(counts, batch["text"], text)
    for bit in range(len(CHANGES)):
        counts["changes"][bit] += int((normal.changes >> bit & 1).sum())
    return _part_batch([batch["id"], text, batch["source"], reasons, details], config)


def _reject_batch(unreadable: list[Reject], config: CleanConfig, counts: dict[str, Any]) -> pa.RecordBatch:
    """What the reader could not read."""
    text = pa.array([r.text for r in unreadable], pa.large_string())
    _count(counts, text, text)
    sources = pa.array([f"{r.file.name}:{r.line}" for r in unreadable])
    columns = [pa.array([getattr(r, name) for r in unreadable]) for name in ("id", "reason", "detail")]
    return _part_batch([columns[0], text, sources, columns[1], columns[2]], config)


def _part_batch(columns: list[pa.Array], config: CleanConfig) -> pa.RecordBatch:
    """The columns of REJECTS and those of _FINGERPRINT, which are zeros for dropped documents."""
    _, text, source, reasons, _ = columns
    stays = np.asarray(pc.equal(reasons, ""))
    prints = fingerprint(text.filter(pa.array(stays)), config.shingle)
    sources = source.dictionary_encode()
    of_source = np.array(
        [xxhash.xxh3_64_intdigest(name.encode()) for name in sources.dictionary.to_pylist()], np.uint64
    )
    prints.hashes[:, 2] ^= of_source[np.asarray(sources.indices)[stays]]
    values = [_spread(value, stays) for value in (prints.characters, *prints.hashes.T, prints.signed)]
    flat = pa.py_buffer(_spread(prints.signatures, stays))
    signatures = pa.FixedSizeBinaryArray.from_buffers(pa.binary(PERMUTATIONS), len(text), [None, flat])
    return pa.record_batch([*columns, *map(pa.array, values), signatures], schema=_PART)


def _spread(values: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[Any]:
    """An array as long as ``where`` with ``values`` in its true places, zeros in the others."""
    spread = np.zeros((len(where), *values.shape[1:]), values.dtype)
    spread[where] = values
    return spread


def _count(counts: dict[str, Any], raw: pa.Array, text: pa.Array) -> None:
    counts["documents"] += len(raw)
    counts["bytes"] += pc.sum(pc.binary_length(raw)).as_py() or 0
    counts["bytes_normalised"] += pc.sum(pc.binary_length(text)).as_py() or 0
