"""The parts of the page about text: header, strip of stages, cleaning, vocabulary; and the times and origins of all."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from congling.report import words
from congling.report.charts import Series, line_chart, stacked_bars
from congling.report.data import RunView, StageView, dig, number
from congling.report.html import Html, both, details, join, section, table, tag
from congling.reporter import human

CLEANING_PAGE = "clean.html"  # beside the report, written by report.cleaning
_SHOWN = 280  # characters of a reject
# Lengths of pieces that are drawn apart; longer ones count as the last.
LENGTHS = {str(n): both(f"{n} 字", f"{n} characters" if n > 1 else "1 character") for n in range(1, 8)}
LENGTHS["8"] = both("8 字以上", "8 or more")


def header(run: RunView) -> Html:
    """Name, when, machine, total time, and the run in one sentence."""
    begun = min((s.manifest["started"] for s in run.done if s.name != "fetch"), default=run.now)
    when = datetime.fromtimestamp(begun).strftime("%Y-%m-%d %H:%M")
    hosts = {
        tuple(sorted((s.manifest.get("host") or {}).items())): s.manifest["host"]
        for s in run.done
        if s.manifest.get("host")
    }
    machine = join((_machine(host) for host in hosts.values()), " · ")
    total = sum(s.seconds for s in run.stages.values())
    facts = [
        (both("开始于", "begun"), when),
        (both("机器", "machine"), machine or "–"),
        (both("总用时", "total time"), words.time_of(total)),
        (both("完成阶段", "stages done"), f"{len(run.done)} / {len(run.stages)}"),
    ]
    shown = join(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts)
    return join([tag("h1", run.name), tag("p", _story(run), class_="story"), tag("dl", shown, class_="facts")])


def _machine(host: Mapping[str, Any]) -> Html:
    cores = host.get("cores")
    return join([f"{host.get('machine')} {host.get('system')} · ", both(f"{cores} 核", f"{cores} cores")])


def _story(run: RunView) -> Html:
    """Raw bytes → documents → tokens → parameters → bits per byte, as far as the run has come."""
    stage = run.stages
    clauses: list[tuple[Html, Html]] = []

    def add(zh: str, en: str, zh_figure: str, en_figure: str) -> None:
        clauses.append((_emphasised(zh, zh_figure), _emphasised(en, en_figure)))

    if raw := stage["clean"].figure("bytes_in"):
        add("从 * 原始文本出发", "From * of raw text", words.size(raw), words.size(raw))
    if documents := stage["clean"].figure("documents_out"):
        add("留下 * 篇文档", "* documents stayed", words.cn(documents), human(documents))
    if tokens := sum(stage["tokenize"].figure(split, "tokens") or 0 for split in ("train", "valid")):
        add("切成 * 个词元", "cut into * tokens", words.cn(tokens), human(tokens))
    if parameters := stage["pretrain"].figure("parameters"):
        add("训练出 * 个参数", "which taught * parameters", words.cn(parameters), human(parameters))
    if bits := stage["pretrain"].figure("bits_per_byte"):
        add("没见过的文本每字节 * 比特", "and unseen text now takes * bits per byte", f"{bits:.3f}", f"{bits:.3f}")
    if not clauses:
        return both("这次运行刚刚开始。", "This run has only begun.")
    return both(Html(join((zh for zh, _ in clauses), "，") + "。"), Html(join((en for _, en in clauses), ", ") + "."))


def _emphasised(text: str, figure: str) -> Html:
    before, _, after = text.partition("*")
    return join([before, tag("b", figure), after])


# -- strip of stages -----------------------------------------------------------------------------------------------


def strip(run: RunView) -> Html:
    """All stages with time, memory and what came out; below it, how the time was spent."""
    cards = [_card(stage) for stage in run.stages.values()]
    total = sum(s.seconds for s in run.stages.values())
    spans = [
        tag(
            "span",
            title=f"{s.name} {words.share(s.seconds, total)}",
            class_=f"c{i}",
            style=f"flex-grow:{s.seconds:.3f}",
        )
        for i, s in enumerate(run.stages.values())
        if s.seconds > 0
    ]
    return join([tag("ol", *cards, class_="strip"), tag("div", *spans, class_="spent") if spans else ""])


def _card(stage: StageView) -> Html:
    where = {"tokenizer": "vocabulary", "tokenize": "vocabulary", "fetch": "times"}.get(stage.name, stage.name)
    lines: list[str] = [tag("strong", words.NAMES[stage.name])]
    if stage.state == "done":
        memory = stage.figure("peak_memory")
        lines += [
            tag("span", _came_out(stage), class_="out"),
            tag("span", words.time_of(stage.seconds)),
            tag("span", both("内存 ", "memory "), words.size(memory)) if memory else "",
        ]
    else:
        lines += [tag("span", words.STATES[stage.state], class_="out"), tag("span", _progress(stage))]
    return tag("li", tag("a", *lines, href=f"#{where}"), class_=f"stage {stage.state}")


def _came_out(stage: StageView) -> Html:
    get = stage.figure
    if stage.name == "clean":
        raw, stays = words.size(get("bytes_in")), words.size(get("bytes_out"))
        return join([raw.removesuffix(stays[-3:]), " → ", stays])  # one unit is enough
    if stage.name == "tokenizer":
        return both(f"{words.count(get('size'))} 个词", f"{words.count(get('size'))} pieces")
    if stage.name == "tokenize":
        tokens = human((get("train", "tokens") or 0) + (get("valid", "tokens") or 0))
        return both(f"{tokens} 词元", f"{tokens} tokens")
    if stage.name in ("pretrain", "sft"):
        return both(*(f"{words.decimals(get('bits_per_byte'))} {unit}" for unit in ("比特/字节", "bits/byte")))
    if stage.name == "evaluate":
        bits = words.decimals(get("chat", "bits_per_byte"))
        return both(f"{bits} 比特/字节", f"{bits} bits/byte")
    return Html(words.size(get("bytes") or sum(o["bytes"] for o in stage.manifest["outputs"].values())))


def _progress(stage: StageView) -> str:
    tokens = [x for x, _ in stage.points("train", "loss")]
    if tokens:
        return both(f"{human(tokens[-1])} 词元", f"{human(tokens[-1])} tokens")
    rounds = stage.rows("round")
    return both(f"第 {len(rounds)} 轮", f"round {len(rounds)}") if rounds else stage.problem


# -- cleaning ------------------------------------------------------------------------------------------------------


def cleaning(run: RunView) -> Html:
    """The funnel, with examples to look at, and the way to the page of the cleaning where there is one."""
    title = both("清洗：漏斗", "Cleaning: the funnel")
    stage = run.stages["clean"]
    if not stage.summary:
        return section("clean", title)
    more = Html("")
    if (stage.folder.parent / CLEANING_PAGE).exists():
        link = both("清洗的全部细节", "All about the cleaning")
        more = tag("p", tag("a", link, href=CLEANING_PAGE), class_="lead")
    return section("clean", title, more, funnel(stage.summary), _examples(run), lead=funnel_lead(stage.summary))


def funnel_lead(summary: Mapping[str, Any]) -> Html:
    """How many documents came and stay, and how they are counted."""
    documents, stay = (
        words.count(dig(summary, "documents_in") or 0.0),
        words.count(dig(summary, "documents_out") or 0.0),
    )
    return both(
        f"{documents} 篇进，{stay} 篇出。一篇文档按第一条触犯的规则计数，每篇都可以查看。",
        f"{documents} documents in, {stay} out. Each counts for the first rule it breaks.",
    )


def funnel(summary: Mapping[str, Any]) -> Html:
    """What each rule took, and what was cut from documents that stay, in documents and bytes."""
    reasons: Mapping[str, Any] = summary.get("reasons") or {}
    whole = dig(summary, "bytes_normalised") or dig(summary, "bytes_in") or 0.0
    documents = dig(summary, "documents_in") or 0.0
    left, rows = whole, [_funnel_row(both("原始", "raw"), documents, whole, documents, whole, whole, 0.0)]
    taken = [(reason_name(r), dig(n, "documents") or 0.0, dig(n, "bytes") or 0.0) for r, n in reasons.items()]
    if cut := dig(summary, "bytes_cut"):
        taken.append((both("文内剪去", "cut within documents"), dig(summary, "documents_cut") or 0.0, cut))
    for name, gone, gone_bytes in taken:
        left -= gone_bytes
        rows.append(_funnel_row(name, gone, gone_bytes, documents, whole, left, gone_bytes))
    stay, stay_bytes = dig(summary, "documents_out") or 0.0, dig(summary, "bytes_out") or 0.0
    rows.append(_funnel_row(both("留下", "stays"), stay, stay_bytes, documents, whole, stay_bytes, 0.0))
    head = [
        both("原因", "reason"),
        *(both("文档", "documents"), both("占文档", "of documents"), both("字节", "bytes"), both("占字节", "of bytes")),
        both("剩下与去掉（字节）", "left and taken (bytes)"),
    ]
    return table(head, rows, (1, 2, 3, 4), "funnel")


def _funnel_row(
    name: Html, documents: float, size: float, all_documents: float, whole: float, left: float, taken: float
) -> list[str]:
    widths = [max(100 * v / whole, 0.0) if whole else 0.0 for v in (left, taken)]
    bar = tag(
        "div",
        tag("i", class_="left", style=f"width:{widths[0]:.2f}%"),
        tag("i", class_="taken", style=f"width:{widths[1]:.2f}%") if taken else "",
        class_="bar",
    )
    shares = words.share(documents, all_documents), words.share(size, whole)
    return [name, words.count(documents), shares[0], words.size(size), shares[1], bar]


def reason_name(reason: str) -> Html:
    """The words for a reason; of one without words its name."""
    return words.REASONS.get(reason) or join([reason])


def _examples(run: RunView) -> Html:
    folded = []
    for reason, rows in run.rejects.items():
        items = [
            tag("li", tag("q", _shortened(str(row.get("text") or ""))), " ", tag("small", str(row.get("detail") or "")))
            for row in rows
        ]
        folded.append(details(reason_name(reason), tag("ul", *items, class_="rejects")))
    return join([tag("h3", both("被丢弃的例子", "What was thrown away")), *folded]) if folded else Html("")


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


# -- vocabulary ----------------------------------------------------------------------------------------------------


def vocabulary(run: RunView) -> Html:
    """Size, piece lengths and bytes a token over the rounds, and the final vocabulary by length."""
    stage = run.stages["tokenizer"]
    charts = join(round_charts(stage.rows("round")))
    lead = _vocabulary_lead(stage, run.stages["tokenize"]) if stage.summary else Html("")
    body = [tag("div", charts, class_="charts") if charts else "", lengths_table(stage.summary.get("pieces_by_length"))]
    return section("vocabulary", both("词表", "Vocabulary"), *body, lead=lead)


def round_charts(rounds: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Pieces by length, and bytes a token, after each round of the training; empty without rounds."""
    bars = [(f"{number(row, 'step') or 0:.0f}", by_length(row.get("pieces_by_length"))) for row in rounds]
    used = {key: label for key, label in LENGTHS.items() if any(values.get(key) for _, values in bars)}
    efficiency = [
        (x, y)
        for r in rounds
        if (x := number(r, "step")) is not None and (y := number(r, "bytes_per_token")) is not None
    ]
    return [
        stacked_bars(both("每轮的词数", "Pieces after each round"), both("按字数", "by length"), bars, used),
        line_chart(
            both("每个词元的字节数", "Bytes a token"),
            both("越多，文本越短", "more means shorter sequences"),
            [Series(both("字节/词元", "bytes a token"), efficiency)],
            x_unit=both("轮", "rounds"),
        ),
    ]


