"""The page of a vocabulary: well-formed, nothing planted runs, and it does without whatever is missing."""

import re
import sys
from html.parser import HTMLParser

import pytest

from congling.report.vocabulary import EXAMPLES, write_page
from congling.reporter import Metrics
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary

PLANTED = "<img src=x>"


class Checker(HTMLParser):
    """Fails where an end does not match its beginning."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def tokenizer():
    pieces = ["的", "，", " ", "\n", "研究", "生命", "研究生", "命", PLANTED, '"&', "<script>alert(1)"]
    scores = [-1_000_000 * (n + 1) for n in range(len(pieces))]
    return Tokenizer(Vocabulary("congling", pieces, scores, [100 - n for n in range(len(pieces))]))


def read(path):
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "default-src 'none'" in page
    return page


def test_alone(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypinyin_dict.pinyin_data", None)
    monkeypatch.delitem(sys.modules, "pypinyin_dict.pinyin_data.ktghz2013", raising=False)
    page = read(write_page(tokenizer, None, [], [], tmp_path / "page.html"))
    assert page.count('class="text"') == len(EXAMPLES)
    for shown in (
        "没有训练记录",
        "没有给出文本文件",
        "pip install pypinyin pypinyin-dict",
        "GB 2312 一级汉字",
        "20,992",
    ):
        assert shown in page, shown
    assert "<figure" not in page


def test_with_everything(tokenizer, tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        lengths = {"1": 900 // step, "2": 50, "3": 0}
        metrics.write("round", step=step, pieces=950, pieces_by_length=lengths, bytes_per_token=4.5 - step)
    metrics.write("round", step="x", pieces_by_length=[1])
    file = tmp_path / "小说.txt"
    file.write_text(f"研究生命\n{PLANTED}\n" * 9, encoding="utf-8")
    texts = [f'研究生命的\n{PLANTED}<script>alert(1)</script>"&\u202e', "长。" * 400]
    page = read(write_page(tokenizer, tmp_path, texts, [file], tmp_path / "page.html", most_bytes=100))
    assert page.count("<figure") == 3
    assert "小说" in page
    assert "只读了开头部分" in page
    assert "文本较长" in page
    assert "\u202e" not in page
    assert 'data-margin="4.000"' in page  # 研究·生命 (−11 nats) against 研究生·命 (−15)
    assert "⏎" in page


def test_the_seeds_kind(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("甲\t5\n乙\t4\n甲乙\t3\n", encoding="utf-8")
    page = read(write_page(Tokenizer.from_seed(file), None, ["甲乙é", ""], [], tmp_path / "page.html"))
    assert "只显示实际的切法" in page
    assert 'class="others"' not in page


def test_no_page_for_a_broken_file(tokenizer, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "一"}\n{\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.jsonl.*2"):
        write_page(tokenizer, None, [], [file], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
