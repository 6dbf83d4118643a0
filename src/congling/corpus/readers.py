"""Reads raw files of documents: JSON arrays, JSON lines, Parquet and plain text, also compressed, in bounded memory."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from congling.corpus.documents import from_buffers, make_batch
from congling.corpus.json_records import either, json_items, line_items, parse, read_rows
from congling.corpus.json_stream import FAULTS, TOO_LONG
from congling.corpus.streams import (
    COMPRESSED,
    DamagedFile,
    Faults,
    LongLine,
    ReadError,
    Reject,
    Span,
    line_blocks,
    read_blocks,
)

FORMATS = (".json", ".jsonl", ".ndjson", ".parquet", ".txt")
TEXT_KEYS = ("text", "content")


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """The input files that ``paths`` name, sorted, each once.

    A path is a file, a folder (searched to any depth for files of a known kind; hidden ones are left out) or a glob.
    Raises ReadError for a path that does not exist, matches nothing, holds nothing or may not be read.
    """
    found: set[Path] = set()
    for path in paths:
        found.update(_expand(path))
    for file in found:
        if not str(file).isprintable() and "\ufffd" in os.fsencode(file).decode("utf-8", "replace"):
            raise ReadError(f"{str(file)!a}: the name is not UTF-8 (was it unpacked as GBK?); rename the file")
        if not os.access(file, os.R_OK):
            raise ReadError(f"{file}: no permission to read it")
    return sorted(found)


def read_documents(
    path: str | Path,
    *,
    text_key: Sequence[str] = TEXT_KEYS,
    encoding: str = "utf-8",
    batch_bytes: int = 4 << 20,
    on_reject: Callable[[Reject], None] | None = None,
    span: Span = None,
) -> Iterator[pa.RecordBatch]:
    """The documents of one file as batches of SCHEMA with about ``batch_bytes`` of input each.

    The file's name tells its form: ``.json`` (one array of objects, or an object a line), ``.jsonl`` ``.ndjson`` (an
    object a line), ``.parquet``, ``.txt`` (a document a line, empty lines aside), all but Parquet also ``.gz``
    ``.zst`` ``.xz``. A document's text is the first of ``text_key`` that the object has; its source is the object's
    ``source`` where that is a string, else the file's name; its id is its place in the file, from 0, bad records
    counted. ``span``: only these bytes of a file of lines (``split_file``); ids count from its beginning.
    A bad record, or the damaged rest of a file, raises ReadError with file and line, or goes to ``on_reject`` where one
    is given.
    """
    path = Path(path)
    faults = Faults(path, on_reject, span[0] if span else 0)
    form = _form(path)
    if form == ".parquet":
        yield from faults.until_damage(_read_parquet(path, text_key, batch_bytes, faults))
        return
    blocks = read_blocks(path, encoding, span)
    if form == ".txt":
        yield from _read_lines(_gather(faults.until_damage(line_blocks(blocks)), batch_bytes), faults)
    else:
        items, unit = json_items(path, blocks, faults) if form == ".json" else (line_items(blocks, faults), "line")
        yield from read_rows(items, unit, text_key, batch_bytes, faults)


def read_objects(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON or JSON-lines file, or the rows of a Parquet file. Raises ReadError."""
    path = Path(path)
    form = _form(path)
    if form == ".parquet":
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(1024):
                yield from batch.to_pylist()
        return
    blocks, faults = read_blocks(path), Faults(path)
    groups, unit = json_items(path, blocks, faults) if form == ".json" else (line_items(blocks, faults), "line")
    for id, item in enumerate(item for group in groups for item in group.items()):
        row = parse(item, id, unit, faults)
        assert row is not None  # a broken one has raised
        yield row


# -- files ---------------------------------------------------------------------------------------------------------


def _expand(path: str | Path) -> list[Path]:
    start = Path(path)
    if start.is_dir():
        found = list(_walk(start))
        if not found:
            raise ReadError(f"{path}: no input files in this folder; known are {', '.join(FORMATS)} (.gz .zst .xz)")
        return found
    if start.exists():
        _form(start)
        return [start]
    if not glob.has_magic(str(path)):
        raise ReadError(f"{path}: no such file or folder")
    matches = [Path(m) for m in glob.glob(str(path), recursive=True)]
    found = [m for m in matches if m.is_file() and is_known(m)]
    if not found:
        raise ReadError(f"{path}: matches {'no input files' if matches else 'nothing'}")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise ReadError(f"{error.filename}: cannot list this folder ({error.strerror})")

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(parent, name)
            if not name.startswith(".") and is_known(file):
                yield file


def is_known(path: Path) -> bool:
    """Whether the name of the file is that of a form that ``read_documents`` reads."""
    suffixes = [s.lower() for s in path.suffixes[-2:]]
    return suffixes[-1:] == [".parquet"] or (
        bool(suffixes) and suffixes[-2 if suffixes[-1] in COMPRESSED and len(suffixes) > 1 else -1] in FORMATS
    )


