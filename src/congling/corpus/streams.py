"""Bytes of a file in blocks: decompressed, in UTF-8, without byte order mark; and what goes wrong on the way."""

import codecs
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import pyarrow as pa

BLOCK_BYTES = 256 << 10
MAX_RECORD_BYTES = 64 << 20  # of one record; more is a missing line break, or no document
SPAN_BYTES = 256 << 20
LINE_FORMATS = (".jsonl", ".ndjson", ".txt")
_SHOWN_BYTES = 64 << 10  # of a record that cannot be read
Span = tuple[int, int] | None  # first byte and end; None: the whole file
T = TypeVar("T")
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".xz": "xz"}
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class ReadError(ValueError):
    """Input that cannot be read; the message is one line for the user: file, line, what was found, what to do."""


class DamagedFile(ReadError):
    """A file that cannot be read to its end."""


class LongLine(bytes):
    """The beginning of a line of more than MAX_RECORD_BYTES, which stands for the whole line."""


class Reject(NamedTuple):
    """A record that could not be read."""

    file: Path
    line: int  # from 1; in a Parquet file, the row
    id: int  # the record's place in the file, from 0: the id it would have had
    text: str  # the record itself (its beginning, where it is huge), repaired for display
    reason: str  # damaged_file | too_large | bad_encoding | bad_json | no_text
    detail: str


@dataclass
class Faults:
    """What is done with the bad records of a file: the first raises ReadError, or ``on_reject`` takes them all.

    ``start``: the byte at which reading began; lines are counted from there, and named from the top of the file.
    """

    path: Path
    on_reject: Callable[[Reject], None] | None = None
    start: int = 0

    @cached_property
    def lines_before(self) -> int:
        """Lines above ``start``; counted only when a place must be named."""
        return sum(block.count(b"\n") for block in _span_blocks(self.path, 0, self.start)) if self.start else 0

    def report(self, line: int, id: int, raw: bytes, reason: str, detail: str, unit: str = "line") -> None:
        """Raises or hands over the record ``raw``, which begins at ``line``."""
        line += self.lines_before
        if self.on_reject is not None:
            text = raw[:_SHOWN_BYTES].decode("utf-8", "replace")
            self.on_reject(Reject(self.path, line, id, text, reason, detail))
            return
        where = f"{self.path}:{line}" + (f" (item {id + 1})" if unit == "item" else "")
        if reason == "bad_encoding":
            raise ReadError(f"{where}: {detail}; {encoding_hint(self.path, raw)}")
        raise ReadError(f"{where}: {detail}")

    def until_damage(self, blocks: Iterable[T]) -> Iterator[T]:
        """The blocks up to where the file is damaged, which is reported as a record of its own."""
        line = 1
        try:
            for block in blocks:
                yield block
                line += block.count(b"\n") if isinstance(block, bytes) else 0
        except DamagedFile as error:
            if self.on_reject is None:
                raise
            self.on_reject(Reject(self.path, line + self.lines_before, 0, "", "damaged_file", str(error)))


def split_file(path: Path, size: int = SPAN_BYTES, encoding: str = "utf-8") -> list[Span]:
    """Spans of about ``size`` bytes of a file of plain lines, so that several processes can read it; else [None].

    In UTF-16 and UTF-32 the byte of a line break is part of other characters, too: such files are not split.
    """
    if path.suffix.lower() not in LINE_FORMATS or "16" in encoding or "32" in encoding:
        return [None]
    cuts = [*range(0, path.stat().st_size, size)]
    return [*zip(cuts, [*cuts[1:], path.stat().st_size], strict=True)] if len(cuts) > 1 else [None]


