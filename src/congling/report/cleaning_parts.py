"""Parts of the page of a cleaning: histograms of what the rules measure, boilerplate, quality, samples of documents."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from congling import artifact
from congling.clean.rules import BINS, RULES, bin_edges, format_number, quantile
from congling.clean.run import EVIDENCE
from congling.report import words
from congling.report.charts import Series, histogram, line_chart
from congling.report.data import dig
from congling.report.html import Html, both, details, join, section, table, tag
from congling.report.life import reason_name

_BARS = 64  # of a histogram
_SHOWN, _TEXT = 40, 120  # lines of a list at once, characters of one
_LENGTHS = (1200, 800, 500, 300, 150)  # characters of a sample; the first that keeps the page small
_SAMPLE_BYTES = 2 << 20  # of all samples, as markup
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")


class Cleaning:
    """A finished clean stage as it lies in ``folder``. Raises ArtifactError when it is not finished."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.evidence = folder, folder / EVIDENCE
        self.manifest = artifact.read_manifest(folder, "clean")
        self.summary: Mapping[str, Any] = self.manifest["summary"]
        self.config: Mapping[str, Any] = self.manifest["config"]["clean"]
        self.report: Mapping[str, Any] = json.loads((self.evidence / "report.json").read_bytes())

    def figure(self, *path: str) -> float:
        """A number of the summary; 0 when it is not there."""
        return dig(self.summary, *path) or 0.0

    def gone(self, *reasons: str) -> str:
        """How many documents were dropped for ``reasons``, in words."""
        return words.count(sum(self.figure("reasons", reason, "documents") for reason in reasons))


def visible(text: str) -> str:
    """A text in which control, invisible and direction characters are seen: ⟨U+202E⟩."""
    return _HIDDEN.sub(lambda m: f"⟨U+{ord(m[0]):04X}⟩", text)


def excerpt(text: str, length: int) -> str:
    """The first ``length`` characters, visible."""
    return visible(text[:length]) + ("…" if len(text) > length else "")


def empty(zh: str, en: str) -> Html:
    """That there is nothing to show."""
    return tag("p", both(zh, en), class_="empty")


def shown_first(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int], most: int) -> Html:
    """A table of the first ``most`` rows; the rest is folded away."""
    first, rest = table(head, rows[:most], numbers, "worst"), len(rows) - most
    if rest <= 0:
        return first
    return join([first, details(both(f"还有 {rest} 行", f"{rest} more"), table(head, rows[most:], numbers, "worst"))])


# -- what the rules measure ----------------------------------------------------------------------------------------


def measures(found: Cleaning) -> Html:
    """A histogram of each measure, before and after, with the limits that were set."""
    title = both("规则看什么：清洗前后", "What the rules look at, before and after")
    with np.load(found.evidence / "histograms.npz") as arrays:
        counts = np.stack([arrays["before"], arrays["after"]])  # [2, R, BINS]
    limits = np.load(found.evidence / "limits.npy")
    if counts.shape[1:] != (len(RULES), BINS):
        return section("measures", title, empty("由另一版本写成。", "Written by another version."))
    names = {"before": both("去掉的", "dropped"), "after": both("留下的", "stays")}
    names["beyond"] = both("界限之外", "beyond the limit")
    legend = tag("div", *(tag("span", tag("i", class_=k), name) for k, name in names.items()), class_="legend")
    groups = [list(group) for _, group in groupby(range(len(RULES)), key=lambda r: RULES[r].what)]
    figures = [_histogram(found, group, counts[:, group[0]], limits) for group in groups]
    rows = [_row(found, r, counts[:, r], limits[r]) for r in range(len(RULES))]
    head = [both("统计量", "measure"), both("配置项", "key"), both("界限", "limit"), both("去掉", "dropped")]
    head += [Html("5 %"), both("中位数", "median"), Html("95 %"), both("留下的中位数", "median of what stays")]
    folded = details(
        both("分位数：帮你选界限", "Quantiles: to choose limits by"), table(head, rows, range(3, 8), "worst")
    )
    lead = both(
        "纵轴是文档数（对数）。界限可以是数，也可以是语料的分位数（如 q0.05）。",
        "Upwards: documents, logarithmic. A limit is a number or a quantile of the corpus, such as q0.05.",
    )
    return section("measures", title, legend, tag("div", *figures, class_="grid3"), folded, lead=lead)


