"""Small SVG charts: lines (or steps) over one axis, and stacked bars. Colours come from the page's style sheet."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from congling.report.html import Html, join, tag
from congling.reporter import human

WIDTH, HEIGHT = 460, 220  # of a chart, in SVG units; the page scales it to its column
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 10, 26  # of the plot within it
_SMALL_WIDTH, _SMALL_HEIGHT = 330, 150  # of a histogram
_SMALL_LEFT, _SMALL_TOP = 40, 16
MAX_POINTS = 240  # of one line; more are averaged


@dataclass(frozen=True)
class Series:
    """One line: ``points`` (x, y) in rising x; values that are not finite are left out of the drawing."""

    label: Html
    points: Sequence[tuple[float, float]]
    stepped: bool = False  # a value holds until the next one


def line_chart(
    title: str, unit: str, series: Sequence[Series], *, x_unit: str, from_zero: bool = False, log: bool = False
) -> Html:
    """A figure with axes, a legend that carries the last values, and what the page's script needs for its read-out.

    log: values on a logarithmic axis; those that are not above 0 are left out.
    """
    drawn = [Series(s.label, _thin(_finite(s.points, log), s.stepped), s.stepped) for s in series]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return Html("")
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    x_low, x_high = min(xs), max(xs)
    ticks = _powers(min(ys), max(ys)) if log else nice_ticks(0.0 if from_zero else min(ys), max(ys))
    x_scale = _scale(x_low, x_high if x_high > x_low else x_low + 1, LEFT, WIDTH - RIGHT)
    y_scale = _Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, log)
    body = [*_y_axis(ticks, y_scale), *_x_axis(nice_ticks(x_low, x_high), x_scale)]
    body += [_line(s, number, x_scale, y_scale) for number, s in enumerate(drawn)]
    body.append(tag("g", class_="cursor"))
    data = {
        "x": [x_scale.low, x_scale.high, LEFT, WIDTH - RIGHT],
        "y": [y_scale.low, y_scale.high, HEIGHT - BOTTOM, TOP],
        "log": int(log),
        "series": [[[_short(x), _short(y)] for x, y in s.points] for s in drawn],
    }
    return tag(
        "figure",
        tag("figcaption", title, " ", tag("small", unit)),
        _legend(drawn, x_unit),
        _svg(body),
        class_="chart" if len(drawn) < 3 else "chart shades",
        data_chart=json.dumps(data, separators=(",", ":")),
    )


def stacked_bars(
    title: str, unit: str, bars: Sequence[tuple[str, Mapping[str, float]]], keys: Mapping[str, str]
) -> Html:
    """A figure of one bar a row of ``bars`` (label, {key: value}), stacked in the order of ``keys`` {key: label}."""
    if not bars:
        return Html("")
    ticks = nice_ticks(0.0, max(sum(values.values()) for _, values in bars))
    scale = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    pitch = (WIDTH - LEFT - RIGHT) / len(bars)
    every = math.ceil(len(bars) / 16)  # labels that fit
    body = list(_y_axis(ticks, scale))
    for number, (label, values) in enumerate(bars):
        x, base = LEFT + number * pitch, 0.0
        for shade, key in enumerate(keys):
            top = base + values.get(key, 0.0)
            box = {"x": f"{x + pitch * 0.12:.1f}", "width": f"{pitch * 0.76:.1f}"}
            height = max(scale.at(base) - scale.at(top), 0.0)
            hint = tag("title", f"{label} · {key}: {top - base:,.0f}")
            body.append(
                tag("rect", hint, class_=f"q{shade % 8}", y=f"{scale.at(top):.1f}", height=f"{height:.1f}", **box)
            )
            base = top
        if number % every == 0:
            body.append(_text(x + pitch / 2, HEIGHT - 8, label, "middle"))
    legend = [tag("span", tag("i", class_=f"q{shade % 8}"), label) for shade, label in enumerate(keys.values())]
    caption = tag("figcaption", title, " ", tag("small", unit))
    return tag("figure", caption, tag("div", *legend, class_="legend"), _svg(body), class_="chart")


def histogram(
    title: Html,
    note: Html,
    edges: Sequence[float],
    before: Sequence[float],
    after: Sequence[float],
    limits: tuple[float | None, float | None] = (None, None),
    *,
    log: bool = False,
) -> Html:
    """A small figure of counts, on a logarithmic axis: ``after`` [B] over ``before`` [B], between ``edges`` [B + 1].

    limits: the least and the largest value that is let pass; what lies beyond is shaded. log: edges too are
    logarithmic, and above 0.
    """
    x_scale = _Scale(edges[0], edges[-1], _SMALL_LEFT, _SMALL_WIDTH - RIGHT, log)
    top = max(*before, *after, 10.0)
    y_scale = _Scale(0.5, 1.2 * top, _SMALL_HEIGHT - BOTTOM, _SMALL_TOP, log=True)
    body = [_beyond(x_scale, side, limit) for side, limit in enumerate(limits) if limit is not None]
    digits = math.floor(math.log10(top))
    ticks = [10.0**n for n in range(0, digits + 1, math.ceil(digits / 4))]
    body += _y_axis(ticks, y_scale, _SMALL_LEFT, _SMALL_WIDTH - RIGHT)
    marks = [10.0**n for n in range(10) if edges[0] <= 10.0**n <= edges[-1]] if log else []
    body += _x_axis(marks if len(marks) > 1 else nice_ticks(edges[0], edges[-1], 3), x_scale, _SMALL_HEIGHT)
    body += [_steps(kind, edges, counts, x_scale, y_scale) for kind, counts in (("before", before), ("after", after))]
    for side, limit in enumerate(limits):
        body += _limit(x_scale, side, limit) if limit is not None else []
    caption = tag("figcaption", title, note)
    return tag("figure", caption, _svg(body, _SMALL_WIDTH, _SMALL_HEIGHT), class_="bars")


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values that enclose [low, high], in steps of 1, 2, 2.5 or 5 times a power of ten."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        high = low + (abs(low) * 0.1 or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def figure(value: float) -> str:
    """A value as the charts write it: 1.62, 0.0003 → 3e-4, 1500000 → 1.5 M."""
    if value == 0 or abs(value) >= 1e4:
        return human(value)
    if abs(value) < 1e-2:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float  # pixel of ``low``
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
            return self.start + part * (self.end - self.start)
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _steps(kind: str, edges: Sequence[float], counts: Sequence[float], x_scale: _Scale, y_scale: _Scale) -> Html:
    parts, floor = [f"M{x_scale.at(edges[0]):.1f} {y_scale.start:.1f}"], f"V{y_scale.start:.1f}"
    for count, edge in zip(counts, edges[1:], strict=True):
        parts.append(f"V{y_scale.at(count):.1f}" if count else floor)
        parts.append(f"H{x_scale.at(edge):.1f}")
    return tag("path", class_=kind, d="".join([*parts, floor, "Z"]))


def _beyond(scale: _Scale, side: int, limit: float) -> Html:
    x = _inside(scale, limit)
    begin, end = (scale.start, x) if side == 0 else (x, scale.end)
    height, width = _SMALL_HEIGHT - BOTTOM - _SMALL_TOP, f"{max(end - begin, 0):.1f}"
    return tag("rect", class_="beyond", x=f"{begin:.1f}", width=width, y=_SMALL_TOP, height=height)


def _inside(scale: _Scale, value: float) -> float:
    return scale.at(min(max(value, scale.low), scale.high))


def _limit(scale: _Scale, side: int, limit: float) -> list[Html]:
    x = _inside(scale, limit)
    outside = "end" if side == 0 else "start"  # the number stands on the side of what is dropped, if there is room
    anchor = "start" if x < _SMALL_LEFT else "end" if x > _SMALL_WIDTH - 44 else outside
    line = tag("line", class_="limit", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=_SMALL_TOP - 3, y2=_SMALL_HEIGHT - BOTTOM)
    return [line, _text(x + {"end": -3, "start": 3}[anchor], _SMALL_TOP - 3, figure(limit), anchor)]


def _scale(low: float, high: float, start: float, end: float) -> _Scale:
    return _Scale(low, high, start, end)


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten that enclose [low, high]."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**n for n in range(first, max(last, first + 1) + 1)]


def _finite(points: Sequence[tuple[float, float]], positive: bool) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not positive)]


def _thin(points: list[tuple[float, float]], stepped: bool) -> list[tuple[float, float]]:
    """At most about MAX_POINTS points: changes alone for steps, means of equal groups for lines."""
    if stepped:
        changes = [b for a, b in pairwise(points) if a[1] != b[1]]
        return [*points[:1], *changes[-MAX_POINTS:], *points[-1:]]
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _line(series: Series, number: int, x_scale: _Scale, y_scale: _Scale) -> Html:
    parts: list[str] = []
    for x, y in series.points:
        px, py = f"{x_scale.at(x):.1f}", f"{y_scale.at(y):.1f}"
        if parts and series.stepped:
            parts.append(f"H{px}")
        parts.append(f"{'L' if parts else 'M'}{px} {py}")
    if len(series.points) == 1:
        x, y = series.points[0]
        return tag("circle", class_=f"dot s{number}", cx=f"{x_scale.at(x):.1f}", cy=f"{y_scale.at(y):.1f}", r=3)
    return tag("path", class_=f"line s{number}", d="".join(parts))


def _y_axis(ticks: Sequence[float], scale: _Scale, left: float = LEFT, right: float = WIDTH - RIGHT) -> list[Html]:
    marks = []
    for tick in ticks:
        y = scale.at(tick)
        marks.append(tag("line", class_="grid", x1=left, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}"))
        marks.append(_text(left - 7, y + 4, figure(tick), "end"))
    return marks


def _x_axis(ticks: Sequence[float], scale: _Scale, height: float = HEIGHT) -> list[Html]:
    inside = [scale.at(t) for t in ticks if scale.low <= t <= scale.high]
    shown = [figure(t) for t in ticks if scale.low <= t <= scale.high]
    anchors = ["end" if x > scale.end - 14 else "middle" for x in inside]
    return [_text(x, height - 8, t, anchor) for x, t, anchor in zip(inside, shown, anchors, strict=True)]


def _text(x: float, y: float, content: str, anchor: str) -> Html:
    return tag("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _svg(body: Sequence[Html], width: float = WIDTH, height: float = HEIGHT) -> Html:
    return tag("svg", *body, viewBox=f"0 0 {width} {height}", aria_hidden="true")


def _legend(series: Sequence[Series], x_unit: str) -> Html:
    last = max(s.points[-1][0] for s in series)
    names = [
        tag("span", tag("i", class_=f"s{n}"), s.label, " ", tag("b", figure(s.points[-1][1])))
        for n, s in enumerate(series)
    ]
    return tag("div", join(names), tag("span", tag("b", figure(last)), " ", x_unit, class_="at"), class_="legend")