def read_blocks(path: Path, encoding: str = "utf-8", span: Span = None) -> Iterator[bytes]:
    """The text of ``path`` (plain, .gz, .zst or .xz) in blocks of about BLOCK_BYTES, transcoded to UTF-8.

    Bytes that are wrong in ``encoding`` come out as invalid UTF-8, so that whoever parses the blocks finds them at
    their line. UTF-8 itself passes unchecked. ``span``: only the lines that begin in these bytes of a plain file.
    Raises DamagedFile, or ReadError for an unfit encoding.
    """
    first = span is None or span[0] == 0
    raw = _raw_blocks(path) if span is None else _span_blocks(path, *span)
    for block in _transcode(raw, path, encoding):
        if first:
            if codecs.lookup(encoding).name == "utf-8" and block.startswith(_UTF16_MARKS):
                raise ReadError(f"{path}: UTF-16 text; give encoding=utf-16, or convert it to UTF-8")
            block = block.removeprefix(codecs.BOM_UTF8)
            first = False
        if block:
            yield block


def line_blocks(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Cuts the stream anew so that every block ends with a line (the last one may lack its line break).

    A line of more than MAX_RECORD_BYTES comes as a LongLine of its own, so that memory stays bounded.
    """
    rest: list[bytes] = []
    size, lost = 0, False  # bytes of rest; within a line that is too long
    for block in blocks:
        if lost:
            end = block.find(b"\n") + 1
            if not end:
                continue
            block, lost = block[end:], False
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join((*rest, block[:end]))
            rest, size = [block[end:]], len(block) - end
            continue
        rest.append(block)
        size += len(block)
        if size > MAX_RECORD_BYTES:
            yield LongLine(b"".join(rest)[:_SHOWN_BYTES])
            rest, size, lost = [], 0, True
    if last := b"".join(rest):
        yield last


def encoding_hint(path: Path, raw: bytes) -> str:
    """What to do about ``raw``, a record of ``path`` that is not UTF-8."""
    wide = [c for c in raw.decode("utf-8", "replace") if c > "\x7f"]
    if wide.count("\ufffd") * 3 >= len(wide) and _decodes_wholly(path, "gb18030"):
        return "the whole file reads as GB18030 (GBK): give encoding=gb18030"
    return "mend or delete it, or give the file's encoding"


def _decodes_wholly(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for block in _raw_blocks(path):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except (UnicodeDecodeError, ReadError):
        return False
    return True


def _raw_blocks(path: Path) -> Iterator[bytes]:
    kind = COMPRESSED.get(path.suffix.lower())
    with _open(path, kind) as file:
        while True:
            try:
                block = file.read(BLOCK_BYTES)
            except (OSError, EOFError, lzma.LZMAError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise DamagedFile(
                    f"{path}: damaged or cut off {path.suffix} file ({error}); fetch it again or delete it"
                ) from None
            if not block:
                return
            yield block


def _span_blocks(path: Path, start: int, end: int) -> Iterator[bytes]:
    """The lines that begin in bytes ``start`` to ``end`` of the file."""
    at, skipping = max(start - 1, 0), start > 0
    with open(path, "rb", buffering=0) as file:
        file.seek(at)
        while block := file.read(BLOCK_BYTES):
            begin, at = at, at + len(block)
            if skipping:
                cut = block.find(b"\n") + 1
                if begin + cut >= end or (not cut and at >= end):
                    return  # no line begins in the span
                if not cut:
                    continue
                block, begin, skipping = block[cut:], begin + cut, False
            if at >= end:
                cut = block.find(b"\n", max(end - 1 - begin, 0)) + 1
                if cut:
                    yield block[:cut]
                    return
            yield block


def _open(path: Path, kind: str | None) -> IO[bytes]:
    if kind == "xz":
        return lzma.open(path, "rb")
    file = open(path, "rb", buffering=0)  # noqa: SIM115 (the caller closes it)
    return file if kind is None else pa.CompressedInputStream(file, kind)


def _transcode(blocks: Iterator[bytes], path: Path, encoding: str) -> Iterator[bytes]:
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        raise ReadError(f"encoding {encoding!r}: unknown; for example utf-8, gb18030, big5, utf-16") from None
    if name in ("utf-8", "ascii"):
        yield from blocks
        return
    # A wrong byte becomes a lone surrogate, and that, three bytes that are never valid UTF-8.
    decoder = codecs.getincrementaldecoder(name)("surrogateescape")
    try:
        for block in blocks:
            yield decoder.decode(block).encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
    except UnicodeError as error:
        raise ReadError(f"{path}: not {encoding} ({error}); give the file's encoding") from None