def _form(path: Path) -> str:
    if not is_known(path):
        raise ReadError(f"{path}: not a known kind of file; known are {', '.join(FORMATS)} (.gz .zst .xz)")
    compressed = path.suffix.lower() in COMPRESSED
    return Path(path.stem if compressed else path.name).suffix.lower()


def _gather(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Joins blocks until they have ``size`` bytes."""
    waiting: list[bytes] = []
    total = 0
    for block in blocks:
        if isinstance(block, LongLine):
            yield b"".join(waiting)
            yield block
            waiting, total = [], 0
            continue
        waiting.append(block)
        total += len(block)
        if total >= size:
            yield b"".join(waiting)
            waiting, total = [], 0
    if waiting:
        yield b"".join(waiting)


# -- plain text ----------------------------------------------------------------------------------------------------


def _read_lines(blocks: Iterable[bytes], faults: Faults) -> Iterator[pa.RecordBatch]:
    line, id = 1, 0
    for block in blocks:
        if isinstance(block, LongLine):
            faults.report(line, id, block, "too_large", FAULTS[TOO_LONG])
            line, id = line + 1, id + 1
            continue
        lines = block.count(b"\n")
        text = np.empty(len(block), np.uint8)
        offsets = np.zeros(lines + 2, np.int64)
        count = _split_lines(np.frombuffer(block, np.uint8), text, offsets)
        array = from_buffers(text[: offsets[count]], offsets[: count + 1])
        if _is_utf8(array):
            yield make_batch(array, faults.path.name, id)
        else:
            yield _mend_lines(block, line, id, faults)
        line, id = line + lines, id + count


@njit(nogil=True, cache=True)
def _split_lines(data: NDArray[np.uint8], text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> int:
    """Copies the lines of ``data`` that are not empty to ``text``, without line breaks; returns their number."""
    count = filled = start = 0
    for at in range(len(data) + 1):
        if at < len(data) and data[at] != 0x0A:
            text[filled] = data[at]
            filled += 1
            continue
        if filled > start and text[filled - 1] == 0x0D:
            filled -= 1
        if filled > start:
            count += 1
            offsets[count] = start = filled
    return count


def _mend_lines(block: bytes, first_line: int, id: int, faults: Faults) -> pa.RecordBatch:
    """The good lines of a block that is not UTF-8 throughout; the others are reported."""
    texts, ids = [], []
    for line, raw in enumerate(block.split(b"\n"), first_line):
        raw = raw.removesuffix(b"\r")
        if not raw:
            continue
        try:
            texts.append(raw.decode())
            ids.append(id)
        except UnicodeDecodeError as error:
            faults.report(line, id, raw, "bad_encoding", f"not UTF-8 at byte {error.start} of the line")
        id += 1
    return make_batch(texts, faults.path.name, ids)


def _is_utf8(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


# -- Parquet -------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, keys: Sequence[str], batch_bytes: int, faults: Faults) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20) as parquet:
            schema, meta = parquet.schema_arrow, parquet.metadata
            key = next((k for k in keys if k in schema.names), None)
            if key is None:
                raise ReadError(f"{path}: no column {either(keys)} (it has {', '.join(schema.names)}); give text_key=…")
            columns = [key, "source"] if "source" in schema.names and key != "source" else [key]
            size = sum(meta.row_group(g).total_byte_size for g in range(meta.num_row_groups))
            rows = max(1, meta.num_rows * batch_bytes // max(size, 1))
            id = 0
            for batch in parquet.iter_batches(min(rows, 1 << 16), columns=columns):
                yield _parquet_batch(batch, key, id, faults)
                id += len(batch)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(f"{path}: damaged or cut off ({str(error).splitlines()[0]}); fetch it again") from None


def _parquet_batch(batch: pa.RecordBatch, key: str, id: int, faults: Faults) -> pa.RecordBatch:
    text = batch[key]
    if not _is_text(text.type):
        raise ReadError(f"{faults.path}: column {key!r} is {text.type}, not text; give text_key=…")
    text = text.cast(pa.large_string())
    source: str | pa.Array = faults.path.name
    if "source" in batch.schema.names and _is_text(batch["source"].type):
        source = batch["source"].cast(pa.string()).fill_null(faults.path.name)
    if not text.null_count and _is_utf8(text):
        return make_batch(text, source, id)
    good = [i for i, raw in enumerate(text.cast(pa.large_binary()).to_pylist()) if _check_row(raw, id + i, faults)]
    rows = pa.array(good, pa.int64())
    return make_batch(text.take(rows), source if isinstance(source, str) else source.take(rows), [id + i for i in good])


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _check_row(raw: bytes | None, id: int, faults: Faults) -> bool:
    if raw is None:
        faults.report(id + 1, id, b"", "no_text", "the text is null", "row")
        return False
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        faults.report(id + 1, id, raw, "bad_encoding", f"not UTF-8 at byte {error.start} of the row", "row")
        return False
    return True