def by_length(counts: Any) -> dict[str, float]:
    """{characters: pieces} with all beyond eight together."""
    found: dict[str, float] = {}
    for key, value in counts.items() if isinstance(counts, Mapping) else ():
        if str(key).isdecimal() and isinstance(value, int | float):
            merged = str(min(int(key), len(LENGTHS)))
            found[merged] = found.get(merged, 0.0) + value
    return found


def _vocabulary_lead(stage: StageView, tokenize: StageView) -> Html:
    pieces, rounds = words.count(stage.figure("size")), words.count(stage.figure("rounds"))
    rate = words.decimals(tokenize.figure("bytes_per_token") or stage.figure("bytes_per_token"), 2)
    return both(
        f"{rounds} 轮之后有 {pieces} 个词；每个词元平均 {rate} 字节。",
        f"{pieces} ids after {rounds} rounds; a token stands for {rate} bytes.",
    )


def lengths_table(counts: Any) -> Html:
    """How many pieces ({characters: pieces}) have each length."""
    merged = by_length(counts)
    whole = sum(merged.values())
    rows = [
        [LENGTHS[key], words.count(n), words.share(n, whole), share_bar(n, whole)]
        for key, n in sorted(merged.items())
        if key in LENGTHS
    ]
    return table([both("长度", "length"), both("词", "pieces"), "%", ""], rows, (1, 2), "lengths") if rows else Html("")


