"""``clean.html``: one self-contained page about a cleaning: what went, why, what stays, and how fast it was."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from congling import artifact
from congling.corpus.shards import shard_files
from congling.report import words
from congling.report.cleaning_parts import (
    Cleaning,
    boilerplate,
    empty,
    excerpt,
    measures,
    quality,
    samples,
    shown_first,
    visible,
)
from congling.report.html import Html, both, join, page, section, table, tag
from congling.report.life import CLEANING_PAGE, funnel, funnel_lead, reason_name, share_bar
from congling.reporter import human

_EXCERPT = 160  # characters of a document that stands for others
_ITEMS = 40  # evaluation items shown


def write_page(folder: Path) -> Path:
    """Writes the page beside the finished clean stage in ``folder`` and returns its path.

    Raises ArtifactError when the stage is not finished.
    """
    found = Cleaning(folder)
    parts = [
        _funnel(found),
        _changes(found),
        measures(found),
        _duplicates(found),
        boilerplate(found),
        _contaminated(found),
        quality(found),
        samples(found),
        _throughput(found),
    ]
    name = folder.resolve().parent.name
    out = folder.parent / CLEANING_PAGE
    artifact.atomic_write(out, page(f"清洗 {name}", _header(found, name), join(parts)).encode("utf-8", "replace"))
    return out


def _header(found: Cleaning, name: str) -> Html:
    get = found.figure
    came, stay = get("documents_in"), get("documents_out")
    raw, left = words.size(get("bytes_in")), words.size(get("bytes_out"))
    wall = sum(found.summary["seconds"].values())
    rate = both(*(f"{get('bytes_in') / 1e6 / max(wall, 1e-9):.1f} {unit}" for unit in ("MB/秒", "MB/s")))
    facts = [
        (both("文档", "documents"), f"{words.count(came)} → {words.count(stay)}"),
        (both("字节", "bytes"), f"{raw} → {left}"),
        (both("留下（字节）", "stays (bytes)"), words.share(get("bytes_out"), get("bytes_in"))),
        (both("文件", "files"), words.count(get("files"))),
        (both("用时", "time"), words.time_of(wall)),
        (both("速度", "speed"), rate),
    ]
    story = both(
        Html(
            join([f"{words.cn(came)} 篇文档，", tag("b", raw), " 原始文本；留下 "])
            + join([tag("b", f"{words.cn(stay)} 篇"), "，", tag("b", left), "。"])
        ),
        Html(
            join([f"{human(came)} documents, ", tag("b", raw), " of raw text; "])
            + join([tag("b", f"{human(stay)} documents"), ", ", tag("b", left), " stay."])
        ),
    )
    shown = join(tag("div", tag("dt", what), tag("dd", value)) for what, value in facts)
    title = tag("h1", both("清洗", "Cleaning"), " ", tag("small", name))
    return join([title, tag("p", story, class_="story"), tag("dl", shown, class_="facts"), _contents()])


def _contents() -> Html:
    names = {
        "clean": both("漏斗", "funnel"),
        "changes": both("改动与隐私", "changes and privacy"),
        "measures": both("统计量", "measures"),
        "duplicates": both("重复", "duplicates"),
        "boilerplate": both("广告与套话", "adverts and boilerplate"),
        "contaminated": both("评测集", "evaluation sets"),
        "quality": both("质量", "quality"),
        "samples": both("样本", "samples"),
        "speed": both("速度", "speed"),
    }
    return tag("p", *(tag("a", title, href=f"#{name}") for name, title in names.items()), class_="contents")


def _funnel(found: Cleaning) -> Html:
    title = both("漏斗：每条规则去掉多少", "Funnel: what each rule takes")
    return section("clean", title, funnel(found.summary), lead=funnel_lead(found.summary))


def _changes(found: Cleaning) -> Html:
    """Documents that normalisation changed, and what was masked."""
    documents = found.figure("documents_in")
    changed = sorted(found.summary["normalised"].items(), key=lambda row: -row[1])
    rows = [
        [words.CHANGES.get(name) or name, words.count(n), words.share(n, documents), share_bar(n, documents)]
        for name, n in changed
        if n
    ]
    head = [both("规范化改了什么", "what normalisation changed"), both("文档", "documents"), "%", ""]
    masked = found.summary["masked"]
    counted = [[words.MASKED.get(kind) or kind, words.count(masked[kind])] for kind in found.config["mask"]]
    left = table(head, rows, (1, 2), "lengths") if rows else empty("没有要改的。", "Nothing had to be changed.")
    right = (
        table([both("遮盖了什么", "what was masked"), both("处", "times")], counted, (1,))
        if counted
        else empty("没有遮盖隐私。", "Personal data were not masked.")
    )
    title = both("规范化与隐私", "Normalisation and privacy")
    lead = both(
        "一篇文档可以有几种改动。遮盖的内容换成占位符，例如 [手机号]。",
        "A document may be changed in several ways. What is masked becomes a placeholder such as [手机号].",
    )
    return section("changes", title, tag("div", left, right, class_="charts"), lead=lead)


# -- duplicates ----------------------------------------------------------------------------------------------------


def _duplicates(found: Cleaning) -> Html:
    title = both("重复的文档", "Duplicates")
    exact, near = found.gone("duplicate"), found.gone("near_duplicate")
    groups = found.report["groups"]
    if not groups:
        return section("duplicates", title, empty("没有发现重复。", "No duplicates were found."))
    alike = found.config["jaccard"]
    lead = both(
        f"完全重复 {exact} 篇，近似重复（杰卡德 ≥ {alike:g}）{near} 篇。每组留下一篇。",
        f"{exact} exact, {near} near-duplicates (Jaccard ≥ {alike:g}). One of a group stays.",
    )
    texts = _texts(found.folder, [id for id, _ in groups])
    rows = [[words.count(size), f"{id}", _kept(texts.get(id))] for id, size in groups]
    head = [both("代表多少篇", "stands for"), both("留下的文档", "what stays"), both("开头", "its beginning")]
    shown = table(head, rows, (0,), "stays")
    return section("duplicates", title, _sizes(found.report.get("group_sizes") or []), _largest(shown), lead=lead)


def _largest(shown: Html) -> Html:
    return join([tag("h3", both("最大的组", "The largest groups")), shown])


def _sizes(sizes: Sequence[Sequence[int]]) -> Html:
    """Groups by how many documents they drop, of [[dropped, groups], …], in powers of two."""
    merged: dict[int, list[int]] = {}
    for dropped, groups in sizes:
        row = merged.setdefault(int(dropped).bit_length(), [0, 0])
        row[0], row[1] = row[0] + groups, row[1] + groups * dropped
    if not merged:
        return Html("")
    total = sum(groups for groups, _ in merged.values())
    rows = []
    for bits, (groups, dropped) in sorted(merged.items()):
        low, high = (1 << (bits - 1)) + 1, 1 << bits  # the one that stays counts too
        size = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        rows.append([size, words.count(groups), words.count(dropped), share_bar(groups, total)])
    head = [both("每组篇数", "documents in it"), both("组", "groups"), both("去掉", "dropped"), ""]
    name = both(f"共 {words.count(total)} 组", f"{words.count(total)} groups")
    return join([tag("h3", name), table(head, rows, (1, 2), "lengths")])


def _kept(row: Mapping[str, Any] | None) -> Html:
    if row is None:
        return Html("–")
    gone = row.get("reason")
    later = join([both("后来也去掉了：", "later dropped too: "), reason_name(gone)]) if gone else ""
    return join([tag("q", excerpt(row["text"], _EXCERPT)), " ", tag("small", later)])


def _texts(folder: Path, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Documents by id, among the corpus and the rejects, in one pass over the columns of ids."""
    found: dict[int, dict[str, Any]] = {}
    for file in (*shard_files(folder, "corpus"), *shard_files(folder, "rejects")):
        with pq.ParquetFile(file) as parquet:
            columns = [name for name in ("id", "text", "reason") if name in parquet.schema_arrow.names]
            for group in range(parquet.num_row_groups):
                wanted = np.array([id for id in ids if id not in found], np.int64)
                if not len(wanted):
                    return found
                rows = np.flatnonzero(np.isin(parquet.read_row_group(group, ["id"])["id"].to_numpy(), wanted))
                if len(rows):
                    table_ = parquet.read_row_group(group, columns).take(rows)
                    found |= {row["id"]: row for row in table_.to_pylist()}
    return found


