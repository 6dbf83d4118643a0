"""The parts of the page about the model: training curves, samples as they improved, the evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from congling.report import words
from congling.report.charts import Series, line_chart
from congling.report.data import RunView, StageView, dig, number
from congling.report.html import Html, both, details, join, section, table, tag
from congling.reporter import human

_FRAMES = 40  # moments of the samples that are kept
_QUESTIONS = 8  # shown at once; the others are folded away


def training(stage: StageView) -> Html:
    """Curves over the tokens seen, then the samples."""
    title = join([words.NAMES[stage.name], both("：它怎样学会的", ": how it learned")])
    charts = _charts(stage)
    body = [tag("div", *charts, class_="charts") if charts else "", _samples(stage), _notes(stage)]
    return section(stage.name, title, *body, lead=_training_lead(stage))


def _training_lead(stage: StageView) -> Html:
    if not stage.summary:
        return words.STATES[stage.state] if stage.state != "absent" else Html("")
    steps, tokens = words.count(stage.figure("steps")), stage.figure("tokens") or 0
    bits, rate = words.decimals(stage.figure("bits_per_byte")), words.count(stage.figure("tokens_per_second"))
    return both(
        f"{steps} 步，{words.cn(tokens)} 个词元，平均每秒 {rate} 个；留出文本上 {bits} 比特/字节。",
        f"{steps} steps, {human(tokens)} tokens at {rate} a second; {bits} bits per byte on held-out text.",
    )


def _charts(stage: StageView) -> list[Html]:
    tokens, train, valid = both("词元", "tokens"), both("训练", "training"), both("留出", "held out")

    def chart(title: Html, unit: Html, key: str, label: Html | None = None, **options: bool) -> Html:
        stepped = options.pop("stepped", False)
        lines = [Series(label or train, stage.points("train", key), stepped)]
        if label is None:
            lines.append(Series(valid, stage.points("valid", key)))
        return line_chart(title, unit, lines, x_unit=tokens, **options)

    rate = both("词元/秒", "tokens a second")
    lr, norm, length = (
        both("学习率", "Learning rate"),
        both("梯度范数", "Gradient norm"),
        both("序列长度", "Sequence length"),
    )
    charts = [
        chart(both("每字节比特数", "Bits per byte"), both("越低越好", "lower is better"), "bits_per_byte"),
        chart(both("损失", "Loss"), both("纳特/词元", "nats a token"), "loss"),
        chart(lr, Html(""), "lr", both("学习率", "rate"), from_zero=True),
        chart(length, both("词元", "tokens"), "seq_len", both("长度", "length"), stepped=True, from_zero=True),
        chart(both("速度", "Speed"), rate, "tokens_per_second", rate, from_zero=True),
        chart(norm, both("裁剪之前", "before clipping"), "grad_norm", both("范数", "norm"), from_zero=True),
    ]
    return [c for c in charts if c]


def _samples(stage: StageView) -> Html:
    """Frames {tokens: texts}, one shown at a time by the page's slider; all of them on paper and without a script."""
    frames: dict[float, list[Mapping[str, Any]]] = {}
    for row in stage.rows("sample"):
        frames.setdefault(number(row, "tokens") or 0.0, []).append(row)
    if not frames:
        return Html("")
    kept = _spread(sorted(frames.items()), _FRAMES)
    shown = [tag("div", _frame_title(tokens), _frame(rows), class_="frame") for tokens, rows in kept]
    slider = tag("input", type="range", min=0, max=len(kept) - 1, value=len(kept) - 1, aria_label="samples")
    ends = [tag("span", f"{human(kept[i][0])}") for i in (0, -1)]
    control = tag("div", ends[0], slider, ends[1], class_="slider") if len(kept) > 1 else ""
    title = tag("h3", both("它写的字，一步步变好", "Its writing, as it improved"))
    return join([title, tag("div", control, *shown, class_="frames")])


def _spread(frames: list[Any], most: int) -> list[Any]:
    """At most ``most`` of the frames, evenly, with the first and the last."""
    if len(frames) <= most:
        return frames
    return [frames[round(i * (len(frames) - 1) / (most - 1))] for i in range(most)]


def _frame_title(tokens: float) -> Html:
    return tag("h4", both(f"读过 {words.cn(tokens)} 个词元", f"after {human(tokens)} tokens"))


def _frame(rows: Sequence[Mapping[str, Any]]) -> Html:
    return tag("div", *(_said(str(row.get("prompt") or ""), str(row.get("text") or "")) for row in rows))


def _said(prompt: str, text: str) -> Html:
    return tag("p", tag("b", prompt), tag("span", text or "∅"), class_="said")


def _notes(stage: StageView) -> Html:
    rows = [[words.count(number(r, "step")), str(r.get("text") or "")] for r in stage.rows("note")]
    if not rows:
        return Html("")
    shown = table([both("步", "step"), both("发生了什么", "what happened")], rows, (0,))
    return details(both(f"记录（{len(rows)} 条）", f"Notes ({len(rows)})"), shown)


# -- evaluation ----------------------------------------------------------------------------------------------------


def evaluation(run: RunView) -> Html:
    """The figures, what the chat model says, and the questions with its answers beside the references."""
    title, found = both("评测", "Evaluation"), run.evaluation
    if not found:
        return section("evaluate", title)
    said = [_said(str(s.get("prompt") or ""), str(s.get("text") or "")) for s in _listed(found.get("samples"))]
    shown = join([tag("h3", both("它说", "What it says")), tag("div", *said, class_="saying")]) if said else ""
    return section("evaluate", title, tag("dl", *_figures(found), class_="figures"), shown, _questions(found))


def _figures(found: Mapping[str, Any]) -> list[Html]:
    f1, chinese = dig(found, "questions", "bigram_f1"), dig(found, "questions", "chinese_share")
    figures = [
        (both("基座：比特/字节", "base: bits per byte"), words.decimals(dig(found, "base", "bits_per_byte"))),
        (both("对话：比特/字节", "chat: bits per byte"), words.decimals(dig(found, "chat", "bits_per_byte"))),
        (both("答案与参考的二元 F1", "bigram F1 with reference"), words.decimals(f1)),
        (both("答案中的汉字", "Chinese in answers"), "–" if chinese is None else words.share(chinese, 1)),
        (both("生成词元/秒", "tokens a second, decoding"), words.count(dig(found, "decode_tokens_per_second"))),
    ]
    return [tag("div", tag("dt", name), tag("dd", value)) for name, value in figures if value != "–"]


def _questions(found: Mapping[str, Any]) -> Html:
    asked = found.get("questions")
    rows = [
        [
            str(row.get("question") or ""),
            str(row.get("answer") or ""),
            str(row.get("reference") or ""),
            words.decimals(number(row, "bigram_f1"), 2),
        ]
        for row in _listed(asked.get("rows") if isinstance(asked, Mapping) else None)
    ]
    if not rows:
        return Html("")
    head = [both("问题", "question"), both("模型的回答", "its answer"), both("参考", "reference"), "F1"]
    rest = rows[_QUESTIONS:]
    more = details(both(f"其余 {len(rest)} 题", f"{len(rest)} more"), table(head, rest, (3,), "asked")) if rest else ""
    title = tag("h3", both(f"{len(rows)} 道题", f"{len(rows)} questions"))
    return join([title, table(head, rows[:_QUESTIONS], (3,), "asked"), more])


def _listed(rows: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