def share_bar(part: float, whole: float) -> Html:
    """A bar of the width of a share."""
    width = 100 * part / whole if whole else 0.0
    return tag("div", tag("i", class_="left", style=f"width:{width:.2f}%"), class_="bar")


# -- times and origins ---------------------------------------------------------------------------------------------


def times(run: RunView) -> Html:
    """A row a stage: state, when, how long, memory, and what lies on disk."""
    total = sum(s.seconds for s in run.stages.values())
    rows = [
        [
            words.NAMES[s.name],
            words.STATES[s.state],
            datetime.fromtimestamp(s.manifest["started"]).strftime("%m-%d %H:%M:%S") if s.manifest else "–",
            words.time_of(s.seconds) if s.seconds else "–",
            words.share(s.seconds, total) if s.seconds else "–",
            words.size(s.figure("peak_memory")),
            words.size(sum(o["bytes"] for o in s.manifest["outputs"].values())) if s.manifest else "–",
        ]
        for s in run.stages.values()
    ]
    head = [both("阶段", "stage"), both("状态", "state"), both("开始", "begun"), both("用时", "time"), "%"]
    head += [both("内存峰值", "peak memory"), both("结果", "result")]
    resumed = [s.name for s in run.done if s.manifest.get("resumed")]
    note = both("中断后继续过：", "Went on after a stop: ") if resumed else ""
    body = [table(head, rows, (2, 3, 4, 5, 6)), tag("p", note, ", ".join(resumed), class_="lead") if resumed else ""]
    return section("times", both("用时与内存", "Time and memory"), *body)


