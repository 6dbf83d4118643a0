import json
import math
import re
from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.report.charts import MAX_POINTS, Series, figure, line_chart, nice_ticks, stacked_bars
from congling.report.html import Html, both, join, table, tag

numbers = st.floats(-1e12, 1e12, allow_nan=False)


@settings(deadline=None, max_examples=60)
@given(numbers, numbers)
def test_ticks_enclose_the_values_and_are_few(a, b):
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + step * 1e-6
    assert ticks[-1] >= high - step * 1e-6
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_ticks_are_round():
    assert nice_ticks(0, 2e-3) == [0, 5e-4, 1e-3, 1.5e-3, 2e-3]
    assert nice_ticks(1.6, 3.8) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1.6023, "1.602"), (3e-4, "3e-4"), (2.5e-3, "2.5e-3"), (6e6, "6 M"), (256, "256")]
)
def test_figures(value, text):
    assert figure(value) == text


def _chart_data(chart):
    return json.loads(unescape(re.search(r'data-chart="(.*?)"', chart)[1]))


def test_lines_leave_out_what_is_no_number_and_are_thinned_by_means():
    points = [(float(i), 2.0 if i % 2 else 4.0) for i in range(4 * MAX_POINTS)]
    points[7] = (7.0, math.nan)
    points[8] = (8.0, math.inf)
    chart = line_chart(both("损失", "loss"), "", [Series(both("训练", "training"), points)], x_unit="x")
    drawn = _chart_data(chart)["series"][0]
    assert len(drawn) <= MAX_POINTS
    assert "nan" not in chart.lower().replace("training", "")
    assert drawn[-1] == [4 * MAX_POINTS - 1, pytest.approx(3.0, abs=1)]
    assert line_chart("t", "", [Series(both("一", "one"), [(1.0, math.inf)])], x_unit="x") == ""


def test_steps_keep_only_their_changes():
    points = [(float(i), 64.0 if i < 500 else 128.0) for i in range(1000)]
    chart = line_chart("t", "", [Series(both("长", "length"), points, stepped=True)], x_unit="x", from_zero=True)
    assert _chart_data(chart)["series"][0] == [[0, 64], [500, 128], [999, 128]]


def test_bars_stack_to_their_sum():
    chart = stacked_bars("t", "", [("1", {"1": 30.0, "2": 70.0}), ("2", {"1": 50.0})], {"1": "one", "2": "two"})
    heights = [float(h) for h in re.findall(r'height="([\d.]+)"', chart)]
    assert heights[0] + heights[1] == pytest.approx(2 * heights[2], abs=0.2)
    assert stacked_bars("t", "", [], {}) == ""


@settings(deadline=None, max_examples=40)
@given(st.text())
def test_text_can_never_become_markup(text):
    page = tag("p", text, tag("b", text, title=text), join([text, Html("<i></i>")]), table([text], [[text]]))
    assert set(re.findall(r"<(\w+)", page)) <= {"p", "b", "i", "div", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.count("<") == page.count(">")


def test_logarithmic_axis():
    series = [Series(Html(str(n)), [(1, 0.0), (2, 10.0 * n), (3, 1000.0)]) for n in (1, 2, 3)]
    chart = line_chart("t", "u", series, x_unit="x", log=True)
    data = _chart_data(chart)
    assert data["y"][:2] == [10, 1000]
    assert data["log"] == 1
    assert data["series"][0] == [[2, 10], [3, 1000]]  # 0 has no logarithm
    assert re.findall(r">(10|100|1000)</text>", chart) == ["10", "100", "1000"]
    assert 'class="chart shades"' in chart
    assert _chart_data(line_chart("t", "u", [Series(Html("a"), [(1, 5.0)])], x_unit="x", log=True))["y"][:2] == [1, 10]
