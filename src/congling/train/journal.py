"""What people changed while a training ran, and what its guard decided: ``journal.jsonl``, one JSON object a line.

    {"kind": "change", "step": 120, "set": {"seq_len": 256, "batch_tokens": 16384}, "request": "…"}
    {"kind": "skip", "step": 131, "reason": "loss 9.1 is above …", …}
    {"kind": "rewind", "step": 140, "to": 100, "skip": 163840, "reason": "…"}

A change takes effect before step ``step`` (the first is 0); ``step`` of the others counts the steps done. What a
training does is a pure function of configuration and journal, so a killed run, started again, ends with the same bits;
an entry that a replayed step would write again stands already.

People ask by ``request_change``: a file in ``requests/``, renamed into place, that the loop picks up between two steps.
"""

import errno
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from congling import artifact
from congling.train.schedule import Change

JOURNAL, REQUESTS = "journal.jsonl", "requests"
_TOKENS = ("seq_len", "batch_tokens", "micro_batch_tokens")
KEYS = (*_TOKENS, "lr", "transition_steps")


def request_change(folder: Path, values: Mapping[str, Any]) -> Path:
    """Asks the training in ``folder`` (``runs/<name>/pretrain``), running or to be resumed, to change ``values``.

    Keys: seq_len, batch_tokens, micro_batch_tokens (tokens), lr, and transition_steps, over which lr moves. Raises
    ValueError for keys or values that no training takes; what does not fit this one is answered in its log. Returns the
    file of the request, which is gone when it has been answered.
    """
    change = check_values(values)
    file = folder / REQUESTS / f"{time.time_ns():020d}-{os.getpid()}.json"
    artifact.write_json(file, change)
    return file


def check_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` if they are a change, whatever the training; else raises ValueError in one line."""
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"a change needs one of {', '.join(KEYS)}")
    for key, value in values.items():
        if key not in KEYS:
            raise ValueError(f"{key} cannot be changed while training; can: {', '.join(KEYS)}")
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        whole = number and isinstance(value, int)
        if key in _TOKENS and not (whole and value > 0):
            raise ValueError(f"{key} = {value!r}: a number of tokens > 0 is needed")
        if key == "lr" and not (number and value > 0):
            raise ValueError(f"lr = {value!r}: a number > 0 is needed")
        if key == "transition_steps" and not (whole and value >= 0 and "lr" in values):
            raise ValueError(f"transition_steps = {value!r}: a number of steps ≥ 0 is needed, beside lr")
    return dict(values)


class Journal:
    """The journal of the training in ``folder``. ``writable``: False on ranks that only read."""

    def __init__(self, folder: Path, writable: bool = True) -> None:
        self._file, self._requests, self._writable = folder / JOURNAL, folder / REQUESTS, writable
        self.entries: list[dict[str, Any]] = []
        self.read()

    def read(self) -> None:
        """Reads the file again; a last line torn by a kill does not count, and is cut off before the next entry."""
        self.entries = []
        data = self._file.read_bytes() if self._file.exists() else b""
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                entry = json.loads(line)
                _ = entry["kind"], entry["step"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{self._file}: line {number} is no entry of a journal; correct or delete it"
                ) from None
            self.entries.append(entry)
        torn = data and not data.endswith(b"\n")
        if torn and self._writable:
            artifact.atomic_write(self._file, data[: data.rfind(b"\n") + 1])

    @property
    def changes(self) -> list[Change]:
        """The live changes, oldest first."""
        return [Change(e["step"], **e["set"]) for e in self.entries if e["kind"] == "change"]

    def record(self, kind: str, step: int, **values: Any) -> None:
        """Appends an entry durably, unless the same stands there already."""
        entry = {"kind": kind, "step": step, **values}
        if not self._writable or entry in self.entries:
            return
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        with open(self._file, "ab", buffering=0) as file:
            size = file.tell()
            try:
                written = file.write(line)
                os.fsync(file.fileno())
            except OSError:
                written = 0
                raise
            finally:
                if written != len(line):  # a full disk: no half entry may stand before the next one
                    file.truncate(size)
        if written != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file))
        self.entries.append(entry)

    def requests(self) -> list[Path]:
        """Requests that wait for an answer, oldest first."""
        if not self._writable or not self._requests.is_dir():
            return []
        known = {entry.get("request") for entry in self.entries}
        files = sorted(file for file in self._requests.glob("*.json") if not file.name.startswith("."))
        for file in files:
            if file.name in known:  # killed between the entry and the deletion
                file.unlink()
        return [file for file in files if file.name not in known]


def read_request(file: Path) -> dict[str, Any]:
    """The change that ``file`` asks for; raises ValueError when it is none."""
    try:
        values = json.loads(file.read_bytes())
    except ValueError:
        raise ValueError("not JSON") from None
    return check_values(values)
