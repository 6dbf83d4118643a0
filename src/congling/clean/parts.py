"""Pass 1: an input file (or a span of a large one) becomes parts, ``parts/00000-000.parquet`` and its side files.

A part holds every document of its stretch of input, in order: text as normalised and masked, source, and what the
reader said of it; beside it a row of figures a document (``.rows.npy``), what the rules measured (``.measures.npy``),
histograms of that, and fingerprints. The Parquet file bears its name only when all is whole, so that a killed run goes
on behind the last part.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from congling.artifact import atomic_open, atomic_write
from congling.clean.config import CleanConfig
from congling.clean.duplicates.fingerprint import Fingerprints, fingerprint, save_fingerprints
from congling.clean.lexicon import count_words, read_words
from congling.clean.normalise import CHANGES, normalise
from congling.clean.privacy import KINDS, mask
from congling.clean.rules import FIRST_RULE, REASONS, RULES, fixed_limits, format_number, histogram, judge, measures
from congling.clean.statistics import measure
from congling.corpus.documents import make_batch
from congling.corpus.readers import read_documents
from congling.corpus.streams import Reject, Span

STAYS = -1  # in place of an index into REASONS
PART_BYTES = 64 << 20  # of text
BATCH_BYTES = 4 << 20  # of input
ROW = np.dtype([("reason", np.int16), ("changes", np.uint16), ("bytes", np.int64)])  # bytes: of the text as read
_TEXT = pa.schema([("text", pa.large_string()), ("source", pa.string()), ("detail", pa.string())])
_UNIT = tuple[pa.RecordBatch, list[Reject]]  # a batch of the reader, and what it could not read on the way


@dataclass(frozen=True)
class ReadTask:
    """A file, or a span of it, that becomes the parts ``<number>-000``, ``<number>-001`` … in ``folder``."""

    number: int
    source: Path
    span: Span
    folder: Path
    config: CleanConfig

    @property
    def bytes(self) -> int:
        """Size of the input, as it lies on disk."""
        return self.span[1] - self.span[0] if self.span else self.source.stat().st_size


@dataclass
class Clock:
    """Processor seconds of this thread by step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.thread_time()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.thread_time() - start


def read_file(task: ReadTask) -> int:
    """Writes the parts of a task that are not there yet; returns the size of its input in bytes."""
    done = [part_counts(part) for part in part_files(task.folder, f"{task.number:05d}-*")]
    if done and done[-1]["last"]:
        return task.bytes
    number, clock = len(done), Clock()
    writer: _PartWriter | None = None
    units = _timed(read_units(task), clock)
    skip = sum(counts["units"] for counts in done)
    for _ in range(skip):
        next(units)
    try:
        for batch, rejects in units:
            writer = writer or _PartWriter(task, number, clock)
            writer.add(batch, rejects)
            if writer.text_bytes >= PART_BYTES:
                writer.close(last=False)
                writer, number, clock.seconds = None, number + 1, {}
        writer = writer or _PartWriter(task, number, clock)
        writer.close(last=True)
        writer = None
    finally:
        if writer is not None:
            writer.discard()
    return task.bytes


def part_files(folder: Path, stem: str = "*") -> list[Path]:
    """The parts in the order of the input: by the numbers in their names, however many digits these have."""
    return sorted(folder.glob(f"{stem}.parquet"), key=lambda part: tuple(map(int, part.stem.split("-"))))


def part_counts(part: Path) -> dict[str, Any]:
    """What a part says of itself: rows, units, last, bytes, changes, masked (lists), seconds (by step)."""
    counts: dict[str, Any] = json.loads(part.with_suffix(".json").read_bytes())
    return counts


def part_file(part: Path, name: str) -> Path:
    """A side file: "rows.npy", "measures.npy", "histograms.npy"."""
    return part.with_name(f"{part.stem}.{name}")


def _timed(units: Iterator[_UNIT], clock: Clock) -> Iterator[_UNIT]:
    while True:
        with clock("read"):
            unit = next(units, None)
        if unit is None:
            return
        yield unit


def read_units(task: ReadTask) -> Iterator[_UNIT]:
    config, unreadable = task.config, list[Reject]()
    on_reject = unreadable.append if config.on_error == "skip" else None
    options: dict[str, Any] = {
        "text_key": config.text_key,
        "encoding": config.encoding,
        "span": task.span,
        "batch_bytes": BATCH_BYTES,
    }
    for batch in read_documents(task.source, on_reject=on_reject, **options):
        yield batch, [*unreadable]
        unreadable.clear()
    if unreadable:
        yield make_batch([], ""), unreadable


