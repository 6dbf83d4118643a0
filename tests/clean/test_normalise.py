"""Normalisation: what becomes what, and that the kernel does what the plain Python below says."""

import re

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from congling.clean import characters as ch
from congling.clean.normalise import CHANGES, HTML, NFC, _mend, normalise

CASES = [
    ("你好，世界。", "你好，世界。", set()),
    ("if x:\n    y = 1\n\n\tz", "if x:\n    y = 1\n\n\tz", set()),
    ("a\x00b\x7fc\x9f", "abc", {"control"}),
    ("\ufeff零\u200b宽\xad\u202e", "零宽", {"invisible"}),
    ("好\ue000的\ufffd", "好的", {"garbled"}),
    ("a\r\nb\rc\u2028d\fe", "a\nb\nc\nd\ne", {"newlines"}),
    ("　　段落  一\xa0二 \n　　段落", "段落 一 二\n段落", {"spaces"}),
    ("a \t b", "a\tb", {"spaces"}),
    (" " * 50 + "x", " " * 32 + "x", {"spaces"}),
    ("\n\n甲\n\n\n\n乙\n", "甲\n\n乙", {"blank_lines"}),
    ("甲\n  \n\t\n乙", "甲\n\n乙", {"spaces", "blank_lines"}),
    ("Ａｂ１２，：！", "Ab12，：！", {"fullwidth"}),
    ("！！！！！好。。。。…………嗯~~~~~", "！！！好。。。……嗯~~~", {"punctuation"}),
    ("！！\u200b！！", "！！！", {"invisible", "punctuation"}),
    ("-" * 30, "-" * 8, {"punctuation"}),
    ("甲&nbsp;乙&lt;&#20013;&amp;&bogus; a&b; AT&T", "甲 乙<中&&bogus; a&b; AT&T", {"html", "spaces"}),
    ("一<br/>二<P class='x'>三</p><b>四</b><!-- 五 -->", "一\n二\n三\n四", {"html"}),
    ("<style>p{x:1}</style>甲<SCRIPT>if(a<b)c()</SCRIPT>乙", "甲乙", {"html"}),
    ("vector<int> <篇名> 1<2>1", "vector<int> <篇名> 1<2>1", set()),
    ("&amp;amp;lt;br&amp;gt;x", "x", {"html", "blank_lines"}),
    ("cafe\u0301 \uf900 か\u3099", "café 豈 が", {"unicode"}),
    ("e&#x301;", "é", {"html", "unicode"}),
    ("", "", set()),
    (" \n　", "", {"spaces", "blank_lines"}),
]


def _one(text, **options):
    result = normalise(pa.array([text], pa.large_string()), **options)
    return result.text[0].as_py(), {name for bit, name in enumerate(CHANGES) if result.changes[0] >> bit & 1}, result


@pytest.mark.parametrize(("raw", "expected", "changes"), CASES)
def test_table(raw, expected, changes):
    text, changed, _ = _one(raw)
    assert text == expected
    assert changed == changes


def test_options_and_counts():
    assert _one("Ａ&lt;", fullwidth=False, html=False)[0] == "Ａ&lt;"
    _, _, result = _one("甲 \ue000\ufffd乙\n")
    assert (result.garbled[0], result.characters[0]) == (2, 4)


def test_text_that_does_not_settle_is_garbled():
    text, _, result = _one("&" + "amp;" * 40 + "lt;")
    assert result.garbled[0] == result.characters[0] > 0
    assert text.startswith("&")


def test_slices_and_order_of_a_batch():
    raws = [raw for raw, _, _ in CASES]
    result = normalise(pa.array(raws, pa.large_string()).slice(2, 15))
    assert result.text.to_pylist() == [expected for _, expected, _ in CASES[2:17]]
    assert normalise(pa.array([], pa.large_string())).text.to_pylist() == []


# -- the same in plain Python --------------------------------------------------------------------------------------

KINDS = ch.normalise_table()


def _is(char, *kinds):
    return int(KINDS[ord(char)]) in kinds


def _plain_rewrite(text):
    text = "".join(c for c in text if not _is(c, ch.CONTROL, ch.INVISIBLE, ch.GARBLED) or c == "\r")
    text = re.sub("\r\n", "\n", text)
    text = "".join("\n" if _is(c, ch.NEWLINE) else " " if _is(c, ch.SPACE) and c != "\t" else c for c in text)
    text = "".join(chr(ord(c) - 0xFEE0) if _is(c, ch.FULLWIDTH) else c for c in text)
    lines = []
    for line in text.split("\n"):
        body = line.strip(" \t")
        indent = line[: len(line) - len(line.lstrip(" \t"))] if body[:1].isascii() and body else ""
        lines.append(indent[:32] + re.sub(r"[ \t]{2,}", lambda m: "\t" if "\t" in m[0] else " ", body))
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    limits = {ch.REPEAT2: 2, ch.REPEAT3: 3, ch.REPEAT8: 8}
    return re.sub(r"(.)\1+", lambda m: m[0][: limits.get(int(KINDS[ord(m[1])]), len(m[0]))], text, flags=re.S)


def _plain(text):
    text = _plain_rewrite(text)
    for _ in range(20):
        again = _plain_rewrite(_mend(text, HTML | NFC)[0])
        if again == text:
            break
        text = again
    return text


TEXT = st.lists(
    st.one_of(
        st.sampled_from(
            [*"你好ab1 \t\n\r　Ａ９！。…-~.<>&;/#\xa0\u200b\ufeff\ue000\u0301\u1161\uf900\x00\x85\u2028é😀"]
        ),
        st.sampled_from(
            ["<br>", "</b>", "<!--", "-->", "&nbsp;", "&lt;", "&amp;", "&#x1F600;", "&#x301;", "<script>", "！！", "  "]
        ),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=25,
).map("".join)


@settings(deadline=None, max_examples=200)
@given(TEXT)
@example("<!-- < -->")
@example("&\u200bamp;\u200b#60;br>")
def test_kernel_equals_plain_python_and_is_idempotent(raw):
    text, changed, result = _one(raw)
    assert (text == raw) == (not changed) or raw == ""
    if result.garbled[0] < max(result.characters[0], 1):
        assert text == _plain(raw)
        assert _one(text)[0] == text
