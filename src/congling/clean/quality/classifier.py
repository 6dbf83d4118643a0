"""The classifier of quality: linear in hashed character runs, learned from labels, calibrated on what it has not seen.

Low, mid and high are in order, so one direction z and two bounds say it all: P(mid or high) = σ(a·z − b₀),
P(high) = σ(a·z − b₁), both learned at once (all-threshold loss, Rennie and Srebro 2005). One weight a bucket in place
of three, which is what a few hundred labels can fill. The score of a document is its expected worth, with low = 0,
mid = ½ and high = 1: the mean of the two probabilities.
"""

import json
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.quality.grams import BUCKETS, evidence, learn
from congling.clean.quality.labels import LABELS

MIN_LABELS = 20
FOLDS = 5
_REPEATED = 2000  # labels that cross-validation should see in all, by repeats
_EPOCHS = 10
_CV_LIMIT = 20_000  # labels; of more, one fold is held out once
_BALANCE = 5.0  # largest importance of a label for being rare
_BINS = 10  # of the reliability table
Floats = NDArray[np.float64]


class HeldOut(NamedTuple):
    """Documents as seen by a classifier that was trained and calibrated without them."""

    probabilities: Floats  # [M, 3]
    worth: Floats  # [M]: 0, ½, 1 by label
    weight: Floats  # [M]


@dataclass(frozen=True)
class Classifier:
    """``score`` of a document: 0 (surely low) to 1 (surely high); it stays when that is at least ``least``."""

    weights: NDArray[np.float32]  # [BUCKETS]
    slope: float
    bounds: Floats  # [2]
    least: float = 0.5
    report: dict[str, Any] = field(default_factory=dict)
    held_out: HeldOut | None = None  # not saved

    @classmethod
    def fit(cls, text: pa.Array, labels: NDArray[Any], seed: int, weight: Floats | None = None) -> "Classifier":
        """Learned from all N documents, not calibrated; arguments as of ``train``."""
        share, weight = _shares(labels), np.ones(len(text)) if weight is None else weight
        importance = weight * (share @ _balance(share, weight))
        order = np.concatenate([np.random.default_rng((seed, e)).permutation(len(text)) for e in range(_EPOCHS)])
        weights, bounds = learn(text, _targets(share), importance / max(importance.mean(), 1e-12), order)
        return cls(weights, 1.0, bounds)

    @classmethod
    def train(
        cls,
        text: pa.Array,
        labels: NDArray[Any],
        seed: int,
        weight: Floats | None = None,
        tested: NDArray[np.bool_] | None = None,
    ) -> "Classifier":
        """Learned from all N documents, calibrated and judged by cross-validation.

        labels: numbers into LABELS [N], or probabilities [N, 3]. weight: [N]. tested: [N], the only documents that are
        held out, all at once; by default all are in turn, FOLDS-fold by the hash of the text, repeatedly when there
        are few. Equal texts share a fold. Deterministic. Raises ValueError for fewer than MIN_LABELS documents, or of
        one class.
        """
        weight = np.ones(len(text)) if weight is None else weight
        share = _shares(labels)
        _check(share if tested is None else share[tested])
        z, rows, fold = _held_out(text, labels, seed, weight, tested)
        whole = cls.fit(text, labels, seed, weight)
        slope, bounds = _calibrate(z, share[rows], weight[rows])
        held = HeldOut(_cross_calibrated(z, share[rows], weight[rows], fold), share[rows] @ _WORTH, weight[rows])
        bounds = bounds + slope * whole.bounds.mean()  # as the folds were shifted
        return replace(whole, slope=slope, bounds=bounds, held_out=held, report=_figures(held, share))

    def probabilities(self, text: pa.Array) -> Floats:
        """P(low, mid, high) of N documents, [N, 3]."""
        return _probabilities(evidence(text, self.weights), self.slope, self.bounds)

    def score(self, text: pa.Array) -> NDArray[np.float32]:
        """Expected worth of N documents, float32 [N]."""
        return (self.probabilities(text) @ _WORTH).astype(np.float32)

    def keeping(self, keep: str | float, sample: pa.Array) -> "Classifier":
        """With ``least`` as ``quality_keep`` has it: "high" or "mid" (documents that are rather that than worse), a
        score, or a quantile ("q0.3") of the scores of ``sample``. The report gets precision and recall of it."""
        if keep in LABELS:
            z = np.array([self.bounds[LABELS.index(str(keep)) - 1] / self.slope])
            least = float((_probabilities(z, self.slope, self.bounds) @ _WORTH)[0])
        elif isinstance(keep, str):
            least = float(np.quantile(self.score(sample), float(keep[1:]))) if len(sample) else 0.0
        else:
            least = float(keep)
        report = {**self.report, "keep": {"asked": keep, "least": least, **_kept(self.held_out, least, keep == "high")}}
        return replace(self, least=least, report=report)

    def save(self, path: Path) -> None:
        """Writes an .npz, whole or not at all."""
        numbers = np.array([self.slope, *self.bounds, self.least])
        with atomic_open(path) as file:
            np.savez(file, weights=self.weights, numbers=numbers, report=np.array(json.dumps(self.report)))

    @classmethod
    def load(cls, path: Path) -> "Classifier":
        """Raises ValueError when the file is not a classifier."""
        try:
            with np.load(path, allow_pickle=False) as saved:
                weights, numbers, report = saved["weights"], saved["numbers"], json.loads(str(saved["report"]))
        except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path}: not a classifier ({error}); delete it and run the stage again") from None
        if weights.shape != (BUCKETS,) or numbers.shape != (4,):
            raise ValueError(f"{path}: a classifier of another version; delete it and run the stage again")
        return cls(weights, float(numbers[0]), numbers[1:3], float(numbers[3]), report)


