"""The vocabulary and its file: a text that people can read.

``vocabulary.txt`` begins with three lines, ``# congling vocabulary 1``, ``# kind congling`` (or ``seed``) and
``# size N``; then one ``id<TAB>piece<TAB>score<TAB>count`` a line, ids rising from the first to N − 1. Kind
``congling``: 16 special ids, 256 bytes (``<0x00>`` …), then pieces, most counted first. Kind ``seed``: pieces alone,
at the rows that the seed's models take (SEED §2). Scores are natural logarithms, in the first kind to exactly six
decimals. In a piece, backslash, control characters, white space but the plain space, and marks that show nothing are
written ``\\\\``, ``\\n``, ``\\r``, ``\\t``, ``\\u3000``, ``\\U000e0001``.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from congling.tokenizer.trie import LOWEST_SCORE, MAX_LENGTH, SCALE

Kind = Literal["congling", "seed"]
NAMED = ("<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPECIALS = (*NAMED, *(f"<|reserved_{n}|>" for n in range(len(NAMED), 16)))
FIRST_BYTE = len(SPECIALS)
FIRST_PIECE = FIRST_BYTE + 256
FIRST_SEED_ROW = 256  # of pieces: seed id 1 + 255; the row of byte b is 255 − b
_MAGIC = "# congling vocabulary 1"
_FIXED = (*SPECIALS, *(f"<0x{b:02X}>" for b in range(256)))  # what comes before the pieces
_NAMES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_CHARACTERS = {shown: character for character, shown in _NAMES.items()}
# Control characters, spaces, soft hyphen, joiners and marks of direction, variation selectors, byte order mark, tags.
_HIDDEN = re.compile(
    "[\\\\\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u3000\u3164\ud800-\uf8ff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U000e0000-\U000e0fff]"
)
_ESCAPE = re.compile(r"\\(?:[\\nrt]|u[0-9a-f]{4}|U[0-9a-f]{8}|())")  # the group: a backslash that begins none
_SURROGATE = re.compile("[\ud800-\udfff]")
_COUNTS, _SCORES = re.compile(r"(?:(?:0|[1-9][0-9]*)\n)*+"), re.compile(r"(?:-?[0-9]+\.[0-9]{6}\n)*+")
_NUMBER, _SCORE, _EXACT = re.compile(r"0|[1-9][0-9]*"), re.compile(r"-?[0-9]+\.[0-9]{6}"), re.compile(r"[-+.0-9e]+")


@dataclass(frozen=True)
class Vocabulary:
    """pieces (in the order of their ids, which are consecutive), their scores and their counts in the last round.

    Scores are units of 10⁻⁶ nats (int), in the seed's kind natural logarithms (float).
    """

    kind: Kind
    pieces: list[str]
    scores: list[int] | list[float]
    counts: list[int]

    @property
    def first_id(self) -> int:
        """Id of the first piece."""
        return FIRST_PIECE if self.kind == "congling" else FIRST_SEED_ROW

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.first_id + len(self.pieces)

    @cached_property
    def nats(self) -> list[float]:
        """The scores as natural logarithms."""
        return [score / SCALE for score in self.scores] if self.kind == "congling" else list(self.scores)


def write(vocabulary: Vocabulary, file: Path) -> None:
    """Writes the vocabulary file, whole or not at all."""
    from congling import artifact  # imported here, as it takes longer than reading a vocabulary does

    lines = [_MAGIC, f"# kind {vocabulary.kind}", f"# size {vocabulary.size}"]
    if vocabulary.kind == "congling":
        lines += [f"{n}\t{name}\t0\t0" for n, name in enumerate(_FIXED)]
    rows = zip(vocabulary.pieces, vocabulary.scores, vocabulary.counts, strict=True)
    for number, (piece, score, count) in enumerate(rows, vocabulary.first_id):
        shown = f"{_decimal(int(score))}" if vocabulary.kind == "congling" else repr(float(score))
        lines.append(f"{number}\t{escape(piece)}\t{shown}\t{count}")
    artifact.atomic_write(file, ("\n".join(lines) + "\n").encode("utf-8"))


def read(file: Path) -> Vocabulary:
    """Reads a vocabulary file. Raises ValueError that names file and line for whatever ``write`` would not write."""
    try:
        lines = file.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 at byte {error.start}; it is no vocabulary file") from None
    except FileNotFoundError:
        raise ValueError(f"{file}: no such vocabulary; train one first") from None
    if lines[0] != _MAGIC:
        raise ValueError(f"{file}:1: expected {_MAGIC!r}, found {lines[0][:40]!r}; it is no vocabulary of this version")
    kind: Kind = "seed" if lines[1:2] == ["# kind seed"] else "congling"
    if lines[1:2] != [f"# kind {kind}"]:
        raise ValueError(f"{file}:2: expected '# kind congling' or '# kind seed', found {''.join(lines[1:2])[:40]!r}")
    if lines.pop() != "":
        raise ValueError(f"{file}:{len(lines) + 1}: the last line is cut off")
    return _read_rows(file, kind, lines)


def _read_rows(file: Path, kind: Kind, lines: list[str]) -> Vocabulary:
    fixed = _FIXED if kind == "congling" else ()
    for n, name in enumerate(fixed):
        if len(lines) <= n + 3 or lines[n + 3] != f"{n}\t{name}\t0\t0":
            raise ValueError(f"{file}:{n + 4}: expected id {n}, {name}, 0, 0 between tabs")
    first, rows = Vocabulary(kind, [], [], []).first_id, lines[3 + len(fixed) :]
    vocabulary = _read_columns(kind, first, rows)
    if vocabulary is None:  # something is wrong: look at line after line, to say what and where
        vocabulary = _read_lines(file, kind, first, rows, 4 + len(fixed))
    if lines[2:3] != [f"# size {vocabulary.size}"]:
        raise ValueError(f"{file}:3: expected '# size {vocabulary.size}', as many ids as follow, found {lines[2:3]}")
    return vocabulary


def _read_columns(kind: Kind, first: int, rows: list[str]) -> Vocabulary | None:
    """The rows, if nothing is wrong with any; all of a column at once, which is six times as fast."""
    cells = "\t".join(rows).split("\t")
    ids, shown, scores, counts = (cells[column::4] for column in range(4))
    if not len(ids) == len(shown) == len(scores) == len(counts) == len(rows):
        return None
    try:
        pieces = [unescape(piece) if "\\" in piece else piece for piece in shown]
    except ValueError:
        return None
    good = (
        ids == list(map(str, range(first, first + len(rows))))
        and len(set(pieces)) == len(pieces)
        and all(pieces)
        and max(map(len, pieces)) <= MAX_LENGTH
        and [piece for piece in shown if "\\" in piece]
        == [escape(p) for p, s in zip(pieces, shown, strict=True) if p != s]
        and not _HIDDEN.search("".join(piece for piece in shown if "\\" not in piece))
        and not _SURROGATE.search("".join(pieces))
        and _COUNTS.fullmatch("\n".join(counts) + "\n")
        and max(map(len, counts)) < 19
    )
    if not good:
        return None
    if kind == "seed":
        values = [_score(text, kind) for text in scores]
        known = [value for value in values if value is not None]
        return Vocabulary(kind, pieces, known, list(map(int, counts))) if len(known) == len(values) else None
    if not _SCORES.fullmatch("\n".join(scores) + "\n"):
        return None
    units = list(map(int, "\n".join(scores).replace(".", "").split("\n")))
    if min(units) < LOWEST_SCORE or max(units) > 0:
        return None
    return Vocabulary(kind, pieces, units, list(map(int, counts)))


def _read_lines(file: Path, kind: Kind, first: int, rows: list[str], number: int) -> Vocabulary:
    """The rows, or ValueError for the first that is wrong. number: of the first line."""
    found: dict[str, tuple[int | float, int]] = {}
    for n, line in enumerate(rows):
        where = f"{file}:{number + n}"
        piece, score, count = _parse(line, kind, first + n, where)
        if not 0 < len(piece) <= MAX_LENGTH or piece in found:
            problem = "is there twice" if piece in found else f"must have 1 … {MAX_LENGTH} characters"
            raise ValueError(f"{where}: piece {piece!r} {problem}")
        found[piece] = score, count
    return Vocabulary(kind, list(found), [score for score, _ in found.values()], [count for _, count in found.values()])


def _parse(line: str, kind: Kind, number: int, where: str) -> tuple[str, int | float, int]:
    """(piece, score, count) of a line that must have the id ``number``."""
    fields = line.split("\t")
    if len(fields) != 4:
        raise ValueError(f"{where}: expected id, piece, score, count between tabs, found {line[:60]!r}")
    if fields[0] != str(number):
        raise ValueError(f"{where}: expected id {number}, found {fields[0][:40]!r}")
    if not _NUMBER.fullmatch(fields[3]) or int(fields[3]) >= 1 << 63:
        raise ValueError(f"{where}: count {fields[3][:40]!r} is not a whole number")
    score = _score(fields[2], kind)
    if score is None:
        raise ValueError(f"{where}: score {fields[2][:40]!r} is not a natural logarithm of the kind {kind}")
    for found in _ESCAPE.finditer(fields[1]):
        if found[1] is not None or (found[0][1] == "U" and int(found[0][2:], 16) > 0x10FFFF):
            raise ValueError(f"{where}: piece {fields[1][:40]!r} has a backslash that begins no escape")
    piece = unescape(fields[1])
    if any("\ud800" <= c <= "\udfff" for c in piece):
        raise ValueError(f"{where}: piece {fields[1][:40]!r} is half of a surrogate pair, which UTF-8 has not")
    return piece, score, int(fields[3])


def _score(text: str, kind: Kind) -> int | float | None:
    if kind == "congling":
        units = int(text.replace(".", "")) if _SCORE.fullmatch(text) else 1
        return units if LOWEST_SCORE <= units <= 0 else None
    try:
        nats = float(text) if _EXACT.fullmatch(text) else math.nan
    except ValueError:
        return None
    return nats if -math.inf < nats <= 0 else None


def _decimal(units: int) -> str:
    """−1234567 → '-1.234567', exactly."""
    whole, rest = divmod(-units, SCALE)
    return f"{'-' if units else ''}{whole}.{rest:06d}"


def escape(piece: str) -> str:
    """A piece as it stands in a vocabulary file: on one line, nothing hidden."""
    return _HIDDEN.sub(lambda m: _NAMES.get(m[0]) or _code(ord(m[0])), piece)


def unescape(text: str) -> str:
    """What ``escape`` was given."""
    return _ESCAPE.sub(lambda m: _CHARACTERS.get(m[0]) or chr(int(m[0][2:], 16)), text)


def _code(point: int) -> str:
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