class _PartWriter:
    """Cleans and collects batches until the part is full."""

    def __init__(self, task: ReadTask, number: int, clock: Clock) -> None:
        self._task, self._clock = task, clock
        self._path = task.folder / f"{task.number:05d}-{number:03d}.parquet"
        self._limits = fixed_limits(task.config)
        self._words = read_words(task.config.lexicon) if task.config.lexicon else ()
        self._open = ExitStack()
        file = self._open.enter_context(atomic_open(self._path))
        settings: dict[str, Any] = {"compression": "lz4", "use_dictionary": ["source"], "write_statistics": False}
        self._parquet = self._open.enter_context(pq.ParquetWriter(file, _TEXT, **settings))
        self._rows: list[NDArray[Any]] = [np.empty(0, ROW)]
        self._measures = [np.empty((0, len(RULES)), np.float32)]
        self._prints: list[Fingerprints] = []
        self._masked = np.zeros(len(KINDS), np.int64)
        self._histograms: NDArray[np.int64] | None = None  # [2, R, BINS]: of all, of those within the fixed limits
        self.text_bytes = self._units = 0

    def add(self, batch: pa.RecordBatch, rejects: list[Reject]) -> None:
        """Cleans a batch of the reader and adds it; then the records that the reader could not read."""
        self._units += 1
        if len(batch):
            self._add_read(batch)
        if rejects:
            reasons = np.array([REASONS.index(r.reason) for r in rejects], np.int16)
            text = pa.array([r.text for r in rejects], pa.large_string())
            source, detail = [f"{r.file.name}:{r.line}" for r in rejects], [r.detail for r in rejects]
            values = np.zeros((len(rejects), len(RULES)), np.float32)
            self._append(text, text, pa.array(source), detail, reasons, np.zeros(len(rejects), np.uint16), values)

    def _add_read(self, batch: pa.RecordBatch) -> None:
        config, clock = self._task.config, self._clock
        with clock("normalise"):
            normal = normalise(batch["text"], config)
        with clock("measure"):
            values = measures(normal, measure(normal.text))
            broken = judge(values, self._limits)
        with clock("mask"):
            text, masked = mask(normal.text, config.mask)
        self._masked += masked.sum(0)
        self._count(values, broken == STAYS)
        reasons = np.where(broken == STAYS, STAYS, broken + FIRST_RULE).astype(np.int16)
        # What was garbled is seen in the text as it was read.
        garbled = np.isin(reasons, [REASONS.index("garbled"), REASONS.index("mojibake")])
        if garbled.any():
            text = pc.if_else(pa.array(garbled), batch["text"], text)
        detail = self._find_words(text, reasons) if self._words else None
        self._append(batch["text"], text, batch["source"], detail, reasons, normal.changes, values)

    def _find_words(self, text: pa.Array, reasons: NDArray[np.int16]) -> list[str]:
        """Gives the documents with too many words of the lexicon their reason; returns the details of all."""
        counts, first = count_words(text, self._words)
        rate, most = 1000 * counts / np.maximum(pc.utf8_length(text).to_numpy(), 1), self._task.config.max_lexicon
        detail = [""] * len(text)
        for i in np.flatnonzero((rate > most) & (reasons == STAYS)).tolist():
            reasons[i] = REASONS.index("lexicon")
            rates = f"{format_number(rate[i])} > {format_number(most)} in 1,000 characters"
            detail[i] = f"lexicon words {counts[i]} ({rates}), first {self._words[first[i]]}"
        return detail

    def _count(self, values: NDArray[np.float32], passed: NDArray[np.bool_]) -> None:
        found = np.stack([histogram(values), histogram(values[passed])])
        self._histograms = found if self._histograms is None else self._histograms + found

    def _append(
        self,
        raw: pa.Array,
        text: pa.Array,
        source: pa.Array,
        detail: list[str] | None,
        reasons: NDArray[np.int16],
        changes: NDArray[np.uint16],
        values: NDArray[np.float32],
    ) -> None:
        rows = np.empty(len(text), ROW)
        rows["reason"], rows["changes"] = reasons, changes
        rows["bytes"] = pc.binary_length(raw).to_numpy()
        self._rows.append(rows)
        self._measures.append(values)
        with self._clock("fingerprint"):
            self._prints.append(
                _spread(fingerprint(_where(text, reasons == STAYS), self._task.config.shingle), reasons)
            )
        with self._clock("write part"):
            details = pa.array(detail, pa.string()) if detail else pa.repeat(pa.scalar("", pa.string()), len(text))
            self._parquet.write_batch(pa.record_batch([text, source, details], schema=_TEXT))
        self.text_bytes += pc.sum(pc.binary_length(text)).as_py() or 0

    def close(self, last: bool) -> None:
        """Writes the side files, then names the part."""
        rows = np.concatenate(self._rows)
        if self._histograms is None:
            self._histograms = np.stack([histogram(self._measures[0])] * 2)
        for name, array in (
            ("rows.npy", rows),
            ("measures.npy", np.concatenate(self._measures)),
            ("histograms.npy", self._histograms),
        ):
            with atomic_open(part_file(self._path, name)) as file:
                np.save(file, array)
        save_fingerprints(self._path.with_suffix(""), self._prints)
        counts = {
            "rows": len(rows),
            "units": self._units,
            "last": last,
            "bytes": int(rows["bytes"].sum()),
            "bytes_normalised": self.text_bytes,
            "changes": [int((rows["changes"] >> bit & 1).sum()) for bit in range(len(CHANGES))],
            "masked": dict(zip(KINDS, self._masked.tolist(), strict=True)),
            "seconds": self._clock.seconds,
        }
        atomic_write(self._path.with_suffix(".json"), json.dumps(counts).encode())
        self._open.close()

    def discard(self) -> None:
        """Leaves nothing behind of a part that was not finished."""
        self._open.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


def _where(text: pa.Array, chosen: NDArray[np.bool_]) -> pa.Array:
    return text if chosen.all() else text.filter(pa.array(chosen))


def _spread(prints: Fingerprints, reasons: NDArray[np.int16]) -> Fingerprints:
    """Fingerprints of a whole batch: zeros for the documents that do not stay."""
    stays = reasons == STAYS
    return prints if stays.all() else prints.spread(stays)
