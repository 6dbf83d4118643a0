"""Broken line wraps: which documents are joined, and which must stay."""

import random
import textwrap

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.clean.wraps import unwrap

WORDS = list("的书在便与山水城人天见写说好")


def _sentence(random_):
    clauses = ("".join(random_.choices(WORDS, k=random_.randint(5, 16))) for _ in range(random_.randint(1, 4)))
    return "，".join(clauses) + "。"


def _prose(seed, paragraphs=6, sentences=9):
    random_ = random.Random(seed)
    return ["".join(_sentence(random_) for _ in range(sentences)) for _ in range(paragraphs)]


def _wrap(paragraph, width):
    return "\n".join(paragraph[i : i + width] for i in range(0, len(paragraph), width))


def _one(text):
    result, changed = unwrap(pa.array([text], pa.large_string()))
    assert changed.tolist() == [result[0].as_py() != text]
    return result[0].as_py()


@pytest.mark.parametrize("width", [24, 34, 40])
def test_chinese_is_joined(width):
    paragraphs = _prose(width)
    joined = _one("\n\n".join(_wrap(p, width) for p in paragraphs))
    assert joined.replace("\n", "") == "".join(paragraphs)
    # What stays broken ends a sentence, or is followed by the mark that would begin the next line.
    assert all(line[-1] == "。" for line in joined.split("\n") if line)


def test_english_gets_spaces():
    sentence = "The old man went to the river, and there he saw a boat that was full of green apples. "
    paragraph = (sentence * 12).strip()
    joined = _one(textwrap.fill(paragraph, 72))
    assert joined.replace("\n", " ") == paragraph
    assert joined.count("\n") <= 3


def test_headings_lists_and_blank_lines_stay():
    body = "\n".join(_wrap(p, 36) for p in _prose(5))
    text = f"第一章 开头\n\n{body}\n\n- 项目一\n- 项目二\n1. 第一\n2. 第二"
    joined = _one(text)
    assert joined.startswith("第一章 开头\n\n")
    assert joined.endswith("\n\n- 项目一\n- 项目二\n1. 第一\n2. 第二")


@pytest.mark.parametrize(
    "text",
    [
        "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n" * 20,
        "轻轻的我走了\n正如我轻轻的来\n我轻轻的招手\n作别西天的云彩\n" * 10,
        "\n".join(f"第{k}项 关于本市{'道路' * (k % 9)}建设的若干规定" for k in range(60)),
        "\n".join(f"赣G{k:05d}在长虹大道路段未按规定使用安全带的小型轿车" for k in range(40)),
        "\n".join(f"    value_{k} = compute(first, second, third, fourth) + {k}" for k in range(60)),
        "```\n" + "\n".join("a b, c. " * 10 for _ in range(30)) + "\n```",
        "\n".join(f"# 标题 {k}\n\n- 列表，有点长\n- 列表\n\n{p}" for k, p in enumerate(_prose(2))),
        "\n".join(f"甲：{_prose(k, 1, 1)[0]}\n乙：好的，就这么办吧！" for k in range(40)),
        "\n".join(_prose(3, 40, 3)),
        "",
    ],
    ids=["verse", "modern", "list", "plates", "code", "fence", "markdown", "dialogue", "paragraphs", "empty"],
)
def test_stays(text):
    assert _one(text.strip("\n")) == text.strip("\n")


def test_zero_copy_and_batches():
    texts = pa.array(["一\n二", "\n".join(_wrap(p, 30) for p in _prose(1)), "三"], pa.large_string())
    result, changed = unwrap(texts)
    assert changed.tolist() == [False, True, False]
    assert result[0] == texts[0]
    assert result[2] == texts[2]
    same, changed = unwrap(texts.slice(0, 1))
    assert same.equals(texts.slice(0, 1))
    assert not changed.any()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text("天地，。ab. \n#-", max_size=90), max_size=30).map("\n".join))
def test_only_newlines_change(text):
    joined = _one(text)
    assert joined.replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")
    assert len(joined) <= len(text)
