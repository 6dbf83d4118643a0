"""Each rule at both sides of its limit, on text made by hand; the order of the funnel; quantiles from histograms."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.clean import rules
from congling.clean.config import CleanConfig
from congling.clean.rules import BINS, REASONS, RULES, detail, fixed_limits, histogram, judge, measures, resolve_limits
from congling.clean.statistics import measure
from congling.config import ConfigError, load

NEW = "春眠不觉晓处闻啼鸟夜来风雨声花落知多少床前明月光疑是地上霜举头望低思故乡"  # no pair of letters twice
OFF = {"min_chars": 0, "max_chars": 1e9, "min_cjk": 0, "min_commas": 0}
OFF |= {rule.high: 1.0 for rule in RULES if rule.high and not rule.log}
NAMES = [rule.name for rule in RULES]


def _values(*texts, garbled=0, mojibake=0):
    array = pa.array(texts, pa.large_string())
    counts = measure(array)
    lost = [np.full(len(texts), k) for k in (garbled, mojibake)]
    return measures(
        SimpleNamespace(text=array, garbled=lost[0], mojibake=lost[1], characters=counts.characters), counts
    )


def _judge(text, limits, **lost):
    """(reason, detail) under the limits given alone."""
    values, bounds = _values(text, **lost), fixed_limits(CleanConfig(**OFF | limits))
    (rule,) = judge(values, bounds).tolist()
    return ("", "") if rule < 0 else (NAMES[rule], detail(rule, float(values[0, rule]), bounds[rule]))


CASES = [
    # rule, limits, text that stays, text that goes, detail
    ("too_short", {"min_chars": 5}, "春眠 不觉\n晓", "春眠 不\n觉", "characters 4 < 5"),
    ("too_long", {"max_chars": 12}, NEW[:12], NEW[:13], "characters 13 > 12"),
    ("low_cjk", {"min_cjk": 0.5}, "春眠不觉晓12345", "春眠不觉abc123", "cjk share 0.4 < 0.5"),
    ("high_ascii", {"max_ascii": 0.5}, "春眠不觉晓Abcde", "春眠不觉Abcdef", "ascii letter share 0.6 > 0.5"),
    ("high_digits", {"max_digits": 0.2}, "春眠不觉晓闻啼鸟12", "春眠不觉晓闻啼123", "digit share 0.3 > 0.2"),
    (
        "high_punctuation",
        {"max_punctuation": 0.4},
        "春，眠。不、觉！晓a",
        "春，眠。不、觉！晓？",
        "punctuation share 0.5 > 0.4",
    ),
    (
        "commas",
        {"min_commas": 0.1},
        "春眠不觉晓，闻啼鸟！",
        "春眠不觉晓！闻啼鸟！",
        "comma and full stop share 0 < 0.1",
    ),
    (
        "commas",
        {"max_commas": 0.2},
        "春眠不,觉晓闻啼鸟.",
        "春眠,不觉，晓闻啼.",
        "comma and full stop share 0.3 > 0.2",
    ),
    (
        "list_page",
        {"max_listed": 0.4},
        "首页\n新闻\n春眠不觉晓。",
        "首页\n新闻\n体育\n春眠晓。",
        "share in short lines 0.6 > 0.4",
    ),
    (
        "link_page",
        {"max_linked": 0.5},
        "a://b春眠不觉晓\n处处闻啼鸟。夜来风雨声",
        "a://b春眠不觉晓处闻\n处处闻啼鸟。夜来",
        "share in lines with links 0.6 > 0.5",
    ),
    (
        "stuffing",
        {"max_stuffed": 0.4},
        "书、画、琴、棋、诗、酒。好的吧",
        "书、画、琴、棋、诗、酒、花",
        "share in word lists 0.5385 > 0.4",
    ),
    (
        "teasers",
        {"max_teasers": 0.5},
        "春眠不觉晓…\n处处闻啼鸟。",
        "春眠不觉晓闻…\n处闻啼鸟。",
        "share in cut-off lines 0.5833 > 0.5",
    ),
    (
        "unfinished",
        {"max_unfinished": 0.5},
        "好。\n" + "好" * 24 + "。" + "坏" * 25,
        "好。\n" + "好" * 19 + "。" + "坏" * 30,
        "share without a sentence's end 0.5769 > 0.5",
    ),
    (
        "repeated_lines",
        {"max_repeated_lines": 0.25},
        f"{NEW[:5]}\n{NEW[10:20]}\n{NEW[:5]}",
        f"{NEW[:5]}\n{NEW[10:15]}\n{NEW[:5]}",
        "repeated line share 0.3333 > 0.25",
    ),
    (
        "repeated_paragraphs",
        {"max_repeated_paragraphs": 0.4},
        f"{'好' * 49}\n{'好' * 49}",
        f"{'好' * 50}\n{'好' * 50}",
        "repeated paragraph share 0.5 > 0.4",
    ),
    (
        "top_2gram",
        {"max_top2": 0.4},
        "好评快好评慢好评发货",
        "好评快好评慢好评好评",
        "most frequent 2-gram share 0.6 > 0.4",
    ),
    (
        "top_3gram",
        {"max_top3": 0.2},
        "好评快好评慢好评发货",
        "好评快好评快好评发货",
        "most frequent 3-gram share 0.3 > 0.2",
    ),
    (
        "top_4gram",
        {"max_top4": 0.3},
        "天上人间好天上人来了",
        "天上人间好天上人间了",
        "most frequent 4-gram share 0.4 > 0.3",
    ),
    *(
        (
            f"repeated_{n}grams",
            {f"max_repeated{n}": n / 20 - 0.01},
            NEW[: 21 - n] + NEW[: n - 1],
            NEW[: 20 - n] + NEW[:n],
            f"repeated {n}-gram share {n / 20:g} > {n / 20 - 0.01:g}",
        )
        for n in range(5, 11)
    ),
]


@pytest.mark.parametrize(("rule", "limits", "stays", "goes", "said"), CASES, ids=[c[0] for c in CASES])
def test_both_sides_of_the_limit(rule, limits, stays, goes, said):
    assert _judge(stays, limits) == ("", "")
    assert _judge(goes, limits) == (rule, said)


def test_characters_lost():
    assert _judge(NEW[:10], {"max_garbled": 0.1}, garbled=1) == ("", "")
    assert _judge(NEW[:10], {"max_garbled": 0.1}, garbled=2) == ("garbled", "garbled share 0.2 > 0.1")
    assert _judge(NEW[:10], {"max_mojibake": 0.1}, mojibake=1) == ("", "")
    assert _judge(NEW[:10], {"max_mojibake": 0.1}, mojibake=2) == ("mojibake", "mojibake share 0.2 > 0.1")


def test_every_rule_has_a_case_a_key_and_a_place_in_the_funnel():
    assert {"garbled", "mojibake", *(case[0] for case in CASES)} == set(NAMES)
    assert len(set(REASONS)) == len(REASONS)
    assert list(REASONS[rules.FIRST_RULE :][: len(RULES)]) == NAMES
    assert all(key in CleanConfig.model_fields for rule in RULES for key in (rule.low, rule.high) if key)


def test_the_first_broken_rule_is_the_reason():
    assert _judge("abcabcabc", {"min_chars": 10, "min_cjk": 0.5})[0] == "too_short"
    assert _judge("abcabcabc", {"min_cjk": 0.5, "max_ascii": 0.5})[0] == "low_cjk"


@pytest.mark.parametrize(
    "text",
    [
        "静夜思\n李白\n床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
        "今天天气不错，我们去公园走走吧。",
        "用 Python 写的 hello world 程序，很简单。",
        "詩經·國風：關關雎鳩，在河之洲。",
        "第一条 为了规范合同，制定本法。\n第二条 本法所称合同，是平等主体之间的协议。\n第三条 当事人的地位平等。",
        "“你来了？”他问。\n“来了……”\n“坐吧。”\n她没有坐，只是望着窗外的雨，雨下得很大。",
        "调用 `sum(x)`，得到和：\n\n```python\ntotal = sum(x)\nprint(total)\n```\n\n这里的 x 是一个列表。",
    ],
)
def test_sound_text_stays_by_default(text):
    values = _values(text)
    broken = judge(values, fixed_limits(CleanConfig()))
    assert broken.tolist() == [-1], NAMES[broken[0]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("首页\n新闻\n体育\n财经\n娱乐\n科技\n关于我们\n联系我们\n京ICP备，号", "list_page"),
        ("防水补漏、窗户维修、屋顶防水、外墙补漏、地下室堵漏、卫生间防水，欢迎来电。", "stuffing"),
        ("1. [有什么书值得一看？](https://a.cn/1)\n2. [什么是幸福，如何得到它？](https://a.cn/2)", "link_page"),
        ("某地一男子今日凌晨，驾车撞上路边的树…\n另一男子昨日，因为醉酒被警方带走...", "teasers"),
        ("这个产品，非常好。这个产品，非常好。这个产品，非常好。", "top_3gram"),
        ("招聘工程师若干名待遇优厚环境舒适欢迎有志之士加入我们", "commas"),
    ],
)
def test_poor_text_goes_by_default(text, reason):
    (broken,) = judge(_values(text), fixed_limits(CleanConfig()))
    assert NAMES[broken] == reason


def test_limits_of_one_switch_rules_off():
    for text in ("a" * 100, "，" * 3, "哈" * 100, "x\n" * 50, "甲", ""):
        assert _judge(text, {}, garbled=1, mojibake=1) == ("", "")


# -- quantiles


def _rule(name):
    return RULES[NAMES.index(name)]


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60),
    st.lists(st.integers(1, 1 << 24), min_size=1, max_size=60),
    st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_a_quantile_is_right_to_a_bin(shares, counts, q):
    for name, numbers in (("low_cjk", shares), ("too_short", counts)):
        values = np.zeros((len(numbers), len(RULES)), np.float32)
        values[:, NAMES.index(name)] = numbers
        row, edges = histogram(values)[NAMES.index(name)], rules.bin_edges(_rule(name))
        assert row.sum() == len(numbers)
        found = rules.quantile(row, _rule(name), q)
        lower, upper = np.quantile(np.float32(numbers), q, method="lower"), np.quantile(numbers, q, method="higher")
        bin_of = np.clip(np.searchsorted(edges, [lower, upper], "right") - 1, 0, BINS - 1)
        assert edges[max(bin_of[0] - 1, 0)] <= found <= edges[bin_of[1] + 1]


def test_histograms_add_up_and_keep_what_is_beyond():
    values = np.random.default_rng(0).random((100, len(RULES))).astype(np.float32)
    values[:, NAMES.index("too_long")] = 2.0**40
    values[:, NAMES.index("too_short")] = 0
    whole = histogram(values)
    assert (whole == histogram(values[:30]) + histogram(values[30:])).all()
    assert whole.shape == (len(RULES), BINS)
    assert whole[NAMES.index("too_long"), -1] == whole[NAMES.index("too_short"), 0] == 100


def test_quantiles_of_the_corpus_become_limits():
    quantiles = {"min_commas": "q0.05", "max_commas": "q0.95", "min_chars": "q0.05", "max_ascii": "q0.95"}
    config = CleanConfig(**OFF | quantiles | {"max_digits": 0.2})
    assert rules.has_quantiles(config)
    assert not rules.has_quantiles(CleanConfig())
    commas, short, ascii = (NAMES.index(name) for name in ("commas", "too_short", "high_ascii"))
    assert fixed_limits(config)[[commas, short]].tolist() == [[-np.inf, np.inf]] * 2
    values = np.zeros((1000, len(RULES)), np.float32)
    values[:, commas] = np.arange(1000)[::-1] / 1000
    values[:, short] = np.arange(1000) + 1
    limits = resolve_limits(config, histogram(values))
    assert limits[commas] == pytest.approx([0.05, 0.95], abs=2 / BINS)
    assert limits[short, 0] == pytest.approx(50, rel=0.01)
    assert limits[NAMES.index("high_digits")].tolist() == [-np.inf, 0.2]
    assert (values[:, ascii] <= limits[ascii, 1]).all()  # all alike: a quantile drops none
    broken = judge(values, limits)
    # Of 1000, never more than asked for; the shortest are those with most commas.
    assert 48 <= (broken == short).sum() <= 50
    assert 48 <= (broken == commas).sum() <= 50


def test_a_quantile_of_nothing_is_no_limit():
    limits = resolve_limits(CleanConfig(min_commas="q0.05"), np.zeros((len(RULES), BINS), np.int64))
    assert limits[NAMES.index("commas"), 0] == -np.inf


@pytest.mark.parametrize("value", ["q1.5", "5%", "q", "-0.1", "q-0.1"])
def test_impossible_limits_are_named(value):
    with pytest.raises(ConfigError, match="min_commas"):
        load(CleanConfig, None, [f"clean.min_commas={value}"], section="clean")