# -- evaluation sets and speed -------------------------------------------------------------------------------------


def _contaminated(found: Cleaning) -> Html:
    """Items of evaluation sets, and in how many documents each was found."""
    title = both("评测集", "Evaluation sets")
    if not found.config["decontaminate"]:
        return section("contaminated", title, empty("没有给出评测集。", "No evaluation sets were given."))
    with np.load(found.evidence / "evals.npz") as arrays:
        asked, short = words.count(str(arrays["names"]).count("\n") + 1), words.count(int(arrays["too_short"]))
    files = visible(", ".join(Path(file).name for file in found.config["decontaminate"]))
    lead = both(
        f"在语料里查找 {files} 的 {asked} 道题；其中 {short} 道太短，查不了。",
        f"Looked for: {asked} items of {files}; {short} of them are too short to be looked for.",
    )
    items = sorted(found.report["items"].items(), key=lambda row: (-row[1], row[0]))
    if not items:
        return section("contaminated", title, empty("没有文档含有它们。", "No document holds one."), lead=lead)
    head = [both(f"题（找到 {len(items):,} 道）", f"item ({len(items):,} found)"), both("文档", "documents")]
    rows = [[visible(name), words.count(n)] for name, n in items[: 10 * _ITEMS]]
    return section("contaminated", title, shown_first(head, rows, (1,), _ITEMS), lead=lead)


def _throughput(found: Cleaning) -> Html:
    """Wall time and speed of each step, and where the processors' time went."""
    size = found.figure("bytes_in")
    wall, inner = found.summary["seconds"], found.summary["processor_seconds"]

    def rows(seconds: Mapping[str, float]) -> list[list[str]]:
        total = sum(seconds.values())
        return [
            [words.STEPS.get(name) or name, f"{s:.1f}", f"{size / 1e6 / s:,.1f}" if s else "–", share_bar(s, total)]
            for name, s in [*seconds.items(), ("total", total)]
        ]

    def of(name: Html, seconds: Mapping[str, float]) -> Html:
        return table([name, both("秒", "seconds"), both("MB/秒", "MB/s"), ""], rows(seconds), (1, 2), "lengths sums")

    spent = dict(sorted(inner.items(), key=lambda row: -row[1]))
    lead = both(
        "速度按原始文本算。第二张表是各小步在所有核上用的处理器时间。",
        "Speed is of the raw text. The second table has the processor time of inner steps, of all cores together.",
    )
    if found.manifest.get("resumed"):
        lead = join(
            [
                lead,
                both(
                    "中断后继续过：第一张表只算最后一次。",
                    " It went on after a stop: the first table is of the last try.",
                ),
            ]
        )
    body = tag(
        "div",
        of(both("步骤（用时）", "step (wall time)"), wall),
        of(both("小步（处理器时间）", "inner step (processor time)"), spent),
        class_="charts",
    )
    return section("speed", both("速度", "Speed"), body, lead=lead)
