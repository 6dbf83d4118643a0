"""From label files to the classifier that pass 3 asks."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.config import CleanConfig
from congling.clean.quality.classifier import MIN_LABELS, Classifier, fold_of
from congling.clean.quality.labels import Decision, LabelError, agreements, read, standing
from congling.reporter import Reporter

CLASSIFIER, TEACHER = "classifier.npz", "teacher.npz"
_TENTHS = 10  # of the labels, when there is a teacher: two test it and the student, one ends its training


def prepare(
    config: CleanConfig,
    sample: pa.Array,
    folder: Path,
    seed: int,
    reporter: Reporter,
    normalise: Callable[[pa.Array], pa.Array] = lambda text: text,
) -> Classifier | None:
    """The classifier that ``config.labels`` make, kept in ``folder``; None without labels.

    sample: texts of the corpus as pass 3 will show them: quantiles are taken of them, and a teacher labels the first
    ``teacher_documents``. normalise: what the corpus went through, so that people's texts look like it. What an earlier
    try left in ``folder`` is used. Raises ValueError in one line when the labels do not do.
    """
    if not config.labels:
        return None
    if (folder / CLASSIFIER).exists():
        return Classifier.load(folder / CLASSIFIER)
    decisions = load_decisions(config)
    text, labels, weight = _examples(decisions, normalise)
    if config.teacher:
        classifier = _student(config, text, labels, weight, sample, folder, seed, reporter)
    else:
        classifier = Classifier.train(text, labels, seed, weight)
    classifier = classifier.keeping(config.quality_keep, sample)
    classifier.report["people"] = _people(decisions)
    classifier.save(folder / CLASSIFIER)
    reporter.line(
        f"quality: {len(decisions)} labels, accuracy {classifier.report['accuracy']:.2f} on documents not seen "
        f"(always the commonest label: {classifier.report['majority']:.2f})"
    )
    return classifier


def load_decisions(config: CleanConfig) -> list[Decision]:
    """The decisions that stand in ``config.labels``. Quick: to be called before hours of work depend on it.

    Raises LabelError for a file that is missing or broken, and when the labels are too few.
    """
    rows = []
    for name in config.labels:
        if not Path(name).is_file():
            raise LabelError(f"clean.labels: {name}: no such file; congling label CORPUS label.labels={name} makes it")
        rows += read(Path(name))
    decisions = list(standing(rows).values())
    classes = {d.label for d in decisions}
    if len(decisions) < MIN_LABELS or len(classes) < 2:
        raise LabelError(
            f"clean.labels: {', '.join(config.labels)}: {len(decisions)} decisions, {len(classes)} classes; "
            f"{MIN_LABELS} of 2 classes are needed: label more documents"
        )
    return decisions


def _examples(
    decisions: Sequence[Decision], normalise: Callable[[pa.Array], pa.Array]
) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.float64]]:
    """Texts, labels and weights; a text that several people labelled weighs as much as one that one did."""
    shared = Counter(d.hash for d in decisions)
    text = normalise(pa.array([d.text for d in decisions], pa.large_string()))
    return text, np.array([d.number for d in decisions]), np.array([1 / shared[d.hash] for d in decisions])


def _student(
    config: CleanConfig,
    text: pa.Array,
    labels: NDArray[np.int64],
    weight: NDArray[np.float64],
    sample: pa.Array,
    folder: Path,
    seed: int,
    reporter: Reporter,
) -> Classifier:
    """A classifier that learned from people and from the teacher; tested where neither learned."""
    tenth = fold_of(text, seed, _TENTHS)
    tested, known = tenth < 2, np.eye(3)[labels]
    taught = sample.slice(0, config.teacher_documents)
    said, report = _taught(config, text, labels, tenth, taught, folder, seed, reporter)
    alone = Classifier.train(text, labels, seed, weight, tested)
    student = Classifier.train(
        pa.concat_arrays([text.cast(pa.large_string()), taught.cast(pa.large_string())]),
        np.concatenate([known, said]),
        seed,
        np.concatenate([weight, np.ones(len(taught))]),
        np.concatenate([tested, np.zeros(len(taught), np.bool_)]),
    )
    student.report["teacher"] = {**report, "student_alone": alone.report["accuracy"]}
    return student


def _taught(
    config: CleanConfig,
    text: pa.Array,
    labels: NDArray[np.int64],
    tenth: NDArray[np.int64],
    sample: pa.Array,
    folder: Path,
    seed: int,
    reporter: Reporter,
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """(what the teacher says of ``sample`` [M, 3], its report); kept, so that a resumed run does not ask again."""
    path = folder / TEACHER
    if not path.exists():
        from congling.clean.quality.teacher import fine_tune  # torch, only where it is needed

        tested = tenth < 2
        learned = np.flatnonzero(~tested)
        teacher = fine_tune(
            Path(config.teacher), text.take(pa.array(learned)), labels[learned], tenth[learned] == 2, seed, reporter
        )
        right = teacher.probabilities(text.filter(pa.array(tested))).argmax(1) == labels[tested]
        report = {"model": config.teacher, "documents": len(sample), "accuracy": float(right.mean()), **teacher.report}
        with atomic_open(path) as file:
            np.savez(file, said=teacher.probabilities(sample, reporter), report=np.array(json.dumps(report)))
    with np.load(path, allow_pickle=False) as saved:
        return saved["said"], json.loads(str(saved["report"]))


def _people(decisions: Sequence[Decision]) -> dict[str, Any]:
    """Decisions by annotator, and how far annotators agree."""
    found = agreements({(d.annotator, d.hash): d for d in decisions})
    pairs = [{"annotators": [a.first, a.second], "both": a.both, "share": a.share, "kappa": a.kappa} for a in found]
    return {"annotators": dict(Counter(d.annotator for d in decisions)), "agreement": pairs}
