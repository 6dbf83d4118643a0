"""The label file: append-only, last decision wins, strict reading; agreement of annotators."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean.quality.people import decision
from congling.clean.quality.labels import (
    Follower,
    LabelError,
    agreements,
    append,
    check_corpus,
    kappa,
    read,
    standing,
    text_hash,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made" / "labels.jsonl"


def labels(path):
    return [(d.annotator, d.text, d.label) for d in standing(read(path)).values()]


def test_rows_round_trip_and_hold_all_that_training_needs(path):
    row = decision("一段\n“话”\u2028", "high", note="好", time=2.25)
    append(path, row)
    assert read(path) == [row]
    keys = {"text", "hash", "id", "source", "label", "note", "annotator", "time", "corpus"}
    assert json.loads(path.read_bytes()).keys() == keys


def test_the_last_decision_counts_and_undo_is_a_row(path):
    for text, label, who in (("一", "high", "甲"), ("二", "low", "甲"), ("一", "mid", "乙"), ("一", "low", "甲")):
        append(path, decision(text, label, who))
    assert labels(path) == [("甲", "二", "low"), ("乙", "一", "mid"), ("甲", "一", "low")]
    before = path.read_bytes()
    append(path, decision("一", None))
    assert path.read_bytes().startswith(before)
    assert labels(path) == [("甲", "二", "low"), ("乙", "一", "mid")]
    assert not (path.parent / "nothing").exists()
    assert read(path.parent / "nothing") == []


@given(cut=st.integers(1, 10_000))
def test_a_torn_last_line_is_ignored_and_cut_off_by_the_next(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("torn") / "labels.jsonl"
    append(path, decision("一", "high"))
    whole = path.read_bytes()
    append(path, decision("二" * 100, "low"))
    both = path.read_bytes()
    cut = 1 + cut % (len(both) - len(whole))
    path.write_bytes(both[:-cut])
    stays = [("甲", "一", "high")] + ([("甲", "二" * 100, "low")] if cut == 1 else [])  # only its line break is gone
    assert labels(path) == stays
    append(path, decision("三", "mid"))
    assert labels(path) == [*stays, ("甲", "三", "mid")]
    assert path.read_bytes().startswith(whole)


def test_a_long_torn_line(path):
    append(path, decision("一", "high"))
    with open(path, "ab") as file:
        file.write(b'{"text": "' + b"x" * 300_000)
    append(path, decision("二", "low"))
    assert labels(path) == [("甲", "一", "high"), ("甲", "二", "low")]


def test_following_a_file_reads_what_is_new(path):
    follower = Follower(path)
    assert follower.rows() == []
    for n, text in enumerate("一二三"):
        append(path, decision(text, "high"))
        assert len(follower.rows()) == n + 1 == len(follower.rows())
    assert follower.rows() == read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "good"}, "label = 'good'"),
        ({"label": 1}, "label = '1'"),
        ({"hash": "00"}, "hash '00' is not that of the text"),
        ({"annotator": ""}, "annotator = ''"),
        ({"extra": 1}, "extra = '1'"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(path, change, message):
    append(path, decision("一", "high"))
    row = decision("二", "low").model_dump() | change
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(row, ensure_ascii=False) + "\n")
    with pytest.raises(LabelError, match=f"^{path}:3: {message}.*") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_broken_line_before_the_last_is_an_error(path):
    append(path, decision("一", "high"))
    path.write_bytes(b'{"text"\n' + path.read_bytes())
    with pytest.raises(LabelError, match=r"labels.jsonl:1: not JSON"):
        read(path)
    path.write_text(json.dumps({"text": "一"}) + "\n")
    with pytest.raises(LabelError, match=r"labels.jsonl:1: hash: Field required"):
        read(path)


def test_labels_of_another_corpus_are_refused_and_both_named(path):
    rows = [decision("一", "high", corpus="demo/clean@aaaa")]
    check_corpus(path, rows, "renamed/clean@aaaa")
    with pytest.raises(LabelError, match=r"labels.jsonl: .* demo/clean@aaaa, this one is big/clean@bbbb"):
        check_corpus(path, rows, "big/clean@bbbb")


def test_kappa_by_hand():
    # Two raters of 50 proposals: 20 and 15 alike, p_o = 0.7, p_e = 0.5·0.6 + 0.5·0.4 = 0.5, kappa = 0.4.
    assert kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert kappa(np.array([[0, 3], [3, 0]])) == pytest.approx(-1)
    assert kappa(np.array([[4, 0], [0, 0]])) is None


def test_agreement_lists_what_is_to_be_discussed():
    said = [("一", "high", "high"), ("二", "high", "mid"), ("三", "low", "high"), ("四", "low", "low")]
    rows = [decision(text, label, who) for text, a, b in said for label, who in ((a, "a"), (b, "b"))]
    rows += [decision("五", "low", "a"), decision("五", "low", "c"), decision("六", "mid", "b")]
    first, second = agreements(standing(rows))
    assert (first.first, first.second, first.both, first.share) == ("a", "b", 4, 0.5)
    # a: 2 high, 2 low; b: 2 high, 1 mid, 1 low. p_e = (2·2 + 2·1) / 16 = 3/8, kappa = (1/2 − 3/8) / (5/8) = 0.2.
    assert first.kappa == pytest.approx(0.2)
    assert first.disagreements == [text_hash("三"), text_hash("二")]
    assert (second.first, second.second, second.both, second.kappa) == ("a", "c", 1, None)
