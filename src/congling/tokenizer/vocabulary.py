"""The vocabulary and its file: a text that people can read.

``vocabulary.txt`` begins with ``# congling vocabulary 1 <kind>``; then one ``id<TAB>piece<TAB>score<TAB>count`` a
line, ids rising. Kind ``congling``: 16 special ids, 256 bytes (``<0x00>`` …), then pieces, most counted first. Kind
``seed``: pieces only, at the rows that the seed's models take (SEED §2). In a piece, backslash, control characters
and white space but the plain space are written as ``\\\\``, ``\\n``, ``\\u3000`` …; scores are natural logarithms.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from congling import artifact
from congling.tokenizer.kernels import SCALE

Kind = Literal["congling", "seed"]
NAMED = ("<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPECIALS = (*NAMED, *(f"<|reserved_{n}|>" for n in range(len(NAMED), 16)))
FIRST_BYTE = len(SPECIALS)
FIRST_PIECE = FIRST_BYTE + 256
_HEADER = "# congling vocabulary 1 "
_NAMES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPE = re.compile(r"\\(\\|n|r|t|u[0-9a-f]{4}|U[0-9a-f]{8})")


@dataclass(frozen=True)
class Vocabulary:
    """pieces, their ids (rising), scores (units of 2⁻²⁰ nats; for the seed's kind, natural logarithms) and counts."""

    kind: Kind
    pieces: list[str]
    ids: list[int]
    scores: list[int] | list[float]
    counts: list[int]

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.ids[-1] + 1 if self.ids else FIRST_PIECE


def write(vocabulary: Vocabulary, file: Path) -> None:
    """Writes the vocabulary file, whole or not at all."""
    lines = [_HEADER + vocabulary.kind]
    if vocabulary.kind == "congling":
        lines += [f"{n}\t{name}\t0\t0" for n, name in enumerate(SPECIALS)]
        lines += [f"{FIRST_BYTE + b}\t<0x{b:02X}>\t0\t0" for b in range(256)]
    rows = zip(vocabulary.ids, vocabulary.pieces, vocabulary.scores, vocabulary.counts, strict=True)
    exact = vocabulary.kind == "seed"
    for number, piece, score, count in rows:
        shown = repr(float(score)) if exact else f"{score / SCALE:.7f}"
        lines.append(f"{number}\t{escape(piece)}\t{shown}\t{count}")
    artifact.atomic_write(file, ("\n".join(lines) + "\n").encode("utf-8"))


def read(file: Path) -> Vocabulary:
    """Reads a vocabulary file. Raises ValueError that names file and line."""
    try:
        lines = file.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 at byte {error.start}; it is no vocabulary file") from None
    except FileNotFoundError:
        raise ValueError(f"{file}: no such vocabulary") from None
    kind = lines[0].removeprefix(_HEADER)
    if not lines[0].startswith(_HEADER) or kind not in ("congling", "seed"):
        raise ValueError(f"{file}: does not begin with '{_HEADER}congling'; it is no vocabulary file of this version")
    if lines.pop() != "":
        raise ValueError(f"{file}:{len(lines) + 1}: the last line is cut off")
    rows = [_parse(line, f"{file}:{n}") for n, line in enumerate(lines[1:], 2)]
    if kind == "congling":
        _check_fixed(rows, file)
        rows = rows[FIRST_PIECE:]
    _check_pieces(rows, file, FIRST_PIECE if kind == "congling" else 256)
    ids, pieces = [row[0] for row in rows], [unescape(row[1]) for row in rows]
    if kind == "seed":
        return Vocabulary("seed", pieces, ids, [row[2] for row in rows], [row[3] for row in rows])
    return Vocabulary("congling", pieces, ids, [round(row[2] * SCALE) for row in rows], [row[3] for row in rows])


def _parse(line: str, where: str) -> tuple[int, str, float, int]:
    fields = line.split("\t")
    try:
        number, piece, score, count = fields
        return int(number), piece, float(score), int(count)
    except ValueError:
        raise ValueError(f"{where}: expected id, piece, score, count between tabs, found {line[:60]!r}") from None


def _check_fixed(rows: list[tuple[int, str, float, int]], file: Path) -> None:
    expected = [*SPECIALS, *(f"<0x{b:02X}>" for b in range(256))]
    for n, name in enumerate(expected):
        if n >= len(rows) or rows[n][:2] != (n, name):
            raise ValueError(f"{file}:{n + 2}: expected id {n}, {name}")


def _check_pieces(rows: list[tuple[int, str, float, int]], file: Path, first: int) -> None:
    seen: set[str] = set()
    for n, row in enumerate(rows):
        if row[0] != first + n:
            raise ValueError(f"{file}: id {row[0]} where {first + n} should be")
        if not row[1] or row[1] in seen:
            raise ValueError(f"{file}: id {row[0]}: piece {row[1]!r} is empty or there twice")
        seen.add(row[1])


def escape(piece: str) -> str:
    """A piece on one line of a tab-separated file."""
    return "".join(_NAMES.get(c) or (c if c == " " or c.isprintable() else _code(c)) for c in piece)


def unescape(text: str) -> str:
    """What ``escape`` was given."""
    names = {shown[1]: c for c, shown in _NAMES.items()}
    return _ESCAPE.sub(lambda m: names.get(m[1]) or chr(int(m[1][1:], 16)), text)


def _code(c: str) -> str:
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
