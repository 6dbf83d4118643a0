"""What of a run folder is there: manifests, metrics, the evaluation, a few rejects. Nothing is written."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from congling import artifact
from congling.reporter import read_metrics

STAGES = ("fetch", "clean", "tokenizer", "tokenize", "pretrain", "sft", "evaluate")  # in the order of a life
_EXAMPLES = 3  # rejects shown a reason


@dataclass(frozen=True)
class StageView:
    """A stage as it is found; ``state`` is ``damaged`` when its manifest cannot be read (``problem`` says why)."""

    name: str
    folder: Path
    state: Literal["done", "begun", "absent", "damaged"] = "absent"
    manifest: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    problem: str = ""

    @property
    def summary(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manifest.get("summary") or {}
        return found

    @property
    def seconds(self) -> float:
        """Wall time: of the finished stage, or from the first to the last row of metrics so far."""
        if self.manifest:
            return float(self.manifest.get("seconds") or 0)
        times = [t for row in self.metrics if (t := number(row, "time")) is not None]
        return times[-1] - times[0] if times else 0.0

    def rows(self, kind: str) -> list[Mapping[str, Any]]:
        return [row for row in self.metrics if row.get("kind") == kind]

    def points(self, kind: str, key: str) -> list[tuple[float, float]]:
        """(tokens, value) of the rows that have both, as finite numbers."""
        pairs = [(number(row, "tokens"), number(row, key)) for row in self.rows(kind)]
        return [(x, y) for x, y in pairs if x is not None and y is not None]

    def figure(self, *path: str) -> float | None:
        """A number of the summary, for example ``figure("train", "tokens")``; None when it is not there."""
        return dig(self.summary, *path)


@dataclass(frozen=True)
class RunView:
    """A run as it is found. ``evaluation`` and ``rejects`` {reason: [{text, detail}]} may be empty."""

    name: str
    stages: Mapping[str, StageView]
    evaluation: Mapping[str, Any]
    rejects: Mapping[str, Sequence[Mapping[str, Any]]]
    now: float = field(default_factory=time.time)

    @property
    def done(self) -> list[StageView]:
        return [s for s in self.stages.values() if s.state == "done"]


def number(row: Mapping[str, Any], key: str) -> float | None:
    """A finite number of ``row``, or None."""
    value = row.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def dig(data: Any, *path: str) -> float | None:
    """The finite number at ``path`` in nested mappings, or None."""
    for key in path[:-1]:
        data = data.get(key) if isinstance(data, Mapping) else None
    return number(data, path[-1]) if isinstance(data, Mapping) else None


def read_run(run_dir: Path) -> RunView:
    """Raises ValueError when ``run_dir`` is no folder, is a stage instead of a run, or has no stage yet."""
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir}: no such folder; a run folder is needed, such as runs/demo")
    if (run_dir / artifact.MANIFEST).exists():
        raise ValueError(f"{run_dir}: is one stage; the run is {run_dir.resolve().parent}")
    stages = {name: _read_stage(name, run_dir / name) for name in STAGES[1:]}
    if all(stage.state == "absent" for stage in stages.values()):
        raise ValueError(f"{run_dir}: no stage has begun here; a run folder is needed, such as runs/demo")
    stages = {"fetch": _read_fetch(stages.values()), **stages}
    return RunView(
        name=run_dir.resolve().name,
        stages=stages,
        evaluation=_read_evaluation(stages["evaluate"]),
        rejects=stages["clean"].summary.get("examples") or _read_rejects(run_dir / "clean"),
    )


def _read_stage(name: str, folder: Path) -> StageView:
    if not folder.is_dir():
        return StageView(name, folder)
    metrics = [row for row in read_metrics(folder / "metrics.jsonl") if isinstance(row, dict)]
    if not (folder / artifact.MANIFEST).exists():
        begun = any(p.name != ".lock" for p in folder.iterdir())
        return StageView(name, folder, "begun" if begun else "absent", metrics=metrics)
    try:
        return StageView(name, folder, "done", artifact.read_manifest(folder), metrics)
    except artifact.ArtifactError as error:
        return StageView(name, folder, "damaged", metrics=metrics, problem=str(error))


def _read_fetch(stages: Any) -> StageView:
    """The fetched data set lies outside of the run: found through the inputs of a stage that read it."""
    for stage in stages:
        path = (stage.manifest.get("inputs") or {}).get("fetch", {}).get("path")
        if path:
            return _read_stage("fetch", Path(path))
    return StageView("fetch", Path("data"))


def _read_evaluation(stage: StageView) -> Mapping[str, Any]:
    try:
        found = json.loads((stage.folder / "evaluation.json").read_bytes())
    except (OSError, ValueError):
        return stage.summary
    return found if isinstance(found, dict) else stage.summary


def _read_rejects(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The first rejects of each reason in the first shard."""
    import pyarrow.parquet as pq

    examples: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("rejects-*.parquet"))[:1]:
        for batch in pq.ParquetFile(path).iter_batches(4096, columns=["text", "reason", "detail"]):
            for row in batch.to_pylist():
                shown = examples.setdefault(row["reason"], [])
                if len(shown) < _EXAMPLES:
                    shown.append(row)
    return examples
