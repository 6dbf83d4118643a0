"""The one way to show progress, log and measure: bars on a terminal, plain lines elsewhere, ``metrics.jsonl``."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

try:
    import rich.progress as bars
    from rich.console import Console

    has_rich = True
except ImportError:  # a bare GPU machine: plain lines
    has_rich = False

_LINE_EVERY = 10.0  # seconds between progress lines when the output is no terminal


class Bar:
    """Progress of one job: ``advance(n)`` as work gets done; ``note`` is shown behind the rate."""

    def __init__(self, reporter: "Reporter", label: str, total: float | None, unit: str, done: float) -> None:
        self._reporter, self.label, self.total, self.unit = reporter, label, total, unit
        self.done = self._first = done  # work of an earlier run does not count in the rate
        self.note = ""
        self._start = self._last_line = time.monotonic()
        self._rich: bars.Progress | None = None
        self._task: Any = None

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        self.done += amount
        if note is not None:
            self.note = note
        if self._rich is not None:
            self._rich.update(self._task, completed=self.done, rate=self._rate_text(), note=self.note)
        elif time.monotonic() - self._last_line > _LINE_EVERY:
            self._last_line = time.monotonic()
            self._reporter.line(self._text())

    def rate(self) -> float:
        """Units a second since this bar was opened."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def _rate_text(self) -> str:
        return f"{human(self.rate())} {self.unit}/s"

    def _text(self) -> str:
        left = ""
        share = ""
        if self.total:
            share = f" {100 * self.done / self.total:.0f} %"
            rate = self.rate()
            left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        return f"{self.label}:{share} {human(self.done)} {self.unit}, {self._rate_text()}{left} {self.note}".rstrip()


class Reporter:
    """Shows what happens. ``verbose`` also shows ``detail`` lines. ``file`` defaults to standard error."""

    def __init__(self, file: IO[str] | None = None, verbose: bool = False, quiet: bool = False) -> None:
        self._file = file or sys.stderr
        self._console = Console(file=self._file, highlight=False, soft_wrap=True) if has_rich else None
        self.verbose, self.quiet = verbose, quiet

    @property
    def terminal(self) -> bool:
        return self._console is not None and self._console.is_terminal

    def line(self, text: str) -> None:
        if not self.quiet:
            self._print(text)

    def detail(self, text: str) -> None:
        if self.verbose:
            self.line(text)

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, markup=False)  # above a running bar, where there is one
        else:
            print(text, file=self._file, flush=True)

    @contextmanager
    def progress(self, label: str, total: float | None, unit: str, done: float = 0) -> Iterator[Bar]:
        """A bar with share, rate and time left (``total`` None: rate only). ``done``: what an earlier run did."""
        bar = Bar(self, label, total, unit, done)
        if self.quiet or not self.terminal:
            yield bar
            if not self.quiet:
                seconds = time.monotonic() - bar._start
                self.line(f"{label}: {human(bar.done)} {unit} in {duration(seconds)} {bar.note}".rstrip())
            return
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeRemainingColumn(compact=True),
            bars.TextColumn("{task.fields[note]}"),
        )
        with bars.Progress(*columns, console=self._console) as rich:
            bar._rich = rich
            bar._task = rich.add_task(label, total=total, completed=int(done), rate="", note="")
            yield bar


class Metrics:
    """Appends one JSON object a line to ``metrics.jsonl``; ``rewind`` drops what a resumed run will write again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, kind: str, **values: Any) -> None:
        """Appends ``{"kind": kind, "time": seconds since the epoch, **values}``."""
        row = json.dumps({"kind": kind, "time": time.time(), **values}, ensure_ascii=False)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(row + "\n")

    def rewind(self, step: int) -> None:
        """Keeps the rows whose ``step`` is at most ``step`` (rows without one stay), and drops a torn last line."""
        rows = [line for line in read_metrics(self.path) if line.get("step", 0) <= step]
        temporary = self.path.with_name(".metrics.tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a ``metrics.jsonl`` (a last line torn by a kill is left out); [] when there is none."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            rows.append(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
    return rows


def human(value: float) -> str:
    """1234567 -> '1.23 M'."""
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            scaled = value / (limit if suffix != " k" else 1e3)
            return f"{scaled:.3g}{suffix}" if scaled < 100 else f"{scaled:.0f}{suffix}"
    return f"{value:.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}"


def duration(seconds: float) -> str:
    """3725 -> '1 h 02 min'; 75 -> '1 min 15 s'; 3.2 -> '3.2 s'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
