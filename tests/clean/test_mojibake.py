"""Mojibake: what is repaired, what is counted, and what must stay as it is."""

from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.clean.config import CleanConfig
from congling.clean.mojibake import repair
from congling.clean.normalise import CHANGES, normalise

CHINESE = "你好，世界。我们在中国学习人工智能，今天的天气很好！Hello 123"
DATA = Path(__file__).parents[3] / "shared/data/pretrain"


def _sloppy(data):
    """As browsers read Windows-1252: bytes it does not have are control characters."""
    return "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in data)


@pytest.mark.parametrize("text", ["你好", CHINESE, "“的”在哪里？", "學而時習之，不亦說乎"])
@pytest.mark.parametrize("read", [_sloppy, lambda b: b.decode("latin-1")])
def test_read_as_western(text, read):
    assert repair(read(text.encode())) == (text, 0)
    if "學" not in text:
        assert repair(read(text.encode("gb18030"))) == (text, 0)


@pytest.mark.parametrize("text", ["你好", "你好，", "中国人民", "今天的天气很好"])
def test_utf8_read_as_gbk(text):
    try:
        misread = text.encode().decode("gbk")
    except UnicodeDecodeError:
        misread = text.encode().decode("gbk", "replace")
        assert repair(misread) == (misread, len(misread))
    else:
        assert repair(misread) == (text, 0)


def test_mixed_lines_and_runs():
    misread = "世界很大".encode().decode("latin-1")
    text = f"好的第一行\n前面{misread}后面\ncafé à Évian\n{'你好'.encode().decode('gbk')}"
    assert repair(text) == ("好的第一行\n前面世界很大后面\ncafé à Évian\n你好", 0)


@pytest.mark.parametrize(
    ("text", "left"),
    [("锟斤拷锟斤拷你好", 6), ("烫烫烫烫烫", 5), ("屯屯屯屯", 4), ("好烫烫烫！", 0), ("鐨勶紝鍦ㄢ?滃摢閲屸?濓紵", 13)],
)
def test_what_is_lost_is_counted(text, left):
    assert repair(text) == (text, left)


@pytest.mark.parametrize(
    "text",
    [
        "L’été à Évian : déjà vu, çà et là où être élève",
        "Ελληνικά γλώσσα και άλλα",
        "Ïðèâåò ìèð, êàê äåëà",
        "¿Qué tal, señor Ñandú? ÀÉÈÊÎÔÛ",
        "鐨 字和浣 字是生僻字，涓涓细流，浣熊，锛 也是",
        "妾婢姊娓娓濮浏瑜睿瀚",
        "联通的服务",
        "宁告急於瑜。",
        "阿·波·次·得 ±5° «甲»",
    ],
)
def test_sound_text_stays(text):
    assert repair(text) == (text, 0)


def test_in_normalise():
    texts = [CHINESE.encode().decode("latin-1"), CHINESE, "锟斤拷" * 5, "正常的话里有一个锟斤拷乱码的例子"]
    result = normalise(pa.array(texts, pa.large_string()), CleanConfig())
    assert result.text.to_pylist() == [CHINESE, CHINESE, *texts[2:]]
    assert result.mojibake.tolist() == [0, 0, 15, 3]
    assert result.garbled.tolist() == [0, 0, 0, 0]
    assert [bool(c >> CHANGES.index("mojibake") & 1) for c in result.changes] == [True, False, False, False]


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=40))
def test_any_text_and_lines_stay_lines(text):
    again, left = repair(text)
    assert again.count("\n") == text.count("\n")
    assert 0 <= left <= len(text)


@pytest.mark.skipif(not DATA.exists(), reason="needs the project's text")
@pytest.mark.parametrize("name", ["classical_novels", "docs_lctt", "poetry_npm_chinese_poetry"])
def test_real_text_stays(name):
    with pa.input_stream(DATA / f"{name}.jsonl.zst", compression="zstd") as file:
        lines = file.read(3_000_000).split(b"\n")[:-1]
    texts = pa.array([orjson.loads(line)["text"] for line in lines], pa.large_string())
    result = normalise(texts, CleanConfig(traditional="keep"))
    assert not (result.changes >> CHANGES.index("mojibake") & 1).any()
    assert not result.mojibake.any()
