"""The counts by hand, and against slow Python on any text."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.clean import statistics
from congling.clean.characters import LETTER, WHITESPACE, class_table
from congling.clean.statistics import REPEATED_GRAMS, TOP_GRAMS, measure

FIELDS = ("characters", "han", "ascii_letters", "digits", "punctuation", "commas", "repeated_lines")
FIELDS += ("repeated_paragraphs", "listed", "unfinished", "teasers", "linked", "stuffed", "letters")


def _measure(*texts):
    return measure(pa.array(texts, pa.large_string()))


def _one(text, field):
    return int(getattr(_measure(text), field)[0])


# -- slow references


def _class(c):
    return class_table()[ord(c)]


def _letters(text):
    return [c.lower() if c.isascii() else c for c in text if _class(c) <= LETTER]


def _lines(text):
    lines = ("".join(c for c in line if _class(c) < WHITESPACE) for line in text.split("\n"))
    return [line for line in lines if line]


def _slow_repeated_lines(text, least):
    seen, found = set(), 0
    for line in _lines(text):
        found += len(line) if line in seen and len(line) >= least else 0
        seen.add(line)
    return found


def _slow_unfinished(text):
    ends = "。.！？!?…⋯;；．｡”’」』\"'"
    found = 0
    for line in _lines(text) if len(_lines(text)) > 1 else ():
        if len(line) >= 50 and line[-1] not in ends + ":：）)》】]}>〉〕":
            found += len(line) - 1 - max(line.rfind(c) for c in ends)
    return found


def _slow_teasers(text):
    found = 0
    for line in _lines(text) if len(_lines(text)) > 1 else ():
        inner = line.rstrip("]】)）>»》")
        teaser = inner.endswith(("全文", "展开", "更多", "详细", "详情", "..", "…")) and not inner.endswith("……")
        found += len(line) if teaser else 0
    return found


def _slow_top(text, n):
    letters = _letters(text)[: statistics.TOP_SAMPLE]
    grams = Counter(tuple(letters[i : i + n]) for i in range(len(letters) - n + 1))
    return max(grams.values(), default=1) - 1


def _slow_repeated(text, n, exact):
    """Letters that are not ASCII in n-grams that came before: at the latest place of its first 5, or anywhere."""
    letters = _letters(text)
    covered, places, seen, i = set(), {}, set(), 0
    while i + 5 <= len(letters):
        gram, step = tuple(letters[i : i + (n if exact else 5)]), 1
        if exact:
            covered.update(range(i, i + n) if gram in seen and len(gram) == n else ())
            seen.add(gram)
        else:
            if gram in places:
                length, place = 0, places[gram]
                while i + length < len(letters) and letters[i + length] == letters[place + length]:
                    length += 1
                covered.update(range(i, i + length) if length >= n else ())
                step = max(1, length - 9)
            places[gram] = i
        i += step
    return sum(not letters[k].isascii() for k in covered)


TEXT = st.text(st.sampled_from("甲乙丙aB1，。、,.…！“”_ \n\t😀𠀀éー[]"), max_size=120)
FEW = st.text(st.sampled_from("甲乙a"), max_size=150)
COPIES = st.lists(
    st.sampled_from(["春眠不觉晓，", "处处闻啼鸟。", "夜来风雨声\n", "ab 花落知多少", "x", "全文\n"]), max_size=40
)
ANY = st.one_of(TEXT, FEW, COPIES.map("".join))


@given(st.lists(ANY, max_size=6))
@settings(max_examples=300, deadline=None)
def test_classes_lines_and_grams_are_those_of_slow_python(texts):
    counts = _measure(*texts)
    for d, text in enumerate(texts):
        characters = [c for c in text if _class(c) < WHITESPACE]
        assert counts.characters[d] == len(characters)
        assert counts.letters[d] == len(_letters(text))
        assert counts.punctuation[d] == sum(_class(c) == LETTER + 1 for c in characters)
        assert counts.commas[d] == sum(c in "，。,." for c in characters)
        assert counts.ascii_letters[d] == sum(c.isascii() and c.isalpha() for c in characters)
        assert counts.repeated_lines[d] == _slow_repeated_lines(text, 1)
        assert counts.repeated_paragraphs[d] == _slow_repeated_lines(text, 50)
        assert counts.unfinished[d] == _slow_unfinished(text)
        assert counts.teasers[d] == _slow_teasers(text)
        assert counts.top[d].tolist() == [_slow_top(text, n) for n in TOP_GRAMS]
        assert counts.repeated[d].tolist() == [_slow_repeated(text, n, exact=False) for n in REPEATED_GRAMS]


@given(ANY)
@settings(max_examples=200, deadline=None)
def test_repeated_grams_are_exact_for_five_and_never_too_many(text):
    found = _measure(text).repeated[0].tolist()
    exact = [_slow_repeated(text, n, exact=True) for n in REPEATED_GRAMS]
    assert found[0] == exact[0]
    assert all(f <= e for f, e in zip(found, exact, strict=True))


def test_most_of_what_repeats_is_found():
    random = np.random.default_rng(0)
    words = ["".join(map(chr, random.integers(0x4E00, 0x5400, n))) for n in random.integers(2, 9, 300)]
    text = "".join(words[i] for i in random.zipf(1.3, 4000) % 300)
    found = _measure(text).repeated[0]
    exact = np.array([_slow_repeated(text, n, exact=True) for n in REPEATED_GRAMS])
    assert (found >= 0.75 * exact).all()  # harder than any real text: nine tenths of it repeat


def test_a_document_does_not_depend_on_its_neighbours():
    texts = ["", "中文，" * 30, "a b\n" * 9, "", "好" * 6000, "甲乙丙丁戊己"]
    together = _measure(*texts)
    sliced = measure(pa.array(["前文", *texts], pa.large_string())[1:])
    for field in (*FIELDS, "top", "repeated"):
        alone = [getattr(_measure(text), field)[0].tolist() for text in texts]
        assert getattr(together, field).tolist() == alone
        assert getattr(sliced, field).tolist() == alone


def test_counts_by_hand():
    counts = _measure("", "中文 abC，1\n中文 abC，1\n。", "々〆𠀀é😀")
    assert counts.characters.tolist() == [0, 15, 5]
    assert counts.han.tolist() == [0, 4, 3]
    assert counts.ascii_letters.tolist() == [0, 6, 0]
    assert counts.digits.tolist() == [0, 2, 0]
    assert counts.punctuation.tolist() == [0, 3, 0]
    assert counts.commas.tolist() == [0, 3, 0]
    assert counts.repeated_lines.tolist() == [0, 7, 0]
    assert counts.letters.tolist() == [0, 12, 5]
    assert counts.top.tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert counts.repeated.tolist() == [[0] * 6, [2, 2, 0, 0, 0, 0], [0] * 6]


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("首页\n新闻\n关于 我们|联系", 11),
        ("首页。\n新闻：\n（完）\n好！", 0),
        ("一" * 19 + "\n" + "二" * 20 + "\n完。", 19),
        ("首页\n新闻", 0),  # two lines are no list
        ("", 0),
    ],
)
def test_short_lines_without_an_end(text, listed):
    assert _one(text, "listed") == listed


@pytest.mark.parametrize(
    ("text", "unfinished"),
    [
        ("字" * 50, 50),
        ("字" * 49, 0),
        ("字" * 20 + "。" + "字" * 30, 30),
        ("字" * 50 + "。", 0),
        ("字" * 50 + "：", 0),
        ("字" * 50 + "，", 51),
    ],
)
def test_what_stands_behind_the_last_sentence(text, unfinished):
    assert _one(f"{text}\n好。", "unfinished") == unfinished
    assert _one(text, "unfinished") == 0  # people end a remark of one line without a mark


@pytest.mark.parametrize("text", ["今天…", "今天...", "详见【阅读全文】", "查看更多 >>", "展开"])
def test_lines_that_are_cut_off(text):
    assert _one(f"好。\n{text}\n好。", "teasers") == len(re.sub(r"\s", "", text))
    assert _one(text, "teasers") == 0


@pytest.mark.parametrize("text", ["今天……", "今天。", "全文。", "更多的人", ""])
def test_lines_that_are_not_cut_off(text):
    assert _one(text, "teasers") == 0


def test_lines_with_an_address():
    assert _one("见 https://a.cn/b 吧\n好。\nc//d e:/f", "linked") == len("见https://a.cn/b吧")


@pytest.mark.parametrize(
    ("text", "stuffed"),
    [
        ("手机、电脑、相机、耳机、音箱、键盘", 12),
        ("手机 电脑/相机|耳机_音箱#键盘", 12),
        ("房间不大,服务热情,早餐一般,位置方便,价格公道,下次再来", 0),  # commas, as some write them
        ("手机、电脑、相机、耳机、音箱", 0),  # five
        ("手机、电脑、相机、耳机、音箱、" + "长" * 9, 0),
        ("好，手机、电脑、相机、耳机、音箱、键盘。好、坏", 12),
        ("春眠不觉晓，处处闻啼鸟。" * 4, 0),
        ("the cat sat on the mat and ate", 0),
        ("甲 、 乙、、丙 | 丁\t戊　己", 6),
        ("手机、电脑、相机\n耳机、音箱、键盘", 0),
        ("the cat　sat on　the mat　and ate", 0),  # wide spaces between words
        ("甲　乙\u2003丙　丁　戊　己", 6),
    ],
)
def test_word_lists(text, stuffed):
    assert _one(text, "stuffed") == stuffed


@pytest.mark.parametrize("before", range(4085, 4100))
def test_a_long_line_is_counted_as_a_short_one(before):
    """Its marks are counted a block of 4096 bytes at a time."""
    text = "a" * before + "。手机、电脑/相机|耳机_音箱#键盘。见 https://a.cn" + "字" * 60
    counts = _measure(f"{text}\n好。")
    assert counts.stuffed.tolist() == [12]
    assert counts.linked.tolist() == [len(text) - 1]
    assert counts.characters.tolist() == [len(text) + 1]
    assert counts.punctuation.tolist() == [12]
    assert counts.unfinished.tolist() == [62]


def test_samples_are_bounded(monkeypatch):
    random = np.random.default_rng(0)
    new = "".join(map(chr, random.integers(0x4E00, 0x9FA0, 60_000)))
    counts = _measure(new + new, "头" * 10 + new[:5000] + "尾巴" * 500)
    assert counts.letters.tolist() == [50_000, 6010]
    assert counts.repeated[0].max() < 50  # chance; the copy is behind the sample
    assert counts.top[1].tolist() == [8, 7, 6]  # what is behind 4096 letters is not counted
    assert 980 <= counts.repeated[1, -1] <= 1000
