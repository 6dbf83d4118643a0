"""Normalisation: what becomes what, and that the kernel does what the plain Python below says."""

import re
import unicodedata
from html import unescape
from html.entities import html5

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from congling.clean import characters as ch
from congling.clean.config import CleanConfig
from congling.clean.markup import _TAGS
from congling.clean.normalise import CHANGES, normalise

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
    ('甲<svg width="1"><title>图</title><path d="M1 2"/></svg>乙', "甲乙", {"html"}),
    ("vector<int> <篇名> 1<2>1", "vector<int> <篇名> 1<2>1", set()),
    ("&amp;amp;lt;br&amp;gt;x", "x", {"html", "blank_lines"}),
    ("cafe\u0301 \uf9d1 か\u3099", "café 六 が", {"unicode"}),
    ("e&#x301;", "é", {"html", "unicode"}),
    ("&#150;&#x4e2d;&nbsp;&notin;&CapitalDifferentialD;&#0;", "–中 ∉ⅅ", {"html", "garbled", "spaces"}),
    ("ﬁn ㎏ ｶﾞ ⼈ ｢甲｣", "fin kg ガ 人 「甲」", {"unicode"}),
    ("①Ⅷ㎡℃№½²，：！（）", "①Ⅷ㎡℃№½²，：！（）", set()),
    ("繁體字與頭髮的乾坤，皇后說：「發財後來」", "繁体字与头发的乾坤，皇后说：「发财后来」", {"traditional"}),
    ("“學”只有一处，别的字都是简体字，所以它在这里不变。", "“學”只有一处，别的字都是简体字，所以它在这里不变。", set()),
    (
        "你好，世界".encode().decode("latin-1"),
        "你好，世界",
        {"mojibake", "control", "spaces"},
    ),
    ("", "", set()),
    (" \n　", "", {"spaces", "blank_lines"}),
]


def _one(text, **options):
    result = normalise(pa.array([text], pa.large_string()), CleanConfig(**options))
    return result.text[0].as_py(), {name for bit, name in enumerate(CHANGES) if result.changes[0] >> bit & 1}, result


@pytest.mark.parametrize(("raw", "expected", "changes"), CASES)
def test_table(raw, expected, changes):
    text, changed, _ = _one(raw)
    assert text == expected
    assert changed == changes


def test_options_and_counts():
    assert _one("Ａ&lt;", fullwidth=False, html=False)[0] == "Ａ&lt;"
    assert _one("繁體字與頭髮", traditional="keep")[0] == "繁體字與頭髮"
    assert _one("浣犲ソ浣犲ソ", mojibake=False)[0] == "浣犲ソ浣犲ソ"
    _, _, result = _one("甲 \ue000\ufffd乙\n")
    assert (result.garbled[0], result.characters[0]) == (2, 4)


def test_text_that_does_not_settle_is_garbled():
    text, _, result = _one("&" + "amp;" * 40 + "lt;")
    assert result.garbled[0] == result.characters[0] > 0
    assert text.startswith("&")


def test_slices_and_order_of_a_batch():
    raws = [raw for raw, _, _ in CASES]
    result = normalise(pa.array(raws, pa.large_string()).slice(2, 15), CleanConfig())
    assert result.text.to_pylist() == [expected for _, expected, _ in CASES[2:17]]
    assert normalise(pa.array([], pa.large_string()), CleanConfig()).text.to_pylist() == []


# -- the same in plain Python --------------------------------------------------------------------------------------

KINDS = ch.normalise_table()


def _is(char, *kinds):
    return int(KINDS[ord(char)]) in kinds


def _plain_rewrite(text):
    text = re.sub("\r\n", "\n", text)
    text = "".join(c for c in text if not _is(c, ch.CONTROL, ch.INVISIBLE, ch.GARBLED) or c == "\r")
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


_TAG = re.compile(r"<(!--|/?([A-Za-z][A-Za-z0-9]{0,15})(?:[ \t-\r/][^<>]*)?>|![A-Za-z][^<>]*>)")
_ENTITY = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z0-9]{1,32});")


def _tag(text, match):
    """(what the tag leaves, its end); None when it is text."""
    name = (match[2] or "").lower()
    leaves = _TAGS.get(name, 0 if name else 1)
    if not leaves:
        return None
    stop = match.end()
    if match[1] == "!--":
        return ("", text.find("-->", stop) + 3) if "-->" in text[stop:] else None
    if leaves == 2 and match[1][0] != "/":
        found = text.lower().find(f"</{name}", stop)
        stop = found if found >= 0 else stop
    return chr(leaves) if leaves > 2 else "", stop


def _entity(match):
    value = unescape(match[0]) if match[1][0] == "#" else html5.get(match[1] + ";", match[0])
    return value if len(value.encode()) <= len(match[0]) else match[0]


def _plain_strip(text):
    pieces, i = [], 0
    while i < len(text):
        match = _TAG.match(text, i) or _ENTITY.match(text, i)
        found = match and (_tag(text, match) if text[i] == "<" else (_entity(match), match.end()))
        piece, i = found or (text[i], i + 1)
        pieces.append(piece)
    return "".join(pieces)


def _plain(text):
    text = _plain_rewrite(_plain_strip(text))
    for _ in range(20):
        again = _plain_rewrite(unicodedata.normalize("NFC", _plain_strip(text).translate(ch.compatible())))
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


LEAST = {"mojibake": False, "unwrap": False, "traditional": "keep"}


@settings(deadline=None, max_examples=200)
@given(TEXT)
@example("<!-- < -->")
@example("&\u200bamp;\u200b#60;br>")
@example("!\u200b!\u200b!\u200b!")
def test_kernels_equal_plain_python(raw):
    text, changed, result = _one(raw, **LEAST)
    assert (text == raw) == (not changed) or raw == ""
    if result.garbled[0] < max(result.characters[0], 1):
        assert text == _plain(raw)


LINES = st.sampled_from(
    [
        "繁體字與頭髮，後來的皇后",
        "é à ü",
        "你好，世界".encode().decode("latin-1"),
        "浣犲ソ浣犲ソ",
        "锟斤拷锟斤拷",
        "烫" * 5,
    ]
    + ["一行写到这里就要换行，因为纸只有这么宽，所以一个句子会在它的当中断开来成" * k + "两\n" for k in (1, 2)]
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(TEXT | LINES, max_size=12).map("".join),
    st.fixed_dictionaries({name: st.booleans() for name in ("html", "fullwidth", "mojibake", "unwrap")}),
    st.sampled_from(["keep", "simplify"]),
)
def test_idempotent(raw, options, traditional):
    text, _, result = _one(raw, **options, traditional=traditional)
    if result.garbled[0] < max(result.characters[0], 1):
        again, changed, _ = _one(text, **options, traditional=traditional)
        assert (again, changed) == (text, set())
