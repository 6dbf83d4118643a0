"""What pass 3 counts and keeps for the report: reasons, what was cut, a random sample of documents."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from congling.artifact import atomic_open, write_json
from congling.clean.judges import Judges, Verdict
from congling.clean.parts import STAYS, Clock
from congling.clean.rules import BINS, RULES

EXAMPLES = 20  # documents shown that stay, and as many a reason of those that do not
_CHARACTERS = 1200  # shown of one
_STAYS = ""  # in place of a reason


class Tally:
    """Of one part, or of several added up. A sample of a reason is the documents with the smallest random numbers."""

    def __init__(self, seed: int) -> None:
        self.seed, self.clock = seed, Clock()
        self.histograms: NDArray[np.int64] = np.zeros((len(RULES), BINS), np.int64)  # of documents that stay
        self.summary: dict[str, Any] = {
            "reasons": {},  # {reason: [documents, bytes]}
            "examples": {},  # {reason: [{random, id, text, source, detail}]}
            "documents": 0,  # that stay
            "bytes": 0,
            "characters": 0,
            "cut": [0, 0],  # documents, bytes
            "items": {},  # {evaluation item: documents}
            "scores": [0] * 20,  # documents by quality, of those that were judged
            "seconds": self.clock.seconds,
        }

    def dropped(self, rejects: pa.RecordBatch) -> None:
        """Counts documents that do not stay (a batch of REJECTS)."""
        reasons, sizes = rejects["reason"].to_pylist(), pc.binary_length(rejects["text"]).to_pylist()
        for reason, size in zip(reasons, sizes, strict=True):
            row = self.summary["reasons"].setdefault(reason, [0, 0])
            row[0] += 1
            row[1] += size
        self._sample(rejects, np.array(reasons))

    def kept(self, kept: pa.RecordBatch, characters: int) -> None:
        """Counts documents that stay (id, text, source)."""
        self.summary["documents"] += len(kept)
        self.summary["bytes"] += pc.sum(pc.binary_length(kept["text"])).as_py() or 0
        self.summary["characters"] += characters
        self._sample(kept, np.full(len(kept), _STAYS))

    def judged(self, verdict: Verdict, judges: Judges, before: pa.Array) -> None:
        """Counts what the judges found in documents."""
        stays = verdict.changed & (verdict.reason == STAYS)
        lost = pc.binary_length(before).to_numpy() - pc.binary_length(verdict.text).to_numpy()
        self.summary["cut"][0] += int(stays.sum())
        self.summary["cut"][1] += int(lost[stays].sum())
        if judges.evals is not None:
            for item in verdict.item[verdict.item >= 0].tolist():
                name = judges.evals.names[item]
                self.summary["items"][name] = self.summary["items"].get(name, 0) + 1
        if verdict.score is not None:
            found = np.bincount((np.clip(verdict.score, 0, 0.9999) * 20).astype(np.int64), minlength=20)
            self.summary["scores"] = (np.array(self.summary["scores"]) + found).tolist()

    def histogram(self, found: NDArray[np.int64]) -> None:
        """Adds histograms of what the rules measured in documents that stay."""
        self.histograms += found

    def _sample(self, batch: pa.RecordBatch, reasons: NDArray[Any]) -> None:
        ids = batch["id"].to_numpy()
        random = _random(ids, self.seed)
        for reason in np.unique(reasons).tolist():
            of_reason = np.flatnonzero(reasons == reason)
            best = of_reason[np.argsort(random[of_reason])[:EXAMPLES]]
            rows = batch.take(pa.array(best))
            rows = rows.set_column(1, "text", pc.utf8_slice_codeunits(rows["text"], 0, _CHARACTERS))
            found = [{"random": int(r), **row} for r, row in zip(random[best], rows.to_pylist(), strict=True)]
            for row in found:
                row.pop("key", None)
            self._add_examples(reason, found)

    def _add_examples(self, reason: str, found: Iterable[dict[str, Any]]) -> None:
        shown = [*self.summary["examples"].get(reason, []), *found]
        self.summary["examples"][reason] = sorted(shown, key=lambda row: row["random"])[:EXAMPLES]

    def save(self, path: Path) -> None:
        """Writes the histograms beside ``path`` (.json), then all else to it."""
        with atomic_open(path.with_suffix(".histograms.npy")) as file:
            np.save(file, self.histograms)
        write_json(path, self.summary)

    def add(self, path: Path) -> None:
        """Adds what ``save`` wrote."""
        mine, other = self.summary, json.loads(path.read_bytes())
        self.histograms += np.load(path.with_suffix(".histograms.npy"))
        for reason, (documents, size) in other["reasons"].items():
            row = mine["reasons"].setdefault(reason, [0, 0])
            row[0], row[1] = row[0] + documents, row[1] + size
        for name in ("documents", "bytes", "characters"):
            mine[name] += other[name]
        for name in ("cut", "scores"):
            mine[name] = (np.array(mine[name]) + np.array(other[name])).tolist()
        for item, documents in other["items"].items():
            mine["items"][item] = mine["items"].get(item, 0) + documents
        self.add_seconds(other["seconds"])
        for reason, rows in other["examples"].items():
            self._add_examples(reason, rows)

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Adds processor seconds by step."""
        for step, value in seconds.items():
            self.clock.seconds[step] = self.clock.seconds.get(step, 0.0) + value


def _random(ids: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    key = (ids.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    key ^= key >> np.uint64(27)
    key *= np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))