def lineage(run: RunView) -> Html:
    """What each stage was made from: configuration, inputs, outputs, versions; folded."""
    folded = [
        details(words.NAMES[stage.name], *_origins(stage)) if stage.manifest else tag("p", stage.problem)
        for stage in run.stages.values()
        if stage.manifest or stage.problem
    ]
    lead = both("每个阶段的配置、输入的哈希与库的版本。", "Configuration, input hashes and versions of each stage.")
    return section("lineage", both("来历", "Lineage"), *folded, lead=lead)


def _origins(stage: StageView) -> Sequence[Html]:
    manifest = stage.manifest
    config = [
        [f"{name}.{key}", json.dumps(value, ensure_ascii=False)]
        for name, fields in (manifest.get("config") or {}).items()
        for key, value in fields.items()
    ]
    inputs = [
        [name, str(found.get("path") or f"{len(found.get('files') or ())} files"), str(found.get("hash"))]
        for name, found in (manifest.get("inputs") or {}).items()
    ]
    outputs = [[name, words.size(o["bytes"]), str(o["hash"])] for name, o in (manifest.get("outputs") or {}).items()]
    versions = {"congling": manifest.get("code"), **(manifest.get("libraries") or {})}
    known = [*versions.items(), ("seed", manifest.get("seed")), ("key", manifest.get("key"))]
    parts = [
        table([both("配置", "configuration"), ""], config, class_="plain"),
        table([both("输入", "inputs"), "", ""], inputs, class_="plain") if inputs else Html(""),
        table([both("结果", "results"), "", ""], outputs, (1,), "plain"),
        table([both("版本", "versions"), ""], [[str(k), str(v)] for k, v in known], class_="plain"),
    ]
    return [tag("div", *parts, class_="origins")]
