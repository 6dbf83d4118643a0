"""The label file: what people think of documents, JSON lines, a decision a row; nothing is ever rewritten.

A row is self-contained (it holds the text), so that a classifier can be trained from the file alone. Taking a decision
back is a row too, with ``"label": null``: the last row of an annotator on a text counts. Appending flushes and syncs;
a last line torn by a kill is ignored, and cut off by the next append.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

LABELS = ("low", "mid", "high")  # in the order of worth: a label's place is its number
Label = Literal["low", "mid", "high"]


class LabelError(ValueError):
    """A label file that cannot be used; one line with file and line number."""


class Decision(BaseModel):
    """A row. ``label`` None takes the annotator's decision on this text back."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    text: str = Field(min_length=1)
    hash: str  # text_hash(text)
    id: int  # of the document in its corpus or input file
    source: str
    label: Label | None
    note: str = ""
    annotator: str = Field(min_length=1, max_length=40)
    time: float  # seconds since the epoch
    corpus: str  # name@fingerprint of the corpus that was labelled

    @property
    def number(self) -> int:
        """Place of the label in LABELS; −1: taken back."""
        return -1 if self.label is None else LABELS.index(self.label)


class Agreement(NamedTuple):
    """Of two annotators on the documents that both have labelled."""

    first: str
    second: str
    both: int  # documents
    share: float  # labelled alike; 0 when both = 0
    kappa: float | None  # Cohen 1960; None where chance alone would agree always
    disagreements: list[str]  # hashes of texts, largest differences first


def text_hash(text: str) -> str:
    """BLAKE2b-128 of the UTF-8 bytes, in hex."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def append(path: Path, decision: Decision) -> None:
    """Adds a row durably; several processes may append to one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        tail = _unfinished(file.fileno(), end)
        if tail and _is_json(tail):
            file.write(b"\n")  # whole, but for its line break
        elif tail:
            file.truncate(end - len(tail))
        file.write(orjson.dumps(decision.model_dump()) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Decision]:
    """All rows in order; [] for a file that does not exist yet. Raises LabelError with file and line."""
    return Follower(path).rows()


class Follower:
    """Reads a label file again and again, each time only what is new in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[Decision] = []
        self._bytes = self._lines = 0  # read so far, whole lines

    def rows(self) -> list[Decision]:
        """As ``read``."""
        if not self._path.exists():
            return []
        with open(self._path, "rb") as file:
            file.seek(self._bytes)
            *lines, tail = file.read().split(b"\n")
        for line in lines:
            if line.strip():
                self._rows.append(_parse(line, f"{self._path}:{self._lines + 1}"))
            self._lines += 1
            self._bytes += len(line) + 1
        return [*self._rows, _parse(tail, f"{self._path}:{self._lines + 1}")] if tail and _is_json(tail) else self._rows


def check_corpus(path: Path, rows: Sequence[Decision], corpus: str) -> None:
    """Raises LabelError unless all rows are of ``corpus`` (name@fingerprint; a renamed corpus is still the same)."""
    for row in rows:
        if row.corpus.rpartition("@")[2] != corpus.rpartition("@")[2]:
            raise LabelError(
                f"{path}: holds labels of the corpus {row.corpus}, this one is {corpus}; give another label.labels"
            )


def standing(rows: Sequence[Decision]) -> dict[tuple[str, str], Decision]:
    """The decisions that count, by (annotator, hash of the text), in the order in which they were made."""
    found: dict[tuple[str, str], Decision] = {}
    for row in rows:
        found.pop((row.annotator, row.hash), None)
        if row.label is not None:
            found[row.annotator, row.hash] = row
    return found


def agreements(decisions: dict[tuple[str, str], Decision]) -> list[Agreement]:
    """Of each pair of annotators with a document in common."""
    by_annotator: dict[str, dict[str, int]] = {}
    for (annotator, text), decision in decisions.items():
        by_annotator.setdefault(annotator, {})[text] = decision.number
    pairs = combinations(sorted(by_annotator), 2)
    return [
        _compare(a, b, by_annotator[a], by_annotator[b]) for a, b in pairs if by_annotator[a].keys() & by_annotator[b]
    ]


def kappa(table: NDArray[np.int64]) -> float | None:
    """Cohen's kappa (1960) of a table [K, K] of counts: (p_o − p_e) / (1 − p_e)."""
    total = table.sum()
    expected = float(table.sum(0) @ table.sum(1)) / total**2
    return None if expected == 1 else float((np.trace(table) / total - expected) / (1 - expected))


def now() -> float:
    """Time of a decision, to the millisecond."""
    return round(time.time(), 3)


def _compare(first: str, second: str, a: dict[str, int], b: dict[str, int]) -> Agreement:
    common = [text for text in a if text in b]
    table = np.zeros((len(LABELS), len(LABELS)), np.int64)
    for text in common:
        table[a[text], b[text]] += 1
    apart = sorted((t for t in common if a[t] != b[t]), key=lambda t: -abs(a[t] - b[t]))
    return Agreement(first, second, len(common), float(np.trace(table)) / len(common), kappa(table), apart)


def _parse(line: bytes, where: str) -> Decision:
    try:
        row = Decision.model_validate(orjson.loads(line))
    except orjson.JSONDecodeError as error:
        raise LabelError(f"{where}: not JSON ({error}); mend or delete the line") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "row"
        given = "" if problem["type"] == "missing" else f" = {str(problem['input'])[:40]!r}"
        raise LabelError(f"{where}: {key}{given}: {problem['msg']}") from None
    if row.hash != text_hash(row.text):
        raise LabelError(f"{where}: hash {row.hash[:40]!r} is not that of the text; the line was changed")
    return row


def _unfinished(descriptor: int, end: int) -> bytes:
    """What stands behind the last line break."""
    tail, step = b"", 1 << 16
    while end > 0 and b"\n" not in tail:
        begin = max(0, end - step)
        tail, end = os.pread(descriptor, end - begin, begin) + tail, begin
    return tail.rpartition(b"\n")[2]


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
