"""Each rule at both sides of its limit, on text made by hand, and the order of the funnel."""

import pyarrow as pa
import pytest

from congling.clean.config import CleanConfig
from congling.clean.normalise import normalise
from congling.clean.rules import REASONS, RULES, judge
from congling.clean.statistics import measure

PROSE = "春眠不觉晓处闻啼鸟夜来风雨声花落知多少床前明月光疑是地上霜举头望低思故乡"  # no pair of letters twice


def _judge(text, **limits):
    normal = normalise(pa.array([text], pa.large_string()))
    (verdict,) = judge(normal, measure(normal.text), CleanConfig(**limits))
    return verdict


CASES = [
    # rule, limits, text that stays, text that goes, detail
    ("garbled", {"max_garbled": 0.1}, PROSE[:9] + "\ufffd", PROSE[:8] + "\ue000\ufffd", "garbled share 0.2 > 0.1"),
    ("too_short", {"min_chars": 5}, "春眠 不觉\n晓", "春眠 不\n觉", "characters 4 < 5"),
    ("too_long", {"max_chars": 12}, PROSE[:12], PROSE[:13], "characters 13 > 12"),
    ("low_cjk", {"min_cjk": 0.5}, "春眠不觉晓12345", "春眠不觉abc123", "cjk share 0.4 < 0.5"),
    ("high_ascii", {"max_ascii": 0.5}, "春眠不觉晓Abcde", "春眠不觉Abcdef", "ascii letter share 0.6 > 0.5"),
    (
        "high_punctuation",
        {"max_punctuation": 0.4},
        "春，眠。不、觉！晓a",
        "春，眠。不、觉！晓？",
        "punctuation share 0.5 > 0.4",
    ),
    (
        "repeated_lines",
        {"max_repeated_lines": 0.25},
        f"{PROSE[:5]}\n{PROSE[10:20]}\n{PROSE[:5]}",
        f"{PROSE[:5]}\n{PROSE[10:15]}\n{PROSE[:5]}",
        "repeated line share 0.3333 > 0.25",
    ),
    (
        "repetition",
        {"max_repetition": 0.45},
        PROSE[:20] + PROSE[:16],
        PROSE[:20] + PROSE[:20],
        "repeated 10-gram share 0.5 > 0.45",
    ),
    (
        "repeated_pair",
        {"max_repeated_pair": 0.4},
        "好评快好评慢好评发货",
        "好评快好评慢好评好评",
        "repeated pair share 0.6 > 0.4",
    ),
]


@pytest.mark.parametrize(("rule", "limits", "stays", "goes", "detail"), CASES, ids=[c[0] for c in CASES])
def test_both_sides_of_the_limit(rule, limits, stays, goes, detail):
    assert _judge(stays, **{"min_chars": 1, **limits}) == ("", "")
    assert _judge(goes, **{"min_chars": 1, **limits}) == (rule, detail)


def test_every_rule_has_a_case_and_a_place_in_the_funnel():
    assert [rule.__name__ for rule in RULES] == [case[0] for case in CASES]
    assert len(set(REASONS)) == len(REASONS)


def test_the_first_broken_rule_is_the_reason():
    assert _judge("abcabcabc")[0] == "too_short"
    assert _judge("abcabcabcabcabc")[0] == "low_cjk"
    assert _judge("abcabcabcabcabc", min_cjk=0.0, max_ascii=1.0)[0] == "repetition"


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "今天天气不错，我们去公园走走吧。",
        "用 Python 写的 hello world 程序，很简单。",
        "詩經·國風：關關雎鳩，在河之洲。",
    ],
)
def test_sound_text_stays(text):
    assert _judge(text) == ("", "")


def test_limits_of_one_switch_rules_off():
    off = {
        "max_garbled": 1.0, "min_chars": 1, "min_cjk": 0.0, "max_ascii": 1.0, "max_punctuation": 1.0,
        "max_repeated_lines": 1.0, "max_repetition": 1.0, "max_repeated_pair": 1.0,
    }  # fmt: skip
    for text in ("a" * 100, "，" * 3, "哈" * 100, "x\n" * 50, "\ufffd甲"):
        assert _judge(text, **off) == ("", "")


def test_counts_by_hand():
    counts = measure(pa.array(["", "中文 abC，1\n中文 abC，1\n。", "々〆𠀀é😀"], pa.large_string()))
    assert counts.characters.tolist() == [0, 15, 5]
    assert counts.han.tolist() == [0, 4, 3]
    assert counts.ascii_letters.tolist() == [0, 6, 0]
    assert counts.punctuation.tolist() == [0, 3, 0]
    assert counts.repeated_lines.tolist() == [0, 7, 0]
    assert counts.letters.tolist() == [0, 12, 5]
    assert counts.pair_repeats.tolist() == [0, 1, 0]
