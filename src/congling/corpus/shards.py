"""Parquet shards of documents: ``corpus-00000.parquet``, ``corpus-00001.parquet`` …

Which rows lie in which shard and row group depends on the rows alone, not on the batches they came in, so that the
same documents give the same bytes. A shard bears its name only when it is whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from congling.artifact import atomic_open
from congling.corpus.documents import SCHEMA, text_buffers

_GROUP_BYTES = 8 << 20  # of text in a row group: what a writer or a reader holds in memory
_PLAIN = ("id", "text")  # columns whose values hardly repeat: no dictionary


class ShardWriter:
    """Writes batches into shards of about ``shard_bytes`` of text, Parquet with zstd. Use it as a context manager.

    Leaving the block because of an exception discards the shard under way. At least one shard is always written, so
    that a reader can tell "nothing was found" from "never ran". ``schema`` may have more columns than SCHEMA.
    """

    def __init__(
        self, folder: Path, prefix: str, shard_bytes: int = 256 << 20, schema: pa.Schema = SCHEMA, first_shard: int = 0
    ) -> None:
        self.folder, self.prefix, self.shard_bytes, self.schema = Path(folder), prefix, shard_bytes, schema
        self.rows = 0  # written so far
        self._files: list[Path] = []
        self._first_shard = first_shard
        self._waiting: list[pa.RecordBatch] = []  # less than a row group
        self._waiting_bytes = self._in_shard = 0  # bytes of text
        self._open: ExitStack | None = None
        self._parquet: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Adds documents; the columns must be those of ``schema`` (any order)."""
        batch = batch.select(self.schema.names).cast(self.schema)
        self.rows += len(batch)
        while len(batch):
            _, offsets = text_buffers(batch["text"])
            room = min(_GROUP_BYTES, self.shard_bytes - self._in_shard) - self._waiting_bytes
            fits = int(np.searchsorted(offsets, offsets[0] + room, "left"))  # rows up to the one that fills the group
            taken = batch.slice(0, fits)
            self._waiting.append(taken)
            self._waiting_bytes += int(offsets[min(fits, len(batch))] - offsets[0])
            if fits <= len(batch):
                self._write_group()
            batch = batch.slice(fits)

    def close(self) -> list[Path]:
        """Finishes the last shard; returns the paths of all."""
        if self._waiting or not self._files:
            self._write_group()
        self._finish_shard()
        return self._files

    def _write_group(self) -> None:
        if self._open is None:
            self._begin_shard()
        group = pa.Table.from_batches(self._waiting, self.schema).combine_chunks()
        self._parquet.write_table(group, row_group_size=max(1, len(group)))
        self._in_shard += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0
        if self._in_shard >= self.shard_bytes:
            self._finish_shard()

    def _begin_shard(self) -> None:
        self._open = ExitStack()
        path = self.folder / f"{self.prefix}-{self._first_shard + len(self._files):05d}.parquet"
        file = self._open.enter_context(atomic_open(path))
        settings: dict[str, Any] = {
            "use_dictionary": [name for name in self.schema.names if name not in _PLAIN],
            "write_statistics": [name for name in self.schema.names if name != "text"],
        }
        self._parquet = self._open.enter_context(pq.ParquetWriter(file, self.schema, compression="zstd", **settings))
        self._files.append(path)

    def _finish_shard(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open, self._in_shard = None, 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._open is not None:
            self._open.__exit__(kind, error, trace)  # removes the temporary file


def shard_files(folder: Path, prefix: str) -> list[Path]:
    """The shards in order. Raises ValueError when there are none."""
    files = sorted(Path(folder).glob(f"{prefix}-*.parquet"))
    if not files:
        raise ValueError(f"{folder}: holds no {prefix}-*.parquet; run the stage that writes it first")
    return files


def read_shards(folder: Path, prefix: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The documents of all shards in order, a row group (about 8 MB of text) a batch.

    columns: only these. Raises ValueError that names the file when a shard is damaged or lacks a column.
    """
    for file in shard_files(folder, prefix):
        yield from read_shard(file, columns)


def count_groups(file: Path) -> int:
    """Row groups of a shard; errors as of ``read_shards``."""
    with _named(file), pq.ParquetFile(file) as parquet:
        return int(parquet.num_row_groups)


def read_shard(
    file: Path, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """The documents of one shard, or of some of its row groups; see ``read_shards``."""
    with _named(file), pq.ParquetFile(file) as parquet:
        names = parquet.schema_arrow.names
        missing = [c for c in columns or () if c not in names]
        if missing:
            raise ValueError(f"{file}: has no column {missing[0]!r}; it has {', '.join(names)}")
        for group in range(parquet.num_row_groups) if groups is None else groups:
            yield from parquet.read_row_group(group, columns).to_batches()


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Turns Arrow's complaints into one line that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        first = str(error).splitlines()[0]
        raise ValueError(f"{file}: damaged ({first}); delete its folder and run the stage again") from None