_WORTH = np.array([0, 0.5, 1])


def _shares(labels: NDArray[Any]) -> Floats:
    """Probabilities [N, 3] of labels, which are these already or numbers."""
    return labels.astype(np.float64) if labels.ndim == 2 else np.eye(len(LABELS))[labels]


def _targets(share: Floats) -> Floats:
    """P(mid or high), P(high): [N, 2]."""
    return np.stack([share[:, 1] + share[:, 2], share[:, 2]], axis=1)


def _balance(share: Floats, weight: Floats) -> Floats:
    """Importance of each class [3], so that all weigh the same (within bounds)."""
    mass = weight @ share
    return np.minimum(mass.sum() / np.maximum(mass, 1e-9) / np.count_nonzero(mass), _BALANCE)


def _check(share: Floats) -> None:
    classes = len(np.unique(share.argmax(1)))
    if len(share) < MIN_LABELS or classes < 2:
        raise ValueError(
            f"{len(share)} labels of {classes} classes; a classifier needs {MIN_LABELS} of 2: label more documents"
        )


def _held_out(
    text: pa.Array, labels: NDArray[Any], seed: int, weight: Floats, tested: NDArray[np.bool_] | None
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """(z, row, fold) of documents under classifiers that did not see them; rows come once a repeat."""
    if tested is not None:
        folds = [np.where(tested, 0, -1)]
    else:
        repeats = int(np.clip(_REPEATED // len(text), 1, FOLDS))
        folds = [fold_of(text, seed + r) for r in range(repeats)]
    z, rows, numbers = [], [], []
    for fold in folds:
        for k in range(FOLDS if tested is None and len(text) <= _CV_LIMIT else 1):
            out, rest = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
            if not len(out):
                continue
            part = Classifier.fit(text.take(pa.array(rest)), labels[rest], seed, weight[rest])
            # Measured from its own bounds: where z has its zero differs from fold to fold.
            z.append(evidence(text.take(pa.array(out)), part.weights) - part.bounds.mean())
            rows.append(out)
            numbers.append(fold[out])
    return np.concatenate(z), np.concatenate(rows), np.concatenate(numbers)


def fold_of(text: pa.Array, seed: int, folds: int = FOLDS) -> NDArray[np.int64]:
    """A fold for each text [N], by its hash."""
    hashes = [xxhash.xxh3_64_intdigest(t.as_buffer(), seed) for t in text]
    return (np.array(hashes, np.uint64) % np.uint64(folds)).astype(np.int64)


def _probabilities(z: Floats, slope: float, bounds: Floats) -> Floats:
    above = _sigmoid(slope * z[:, None] - bounds)  # [N, 2]
    return np.stack([1 - above[:, 0], above[:, 0] - above[:, 1], above[:, 1]], axis=1)


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


def _calibrate(z: Floats, share: Floats, weight: Floats) -> tuple[float, Floats]:
    """(slope, bounds [2]) of the smallest loss, by Newton's method.

    Platt 1999, two bounds on one slope; targets smoothed as there, so that a class without examples is rare, not
    impossible.
    """
    targets = _targets(share)
    for k in range(2):
        yes = weight @ targets[:, k]
        no = weight.sum() - yes
        targets[:, k] = 1 / (no + 2) + targets[:, k] * ((yes + 1) / (yes + 2) - 1 / (no + 2))
    unit = max(float(z.std()), 1e-9)  # z may be tiny: Newton works on a comparable scale
    x = np.array([1.0, 0.0, 0.0])  # slope, bounds
    features = np.zeros((2, len(z), 3))
    features[:, :, 0] = z / unit
    features[0, :, 1] = features[1, :, 2] = -1
    for _ in range(50):
        gradient, curvature = np.array([1e-3 * x[0], 0, 0]), np.diag([1e-3, 1e-9, 1e-9])
        for k in range(2):
            p = _sigmoid(features[k] @ x)
            gradient += features[k].T @ ((p - targets[:, k]) * weight)
            curvature += (features[k] * (p * (1 - p) * weight)[:, None]).T @ features[k]
        step = np.linalg.solve(curvature, gradient)
        x -= step * min(1.0, 4 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return max(float(x[0]), 1e-3) / unit, np.array([min(x[1], x[2]), max(x[1], x[2])])


def _cross_calibrated(z: Floats, share: Floats, weight: Floats, fold: NDArray[np.int64]) -> Floats:
    """Probabilities [M, 3] of each fold by what the other folds say; of a single fold, by its own two halves."""
    part = fold if len(np.unique(fold)) > 1 else np.arange(len(fold)) % 2
    out = np.empty((len(z), 3))
    for k in np.unique(part):
        out[part == k] = _probabilities(z[part == k], *_calibrate(z[part != k], share[part != k], weight[part != k]))
    return out


def _figures(held: HeldOut, share: Floats) -> dict[str, Any]:
    """Accuracy, confusion [label, said], and how far scores can be believed."""
    truth, said = np.rint(held.worth * 2).astype(np.int64), held.probabilities.argmax(1)
    confusion = np.zeros((3, 3))
    np.add.at(confusion, (truth, said), held.weight)
    score = held.probabilities @ _WORTH
    place = np.minimum((score * _BINS).astype(np.int64), _BINS - 1)
    mass, scores, worths = (
        np.bincount(place, held.weight * v, _BINS) for v in (np.ones(len(score)), score, held.worth)
    )
    filled = mass > 0
    bins = [[float(m), float(s / m), float(w / m)] for m, s, w in zip(mass, scores, worths, strict=True) if m > 0]
    return {
        "documents": len(share),
        "labels": dict(zip(LABELS, np.bincount(share.argmax(1), minlength=3).tolist(), strict=True)),
        "held_out": len(score),  # decisions made on documents not seen
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "majority": float(confusion.sum(1).max() / confusion.sum()),  # accuracy of always saying the commonest
        "confusion": confusion.tolist(),  # [label, said], both low, mid, high
        "calibration_error": float(np.abs(scores - worths)[filled].sum() / mass.sum()),  # ECE of the score
        "reliability": bins,  # (documents, mean score, mean worth by people) by tenths of the score
    }


def _kept(held: HeldOut | None, least: float, only_high: bool) -> dict[str, float]:
    """Share kept, precision and recall of keeping what people call high (or: mid or high), on documents not seen."""
    if held is None:
        return {}
    good, kept = held.worth >= (1 if only_high else 0.5), held.probabilities @ _WORTH >= least
    right, weight = held.weight[good & kept].sum(), held.weight
    return {
        "share": float(weight[kept].sum() / weight.sum()),
        "precision": float(right / max(weight[kept].sum(), 1e-9)),
        "recall": float(right / max(weight[good].sum(), 1e-9)),
    }
