"""The page of a cleaning: whole, small, nothing planted runs, and it does without whatever is missing."""

import re

import numpy as np
import pytest

from congling.artifact import ArtifactError
from congling.clean.normalise import CHANGES
from congling.clean.privacy import KINDS
from congling.clean.quality.labels import LABELS
from congling.clean.rules import RULES, bin_edges
from congling.report import words
from congling.report.charts import histogram as draw
from congling.report.cleaning import write_page
from congling.report.cleaning_parts import _BARS, _thinned, visible
from congling.report.html import Html
from congling.report.run import build
from report.fake_cleaning import make_cleaning
from report.fake_run import PLANTED, make_run
from report.test_vocabulary import Checker


def read(path):
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert PLANTED not in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    return page


def test_with_everything(tmp_path):
    folder = make_cleaning(tmp_path)
    path = write_page(folder)
    assert path == folder.parent / "clean.html"
    page = read(path)
    assert page.count('class="bars"') == len({rule.what for rule in RULES}) + 1  # and the scores
    for shown in (
        "68,770 → 50,084",
        "文内剪去",
        "a_new_change",
        "手机号",
        "共 162 组",
        "513–1,024",
        "3，&lt;script&gt;",  # the text that stands for others
        "后来也去掉了：",
        "cmmlu 17",
        "3 道题；其中 1 道太短",
        "短语来自",
        f"congling clean explain 100 run.name=demo run.dir={tmp_path}",
        "a new step",
        "5 种行",
        "版权所有&lt;script&gt;",
        "还有 22 行",
        "evidence/adverts.tsv",
        "由 340 个标注学成",
        "κ 0.71",
        "runs/x/sft",
    ):
        assert shown in page, shown
    assert write_page(folder).read_text(encoding="utf-8") == page


def test_with_little(tmp_path):
    page = read(write_page(make_cleaning(tmp_path, rich=False)))
    for shown in ("没有发现重复", "没有给出评测集", "没有去找", "没有标注"):
        assert shown in page, shown


def test_many_reasons_make_no_large_page(tmp_path):
    path = write_page(make_cleaning(tmp_path, reasons=len(RULES), length=1200))
    assert path.stat().st_size < 3_000_000
    read(path)


def test_unfinished_stage_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="clean"):
        write_page(tmp_path / "demo" / "clean")


def test_the_run_page_links_to_it(tmp_path):
    folder = make_run(tmp_path, upto="clean")
    assert '<a href="clean.html">' not in build(folder)
    (folder / "clean.html").touch()
    assert '<a href="clean.html">' in build(folder)


def test_words_for_everything():
    assert set(words.CHANGES) >= set(CHANGES)
    assert set(words.MASKED) >= set(KINDS)
    assert set(words.LABELS) == set(LABELS)


def test_hidden_characters_are_seen():
    assert visible("甲\u202e乙\x00\n丙\t") == "甲⟨U+202E⟩乙⟨U+0000⟩\n丙\t"


def test_bars_are_few_lose_nothing_and_reach_the_limits():
    share = bin_edges(RULES[0])
    for used, marks in (([0], []), ([3, 2047], [0.5]), ([700], [0.9]), ([5], [1e9]), ([], [])):
        counts = np.zeros((2, len(share) - 1), np.int64)
        counts[:, used] = 7
        edges, bars = _thinned(counts, share, marks)
        assert len(edges) == bars.shape[1] + 1 <= _BARS + 1
        assert bars.sum() == counts.sum()
        assert edges == sorted(set(edges))
        assert all(edges[0] <= m <= edges[-1] for m in marks if m <= 1)


def test_limits_stand_at_their_values():
    chart = draw(Html("t"), Html(""), [0, 0.5, 1], [10, 1000], [0, 1000], (0.25, None))
    x = float(re.search(r'class="limit" x1="([\d.]+)"', chart)[1])
    assert x == pytest.approx(40 + 0.25 * (330 - 14 - 40), abs=0.1)
    assert re.findall(r'class="(before|after|beyond)"', chart) == ["beyond", "before", "after"]
    assert draw(Html("t"), Html(""), [1, 10, 100], [0, 0], [0, 0], (0, 1e9), log=True)  # no document, limits far away
