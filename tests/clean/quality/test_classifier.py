"""Hashed runs against a slow reference; training, calibration, keeping, files."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clean.quality.people import array, texts
from congling.clean.quality.classifier import Classifier, _calibrate, _probabilities, fold_of
from congling.clean.quality.grams import BUCKETS, CHARACTERS, evidence, learn

PRIME, MIX, U64 = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, (1 << 64) - 1


def fold(char):
    if char < " " and char != "\n":
        return " "
    return "0" if char in "0123456789" else char.lower() if char < "\x80" else char


def buckets(text):
    """(bucket, value) of each run, as the docstring has it."""
    codes = [1, 1, 1, *(ord(fold(c)) for c in text[:CHARACTERS])]
    for end in range(3, len(codes)):
        for size in range(1, 5):
            # The run and, before a text's first characters, a start mark.
            run, h = codes[max(end - size + 1, 2) : end + 1], 0
            for code in run:
                h = (h * PRIME + code) & U64
            yield ((h * MIX) & U64) >> 46, 0.5 ** (size - 1)


def slow_evidence(text, weights):
    runs = list(buckets(text))
    return sum(value * float(weights[bucket]) for bucket, value in runs) / max(len(runs), 1) ** 0.5


def slow_learn(documents, targets, importance, order):
    """AdaGrad as in Duchi et al. 2011 with a dictionary a document."""
    weights, squares = np.zeros(BUCKETS, np.float32), np.full(BUCKETS, 0.01)
    bounds, bound_squares = np.zeros(2), np.full(2, 1e-8)
    for d in order:
        runs, values = list(buckets(documents[d])), {}
        for bucket, value in runs:
            values[bucket] = values.get(bucket, 0) + value / len(runs) ** 0.5
        z = sum(float(weights[b]) * v for b, v in values.items())
        gradient = (1 / (1 + np.exp(bounds - z)) - targets[d]) * importance[d]
        bound_squares += gradient**2
        bounds += 0.1 * gradient / np.sqrt(bound_squares)
        for b, v in values.items():
            squares[b] += (gradient.sum() * v) ** 2
            weights[b] -= 0.1 * gradient.sum() * v / np.sqrt(squares[b])
    return weights, bounds


@settings(max_examples=50)
@given(st.lists(st.text(max_size=30), max_size=4))
def test_evidence_is_that_of_the_slow_reference(documents):
    weights = np.random.default_rng(0).normal(size=BUCKETS).astype(np.float32)
    found = evidence(array(documents), weights)
    np.testing.assert_allclose(found, [slow_evidence(t, weights) for t in documents], rtol=1e-9, atol=1e-12)


def test_a_slice_and_a_long_text():
    weights = np.random.default_rng(0).normal(size=BUCKETS).astype(np.float32)
    documents = array(["头", "一二三" * 4000, "Ab1\t尾"])
    found = evidence(documents[1:], weights)
    np.testing.assert_allclose(found, [slow_evidence(t, weights) for t in documents[1:].to_pylist()])
    assert found[0] == evidence(array(["一二三" * 4000 + "四"]), weights)[0]


def test_learning_is_that_of_the_slow_reference():
    documents, labels = texts(12)
    targets = np.stack([np.array(labels) >= 1, np.array(labels) == 2], 1).astype(float)
    importance, order = np.linspace(0.5, 2, 12), np.random.default_rng(1).permutation(np.repeat(np.arange(12), 3))
    found, bounds = learn(array(documents), targets, importance, order)
    weights, expected = slow_learn(documents, targets, importance, order)
    np.testing.assert_allclose(found, weights, atol=1e-6)
    np.testing.assert_allclose(bounds, expected, rtol=1e-5)


def test_training_tells_the_classes_apart_and_repeats():
    documents, labels = texts(120)
    trained = [Classifier.train(array(documents), np.array(labels), 1) for _ in range(2)]
    assert np.array_equal(trained[0].weights, trained[1].weights)
    assert trained[0].report == trained[1].report
    report = trained[0].report
    assert report["accuracy"] > 0.9 > 0.5 > report["majority"]
    assert report["labels"] == {"low": 40, "mid": 40, "high": 40}
    assert report["held_out"] == 600  # five repeats
    assert np.sum(report["confusion"]) == pytest.approx(600)
    assert np.trace(report["confusion"]) == pytest.approx(report["accuracy"] * 600)
    new, truth = texts(60, seed=9)
    p = trained[0].probabilities(array(new))
    np.testing.assert_allclose(p.sum(1), 1)
    assert (p >= 0).all()
    assert (p.argmax(1) == truth).mean() > 0.9
    score = trained[0].score(array(new))
    assert score.dtype == np.float32
    np.testing.assert_allclose(score, p[:, 2] + p[:, 1] / 2, rtol=1e-5)
    assert not np.array_equal(Classifier.train(array(documents), np.array(labels), 2).weights, trained[0].weights)


def test_labels_may_be_probabilities_and_only_some_documents_tested():
    documents, labels = texts(90)
    soft = 0.9 * np.eye(3)[labels] + 0.1 / 3
    tested = np.arange(90) < 30
    found = Classifier.train(array(documents), np.where(tested[:, None], np.eye(3)[labels], soft), 1, tested=tested)
    assert found.report["held_out"] == 30
    assert found.report["accuracy"] > 0.8


def test_noise_gets_no_confidence():
    documents, labels = texts(150)
    shuffled = np.random.default_rng(3).permutation(labels)
    report = Classifier.train(array(documents), shuffled, 1).report
    assert report["accuracy"] < 0.5
    assert report["calibration_error"] < 0.12
    assert all(0.2 < score < 0.8 for _, score, _ in report["reliability"])


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_two_classes_will_do(missing):
    documents, labels = texts(90)
    rows = [n for n in range(90) if labels[n] != missing]
    found = Classifier.train(array([documents[n] for n in rows]), np.array([labels[n] for n in rows]), 1)
    assert found.report["accuracy"] > 0.9
    assert found.probabilities(array(documents))[:, missing].mean() < 0.15


@pytest.mark.parametrize("labels", [[0, 1] * 9, [1] * 30])
def test_too_few_labels(labels):
    with pytest.raises(ValueError, match=f"{len(labels)} labels of {len(set(labels))} classes; a classifier needs 20"):
        Classifier.train(array([f"文{n}" for n in range(len(labels))]), np.array(labels), 1)


def test_calibration_finds_the_truth():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 0.01, 20_000)
    truth = _probabilities(z, 300.0, np.array([-0.5, 1.0]))
    labels = (rng.random(len(z))[:, None] > np.cumsum(truth, 1)).sum(1)
    slope, bounds = _calibrate(z, np.eye(3)[labels], np.ones(len(z)))
    assert slope == pytest.approx(300, rel=0.05)
    np.testing.assert_allclose(bounds, [-0.5, 1.0], atol=0.08)
    # Weights count as copies do.
    twice = np.where(np.arange(len(z)) < 500, 2.0, 1.0)
    copies = np.r_[np.arange(500), np.arange(len(z))]
    a = _calibrate(z, np.eye(3)[labels], twice)
    b = _calibrate(z[copies], np.eye(3)[labels[copies]], np.ones(len(copies)))
    assert a[0] == pytest.approx(b[0])


def test_what_stays():
    documents, labels = texts(120)
    found = Classifier.train(array(documents), np.array(labels), 1)
    p, score = found.probabilities(array(documents)), found.score(array(documents))
    high, mid = found.keeping("high", array([])), found.keeping("mid", array([]))
    assert mid.least < high.least
    np.testing.assert_array_equal(score >= high.least, p[:, 2] >= 0.5)
    np.testing.assert_array_equal(score >= mid.least, p[:, 1] + p[:, 2] >= 0.5)
    assert found.keeping(0.25, array([])).least == 0.25
    third = found.keeping("q0.3", array(documents))
    assert (score < third.least).mean() == pytest.approx(0.3, abs=0.02)
    kept = high.report["keep"]
    assert kept["asked"] == "high"
    assert min(kept["precision"], kept["recall"]) > 0.8
    assert kept["share"] == pytest.approx(1 / 3, abs=0.1)
    assert found.keeping(1.0, array([])).report["keep"]["recall"] == 0


def test_saved_and_loaded(tmp_path):
    documents, labels = texts(60)
    found = Classifier.train(array(documents), np.array(labels), 1).keeping("mid", array([]))
    path = tmp_path / "classifier.npz"
    found.save(path)
    first = path.read_bytes()
    again = Classifier.load(path)
    assert (again.least, again.report) == (found.least, found.report)
    np.testing.assert_array_equal(again.score(array(documents)), found.score(array(documents)))
    again.save(path)
    assert path.read_bytes() == first
    for broken in (b"", first[:100], b"PK" + bytes(200)):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"classifier.npz: not a classifier"):
            Classifier.load(path)
    np.savez(path, weights=np.zeros(8, np.float32), numbers=np.zeros(4), report=np.array("{}"))
    with pytest.raises(ValueError, match="another version"):
        Classifier.load(path)


def test_equal_texts_share_a_fold():
    folds = fold_of(pa.array(["甲", "乙", "甲"], pa.large_string()), 1)
    assert folds[0] == folds[2]
    many = fold_of(array([str(n) for n in range(5000)]), 1)
    assert np.bincount(many).min() > 850
