"""Bytes of a file in blocks: decompressed, in UTF-8, without byte order mark; and what goes wrong on the way."""

import codecs
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa

BLOCK_BYTES = 256 << 10
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".xz": "xz"}
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class ReadError(ValueError):
    """Input that cannot be read; the message is one line for the user: file, line, what was found, what to do."""


class Reject(NamedTuple):
    """A record that could not be read."""

    file: Path
    line: int  # from 1; in a Parquet file, the row
    id: int  # the record's place in the file, from 0: the id it would have had
    text: str  # the record itself, repaired for display
    reason: str  # bad_encoding | bad_json | no_text
    detail: str


@dataclass
class Faults:
    """What is done with the bad records of a file: the first raises ReadError, or ``on_reject`` takes them all."""

    path: Path
    on_reject: Callable[[Reject], None] | None = None

    def report(self, line: int, id: int, raw: bytes, reason: str, detail: str, unit: str = "line") -> None:
        """Raises or hands over the record ``raw``, which begins at ``line``."""
        if self.on_reject is not None:
            self.on_reject(Reject(self.path, line, id, raw.decode("utf-8", "replace"), reason, detail))
            return
        where = f"{self.path}:{line}" + (f" (item {id + 1})" if unit == "item" else "")
        if reason == "bad_encoding":
            raise ReadError(f"{where}: {detail}; {encoding_hint(self.path, raw)}")
        raise ReadError(f"{where}: {detail}")


def read_blocks(path: Path, encoding: str = "utf-8") -> Iterator[bytes]:
    """The text of ``path`` (plain, .gz, .zst or .xz) in blocks of about BLOCK_BYTES, transcoded to UTF-8.

    Bytes that are wrong in ``encoding`` come out as invalid UTF-8, so that whoever parses the blocks finds them at
    their line. UTF-8 itself passes unchecked. Raises ReadError for a damaged file or an unfit encoding.
    """
    first = True
    for block in _transcode(_raw_blocks(path), path, encoding):
        if first:
            if codecs.lookup(encoding).name == "utf-8" and block.startswith(_UTF16_MARKS):
                raise ReadError(f"{path}: UTF-16 text; give encoding=utf-16, or convert it to UTF-8")
            block = block.removeprefix(codecs.BOM_UTF8)
            first = False
        if block:
            yield block


def line_blocks(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Cuts the stream anew so that every block ends with a line (the last one may lack its line break)."""
    rest: list[bytes] = []
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join((*rest, block[:end]))
            rest = [block[end:]]
        else:
            rest.append(block)
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
                raise ReadError(
                    f"{path}: damaged or cut off {path.suffix} file ({error}); fetch it again or delete it"
                ) from None
            if not block:
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
