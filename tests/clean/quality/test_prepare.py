"""From label files to the classifier of pass 3, with and without a teacher."""

import subprocess
import sys

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from clean.quality.people import array, decision, texts, write_labels
from congling.artifact import ArtifactError
from congling.clean.config import CleanConfig
from congling.clean.quality.labels import LabelError, append
from congling.clean.quality.prepare import _examples, load_decisions, prepare
from congling.clean.quality.teacher import fine_tune
from congling.model.config import ModelConfig
from congling.model.folder import save_model
from congling.model.transformer import Transformer
from congling.reporter import Reporter
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory):
    """A model with a vocabulary of its own, untrained."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    pieces = sorted({c for text in texts(30)[0] for c in text if c > "\x7f"})
    tokenizer = Tokenizer(Vocabulary("congling", pieces, [-1_000_000] * len(pieces), [9] * len(pieces)))
    vocabulary = tokenizer.save(folder)
    dims = {"dim": 32, "num_layers": 1, "num_heads": 2, "head_dim": 16, "ffn_dim": 32, "dropout": 0.1}
    save_model(folder, Transformer(ModelConfig(**dims).resolve(tokenizer.vocab_size), 1), vocabulary)
    return folder


def test_nothing_without_labels(tmp_path):
    assert prepare(CleanConfig(), array([]), tmp_path, 1, QUIET) is None


def test_a_classifier_from_labels_is_kept_and_used_again(tmp_path):
    path = write_labels(tmp_path / "labels.jsonl", 90)
    config = CleanConfig(labels=(str(path),), quality_keep="q0.5")
    sample = array(texts(60, seed=4)[0])
    found = prepare(config, sample, tmp_path, 1, QUIET)
    assert (found.score(sample) < found.least).mean() == pytest.approx(0.5, abs=0.05)
    assert found.report["accuracy"] > 0.8
    assert found.report["people"] == {"annotators": {"甲": 90}, "agreement": []}
    first = (tmp_path / "classifier.npz").read_bytes()
    path.unlink()  # a resumed run does not learn again
    assert prepare(config, sample, tmp_path, 1, QUIET).least == found.least
    (tmp_path / "classifier.npz").unlink()
    write_labels(path, 90)
    prepare(config, sample, tmp_path, 1, QUIET)
    assert (tmp_path / "classifier.npz").read_bytes() == first


def test_two_people_on_one_text_weigh_as_one_and_texts_are_normalised(tmp_path):
    rows = [decision("一", "high"), decision("一", "mid", "乙"), decision("二", "low")]
    text, labels, weight = _examples(rows, lambda texts: pc.binary_repeat(texts, 2))
    assert (text.to_pylist(), labels.tolist(), weight.tolist()) == (["一一", "一一", "二二"], [2, 1, 0], [0.5, 0.5, 1])


def test_agreement_is_told(tmp_path):
    path = write_labels(tmp_path / "labels.jsonl", 30)
    write_labels(path, 20, annotator="乙")
    append(path, decision(texts(20)[0][0], "high", "乙"))  # a low one
    found = prepare(CleanConfig(labels=(str(path),)), array([]), tmp_path, 1, QUIET)
    [pair] = found.report["people"]["agreement"]
    assert (pair["annotators"], pair["both"], pair["share"]) == (["乙", "甲"], 20, 0.95)


def test_bad_labels_are_told_early(tmp_path):
    with pytest.raises(LabelError, match=r"clean.labels: none.jsonl: no such file; congling label CORPUS"):
        load_decisions(CleanConfig(labels=("none.jsonl",)))
    path = write_labels(tmp_path / "labels.jsonl", 12)
    with pytest.raises(LabelError, match=r"labels.jsonl: 12 decisions, 3 classes; 20 of 2 classes are needed"):
        load_decisions(CleanConfig(labels=(str(path),)))


def test_a_teacher_learns_and_the_student_learns_from_it(tmp_path, teacher_folder):
    path = write_labels(tmp_path / "labels.jsonl", 120)
    config = CleanConfig(labels=(str(path),), teacher=str(teacher_folder), teacher_documents=50)
    sample = array(texts(60, seed=4)[0])
    found = prepare(config, sample, tmp_path, 1, QUIET)
    report = found.report["teacher"]
    assert report["documents"] == 50
    assert report["accuracy"] > 0.6
    assert found.report["accuracy"] > 0.6
    assert 0 <= report["student_alone"] <= 1
    assert found.report["documents"] == 120 + 50
    assert found.report["held_out"] < 40
    first = (tmp_path / "classifier.npz").read_bytes()
    (tmp_path / "classifier.npz").unlink()
    no_teacher = config.model_copy(update={"teacher": str(tmp_path / "gone")})  # what it said is kept
    prepare(no_teacher, sample, tmp_path, 1, QUIET)
    assert (tmp_path / "classifier.npz").read_bytes() == first


def test_the_same_seed_gives_the_same_teacher(teacher_folder):
    documents, labels = texts(40)
    stop = np.arange(40) % 5 == 0
    new = array(["", *texts(9, seed=2)[0]])
    said = []
    for seed in (1, 1, 2):
        teacher = fine_tune(teacher_folder, array(documents), np.array(labels), stop, seed, QUIET)
        said.append(teacher.probabilities(new))
    np.testing.assert_array_equal(said[0], said[1])
    assert not np.array_equal(said[0], said[2])
    np.testing.assert_allclose(said[0].sum(1), 1, rtol=1e-5)
    assert 1 <= teacher.report["epochs"] <= len(teacher.report["losses"])
    one = np.concatenate([teacher.probabilities(new[n : n + 1]) for n in range(len(new))])
    np.testing.assert_allclose(one, said[2], atol=1e-5)  # padding changes nothing


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ArtifactError, match="no model in it"):
        fine_tune(tmp_path, array(["一"] * 4), np.zeros(4, np.int64), np.arange(4) < 1, 1, QUIET)
    with pytest.raises(ValueError, match="4 labels are too few for a teacher"):
        fine_tune(tmp_path, array(["一"] * 4), np.zeros(4, np.int64), np.zeros(4, np.bool_), 1, QUIET)


def test_labels_alone_need_no_torch():
    code = "import sys, congling.clean.quality.prepare, congling.clean.quality.page; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