def _histogram(found: Cleaning, rules: Sequence[int], counts: NDArray[np.int64], limits: NDArray[np.float64]) -> Html:
    """The figure of one measure: ``counts`` [2, BINS], ``limits`` [R, 2] of all; two rules may look at one measure."""
    first = RULES[rules[0]]
    bounds: list[float | None] = [None, None]
    for r in rules:
        for side in (0, 1):
            bounds[side] = float(limits[r, side]) if _is_set(r, side, limits[r]) else bounds[side]
    notes = [text for r in rules for text in _limit_texts(found, r, limits[r])]
    gone = found.gone(*(RULES[r].name for r in rules))
    notes.append(both(f"去掉 {gone}", f"drops {gone}") if notes else both("不限", "no limit"))
    edges, bars = _thinned(counts, bin_edges(first), [b for b in bounds if b is not None])
    note, (before, after) = tag("small", join(notes, " · ")), bars.tolist()
    return histogram(both(first.zh, first.what), note, edges, before, after, (bounds[0], bounds[1]), log=first.log)


def _thinned(
    counts: NDArray[np.int64], edges: NDArray[np.float64], marks: Sequence[float]
) -> tuple[list[float], NDArray[np.int64]]:
    """At most _BARS bars of ``counts`` [K, BINS] over what is used or marked, and their edges."""
    used = [*np.flatnonzero(counts.any(0)), *(min(int(np.searchsorted(edges, m)), BINS - 1) for m in marks)] or [0]
    first, last = min(used), min(max(used) + max((max(used) - min(used)) // 16, 1), BINS)
    step = max(-(-(last - first) // _BARS), 1)
    begins = np.arange(first, last, step)
    return [*edges[begins].tolist(), float(edges[last])], np.add.reduceat(counts[:, :last], begins, axis=1)


def _is_set(rule: int, side: int, limits: NDArray[np.float64]) -> bool:
    """Whether a limit can drop a document at all."""
    least, most = (1, np.inf) if RULES[rule].log else (0, 1)
    return bool(limits[side] < most if side else limits[side] > least)


def _number(rule: int, value: float) -> str:
    return words.count(value) if RULES[rule].log else format_number(value)


def _limit_texts(found: Cleaning, rule: int, limits: NDArray[np.float64]) -> list[str]:
    """For example ``["≥ 0.2", "≤ 0.93 (q0.95)"]``."""
    texts = []
    for side, (sign, key) in enumerate((("≥", RULES[rule].low), ("≤", RULES[rule].high))):
        setting = found.config[key] if key else None
        if isinstance(setting, str) or (key and _is_set(rule, side, limits)):
            texts.append(
                f"{sign} {_number(rule, limits[side])}" + (f" ({setting})" if isinstance(setting, str) else "")
            )
    return texts


def _row(found: Cleaning, number: int, counts: NDArray[np.int64], limits: NDArray[np.float64]) -> list[str]:
    rule, (before, after) = RULES[number], counts
    asked = [(before, 0.05), (before, 0.5), (before, 0.95), (after, 0.5)]
    values = [_number(number, quantile(of, rule, q)) if of.any() else "–" for of, q in asked]
    keys = tag("code", ", ".join(key for key in (rule.low, rule.high) if key))
    bounds = ", ".join(_limit_texts(found, number, limits)) or "–"
    return [both(rule.zh, rule.what), keys, bounds, found.gone(rule.name), *values]


# -- boilerplate and quality ---------------------------------------------------------------------------------------


def boilerplate(found: Cleaning) -> Html:
    """Lines and phrases that repeat across documents, the worst first."""
    title = both("广告与套话", "Adverts and boilerplate")
    file = found.evidence / "adverts.tsv"
    if found.config["adverts"] == "off":
        return section("boilerplate", title, empty("没有去找。", "They were not looked for."))
    listed = [line.split("\t", 3) for line in file.read_text(encoding="utf-8").split("\n")[1:-1]]
    if not listed:
        return section("boilerplate", title, empty("没有发现。", "None were found."))
    kinds = {"phrase": both("短语", "phrase"), "line": both("行", "line")}
    rows = [
        [kinds[kind], excerpt(text, _TEXT), words.count(float(documents)), words.count(float(harm))]
        for kind, documents, harm, text in listed[: 10 * _SHOWN]
    ]
    head = [both("种类", "kind"), both("文字", "text"), both("文档", "documents"), both("危害", "harm")]
    with np.load(found.evidence / "boilerplate.npz") as arrays:
        lines = words.count(len(arrays["lines"]))
    phrases = words.count(sum(kind == "phrase" for kind, *_ in listed))
    given = found.config["advert_list"]
    origin = both("短语来自 ", "Phrases are from "), visible(given), both("。", ". ")
    lead = both(
        f"很多文档里都有的 {phrases} 个短语、{lines} 种行，按危害（篇数 × 字数）排列；短语的篇数是抽样里的。",
        f"{phrases} phrases and {lines} lines that stand in many documents, by harm: documents × letters. "
        "Documents of a phrase are those of the sample.",
    )
    if given:
        lead = join([*origin, lead])
    return section("boilerplate", title, _what_was_done(found), shown_first(head, rows, (2, 3), _SHOWN), lead=lead)


def _what_was_done(found: Cleaning) -> Html:
    gone, least = found.gone("advert"), found.config["advert_hits"]
    cut, size = words.count(found.figure("documents_cut")), words.size(found.figure("bytes_cut"))
    did = {
        "cut": both(f"从 {cut} 篇里剪去 {size}，", f"{size} were cut from {cut} documents, "),
        "drop": both(f"含 {least} 种以上的整篇去掉：", f"Documents with {least} or more went: "),
    }[found.config["adverts"]]
    went = both(f"去掉 {gone} 篇。可以修改的清单：", f"{gone} were dropped. A list to edit: ")
    use = both("，用 clean.advert_list 交回。", ", to be given back as clean.advert_list.")
    return tag("p", did, went, tag("code", f"{found.folder.name}/{EVIDENCE}/adverts.tsv"), use)


def quality(found: Cleaning) -> Html:
    """How well the classifier judges documents that it did not see, and what it said of the corpus."""
    title = both("质量分类器", "The classifier of quality")
    file = found.evidence / "classifier.npz"
    if not file.exists():
        hint = both("没有标注；从这里开始：", "There are no labels. They begin here: ")
        return section("quality", title, tag("p", hint, tag("code", "congling label CORPUS"), class_="empty"))
    with np.load(file) as arrays:
        report = json.loads(str(arrays["report"]))
    left = tag("div", _confusion(report["confusion"]), _scores(found.report["scores"], report["keep"]))
    body = tag("div", left, _reliability(report), class_="charts")
    labels = words.count(sum(report["people"]["annotators"].values()))
    lead = both(
        f"由 {labels} 个标注学成；准确率等数字来自它没见过的文档。",
        f"Learned from {labels} labels; its figures are of documents that it did not see.",
    )
    return section("quality", title, _held_out(report), body, _people(report), lead=lead)


def _held_out(report: Mapping[str, Any]) -> Html:
    keep = report["keep"]
    facts = [
        (both("准确率", "accuracy"), words.decimals(report["accuracy"])),
        (both("总说最常见的一类", "always the commonest"), words.decimals(report["majority"])),
        (both("校准误差", "calibration error"), words.decimals(report["calibration_error"])),
        (both("“留下”的精确率", "precision of “keep”"), words.decimals(keep.get("precision"))),
        (both("“留下”的召回率", "recall of “keep”"), words.decimals(keep.get("recall"))),
    ]
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="figures")


def _scores(scores: Sequence[int], keep: Mapping[str, Any]) -> Html:
    """Documents of the corpus by score; a bar that the limit divides counts as staying."""
    least, edges = keep["least"], [n / len(scores) for n in range(len(scores) + 1)]
    stays = [n if edge > least else 0 for n, edge in zip(scores, edges[1:], strict=True)]
    note = tag("small", both(f"≥ {least:.3f} 留下（{keep['asked']}）", f"≥ {least:.3f} stays ({keep['asked']})"))
    return histogram(both("语料的得分", "Scores of the corpus"), note, edges, scores, stays, (least, None))


def _confusion(counts: Sequence[Sequence[float]]) -> Html:
    """Shares of each row: what people said against what the classifier says."""
    order = [(place, words.LABELS[name]) for place, name in ((2, "high"), (1, "mid"), (0, "low"))]
    rows = []
    for label, name in order:
        cells = [words.share(counts[label][said], sum(counts[label])) for said, _ in order]
        rows.append([name, *(tag("b", c) if said == label else c for c, (said, _) in zip(cells, order, strict=True))])
    head = [both("人 ╲ 机器", "people ╲ machine"), *(name for _, name in order)]
    return table(head, rows, (1, 2, 3))


def _reliability(report: Mapping[str, Any]) -> Html:
    """Whether documents with a score of 0.7 are worth 0.7 to people."""
    points = [(score, worth) for _, score, worth in report["reliability"]]
    series = [
        Series(both("人的评价", "worth to people"), points),
        Series(both("完全校准", "perfect"), [(score, score) for score, _ in points]),
    ]
    title = both("得分可信吗", "Can scores be believed")
    return line_chart(title, both("没见过的文档", "documents not seen"), series, x_unit=both("得分", "score"))


def _people(report: Mapping[str, Any]) -> Html:
    """Who labelled, how far they agree, and what a teacher added."""
    people = report["people"]
    named = ", ".join(f"{visible(name)} {n}" for name, n in people["annotators"].items())
    said = [join([both("标注者：", "Labelled by: "), named])]
    for pair in people["agreement"]:
        together, alike, kappa = pair["both"], f"{pair['share']:.0%}", words.decimals(pair["kappa"], 2)
        found = both(
            f"：共 {together} 篇，一致 {alike}，κ {kappa}", f": {together} in common, {alike} alike, κ {kappa}"
        )
        said.append(join([" + ".join(map(visible, pair["annotators"])), found]))
    if teacher := report.get("teacher"):
        right, alone = words.decimals(teacher["accuracy"]), words.decimals(teacher["student_alone"])
        many = words.count(teacher["documents"])
        found = both(
            f"：教师，准确率 {right}，标了 {many} 篇；没有它时学生的准确率是 {alone}",
            f": the teacher, accuracy {right}, labelled {many} documents; without it the student's is {alone}",
        )
        said.append(join([visible(teacher["model"]), found]))
    return tag("ul", *(tag("li", line) for line in said), class_="rejects")


# -- samples -------------------------------------------------------------------------------------------------------


def explain_command(folder: Path) -> str:
    """``congling clean explain {} run.name=demo`` for the clean stage in ``folder``; an id fills the braces."""
    run = folder.parent
    where = "" if str(run.parent) == "runs" else f" run.dir={shlex.quote(str(run.parent))}"
    return f"congling clean explain {{}} run.name={shlex.quote(run.name)}{where}"


def samples(found: Cleaning) -> Html:
    """Random documents that stay, and of each reason that do not, folded away."""
    examples, command, folded = found.report["examples"], explain_command(found.folder), []
    length = _fitting([row["text"] for rows in examples.values() for row in rows])
    for reason in ("", *found.summary["reasons"]):
        if rows := examples.get(reason):
            name = reason_name(reason) if reason else both("留下的", "stays")
            whole = found.gone(reason) if reason else words.count(found.figure("documents_out"))
            of = tag("small", both(f"{len(rows)} / {whole} 篇", f"{len(rows)} of {whole}"))
            folded.append(details(join([name, of]), *(_document(row, length, command) for row in rows)))
    lead = both(
        f"随机抽取。文本最多显示 {length} 字；命令说明一篇文档经历了什么。",
        f"Drawn at random. At most {length} characters are shown; the command tells what happened to a document.",
    )
    return section("samples", both("随机样本", "Random samples"), *folded, lead=lead)


def _document(row: Mapping[str, Any], length: int, command: str) -> Html:
    facts = [tag("b", f"{row['id']}"), tag("span", visible(row["source"] or ""))]
    facts.append(tag("small", visible(row.get("detail") or "")))
    text = tag("q", excerpt(row["text"], length))
    return tag("div", tag("p", *facts), text, tag("code", command.format(row["id"])), class_="document")


def _fitting(texts: Sequence[str]) -> int:
    """How many characters of each text may be shown."""
    for length in _LENGTHS:
        if sum(len(escape(text[:length]).encode("utf-8", "replace")) for text in texts) <= _SAMPLE_BYTES:
            break
    return length
