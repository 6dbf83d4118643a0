"""``congling tokenizer inspect``: one self-contained page about a vocabulary, and what it makes of texts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from congling.artifact import atomic_write
from congling.report import words
from congling.report.charts import Series, line_chart
from congling.report.data import number
from congling.report.html import Html, both, details, join, page, section, table, tag
from congling.report.life import LENGTHS, by_length, lengths_table, round_charts
from congling.tokenizer import inspect
from congling.tokenizer.inspect import Coverage, Domain, Segmentation, Token, Usage
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import escape

EXAMPLES = (
    (both("现代文", "Modern prose"), "清晨的菜市场已经热闹起来，卖豆腐的大爷一边切一边说：“今天的豆子好，豆腐也香。”"),
    (both("容易切错的", "Easy to cut wrongly"), "研究生命的起源。南京市长江大桥。乒乓球拍卖完了。"),
    (both("文言", "Classical"), "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？"),
    (both("代码与英文", "Code and English"), 'def greet(name):\n    return f"你好，{name}!"  # say hello in Chinese\n'),
    (both("数字", "Numbers"), "2024年3月15日，气温-3.5℃，共12,345人参加，占67.8%，电话010-88886666。"),
    (both("表情与生僻字", "Emoji and rare characters"), "龘、䶮、𠮷野家，👨‍👩‍👧‍👦很高兴😀，café\u3000Привет"),
)
_MARKS = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u3000": "□"}
_SETS = {
    "gb2312_1": both("GB 2312 一级汉字", "GB 2312 level 1"),
    "gb2312_2": both("GB 2312 二级汉字", "GB 2312 level 2"),
    "common": both("通用规范汉字表", "General Standard Chinese Characters"),
    "cjk": both("中日韩统一表意文字基本区", "CJK Unified Ideographs, basic block"),
    "ascii": both("可见 ASCII", "Printable ASCII"),
}
_PARTS = 60  # of a text that are shown
_PIECES = 12  # shown of a length
_CHARACTERS = 600  # that are missing, shown of a set


def write_page(
    tokenizer: Tokenizer,
    folder: Path | None,
    texts: Sequence[str],
    files: Sequence[Path],
    out: Path,
    most_bytes: int = 4 << 20,
) -> Path:
    """Writes the page to ``out`` and returns it.

    folder: of the stage that made the vocabulary, for its rounds. texts: to segment (none: examples of ours). files:
    a domain each, for its fertility; of each about ``most_bytes`` are read. Raises ValueError for a broken one.
    """
    shown = [(both(f"文本 {n}", f"Text {n}"), text) for n, text in enumerate(texts, 1)] or EXAMPLES
    domains = inspect.read_domains(files, most_bytes)
    usage = inspect.usage(tokenizer.vocabulary, 2 * _PIECES)
    body = [
        _texts(tokenizer, shown),
        _rounds(tokenizer, inspect.rounds(folder) if folder else []),
        _usage(usage),
        _coverage(inspect.coverage(tokenizer)),
        _fertility(tokenizer, domains),
    ]
    name = "/".join(folder.resolve().parts[-2:]) if folder else ""
    content = page(f"词表 {name}".strip(), _header(tokenizer, name, usage), join(body))
    atomic_write(out, content.encode("utf-8", "replace"))
    return out


def _header(tokenizer: Tokenizer, name: str, usage: Sequence[Usage]) -> Html:
    v = tokenizer.vocabulary
    seed = v.kind == "seed"
    facts = [
        (both("编号", "ids"), words.count(v.size)),
        (both("词", "pieces"), words.count(len(v.pieces))),
        (both("最长的词", "longest piece"), both(*(f"{usage[-1].length} {unit}" for unit in ("字", "characters")))),
        (both("词的总次数", "pieces counted"), words.count(sum(v.counts))),
        (both("种类", "kind"), both("种子项目", "the seed's") if seed else both("从零", "congling")),
    ]
    shown = join(tag("div", tag("dt", what), tag("dd", value)) for what, value in facts)
    return join([tag("h1", both("词表", "Vocabulary"), " ", tag("small", name)), tag("dl", shown, class_="facts")])


# -- segmentation --------------------------------------------------------------------------------------------------


def _texts(tokenizer: Tokenizer, texts: Iterable[tuple[Html, str]]) -> Html:
    if tokenizer.vocabulary.kind == "seed":
        lead = both(
            "每个色块是一个词元。种子项目的词表不按总分选切法，所以只显示实际的切法。",
            "A block is a token. The seed's kind of vocabulary does not go by the sum, so only its choice is shown.",
        )
    else:
        lead = both(
            "每个色块是一个词元，颜色表示字数。切法取总分（自然对数之和）最大的一种；下面是次优的切法，"
            "只写出与最优不同的地方。领先：不用这个词元的最好切法比最优低多少。指着色块或用 Tab 键可看详情。",
            "A block is a token, its colour the number of characters. The text is cut where the sum of scores (natural "
            "logarithms) is largest; below are the runners-up, where they differ. Margin: how far the best way without "
            "that token is behind. Point at a block, or use Tab, for more.",
        )
    keys = [tag("span", label, class_=f"chip q{n}") for n, label in enumerate(LENGTHS.values())]
    keys.append(tag("span", both("字节", "byte"), class_="chip byte"))
    names = both("␣ 空格　⏎ 换行　⇥ 制表符　□ 全角空格", "␣ space, ⏎ line break, ⇥ tab, □ wide space")
    legend = tag("div", *keys, tag("span", names), class_="keys")
    blocks = [_text(tokenizer, name, text) for name, text in texts]
    return section("segmentation", both("切分", "Segmentation"), legend, *blocks, lead=lead)


def _text(tokenizer: Tokenizer, name: Html, text: str) -> Html:
    """A text, cut where it is long: the way taken, and the runners-up of each part."""
    pieces = inspect.parts(text)
    notes, blocks, number_of_tokens = [], [], 0
    for part in pieces[:_PARTS]:
        found = inspect.paths(tokenizer, part)
        number_of_tokens += len(found[0].tokens)
        others = _others(found)
        folded = details(both("次优的切法", "Runners-up"), others) if others and len(pieces) > 1 else others
        blocks += [tag("div", *map(_chip, found[0].tokens), class_="chips"), folded]
    if len(pieces) > 1:
        notes.append(both("文本较长，分成几段，各自切分。", "A long text: cut into parts, each segmented by itself."))
    if len(pieces) > _PARTS:
        notes.append(
            both(f"只显示前 {_PARTS} 段，共 {len(pieces)} 段。", f"The first {_PARTS} of {len(pieces)} parts.")
        )
    size = sum(len(part.encode("utf-8", "surrogatepass")) for part in pieces[:_PARTS])
    rate = f"{size / max(number_of_tokens, 1):.2f}"
    counted = both(f"{number_of_tokens} 个词元，{rate} 字节/词元", f"{number_of_tokens} tokens, {rate} bytes a token")
    head = tag("h3", name, " ", tag("small", counted))
    return tag("div", head, tag("p", *notes, class_="lead") if notes else "", *blocks, class_="text")


def _others(found: Sequence[Segmentation]) -> Html:
    """The runners-up: total, how far behind, number of tokens, and what they cut in another way."""
    if len(found) < 2:
        return Html("")
    own = {(t.begin, t.text) for t in found[0].tokens}
    rows = [[_nats(found[0].nats), "", words.count(len(found[0].tokens)), both("最优", "the best")]]
    for path in found[1:]:
        new = [False, *((t.begin, t.text) not in own for t in path.tokens), False]
        chips: list[Html] = []
        for n, token in enumerate(path.tokens, 1):
            if new[n]:
                chips.append(_chip(token))
            elif new[n - 1] or new[n + 1]:  # a neighbour, to tell the place
                chips.append(tag("i", *_visible(token.text or token.raw.hex().upper())))
            elif not chips or chips[-1] != "…":
                chips.append(Html("…"))
        cells = [_nats(path.nats), _nats(-path.margin), words.count(len(path.tokens))]
        rows.append([*cells, tag("span", *chips, class_="chips")])
    head = [both("总分", "score"), both("落后", "behind"), both("词元", "tokens"), both("不同之处", "where it differs")]
    return table(head, rows, (0, 1, 2), "others")


def _chip(token: Token) -> Html:
    data: dict[str, str | float | None] = {
        "data_id": str(token.id),
        "data_score": _nats(token.nats),
        "data_count": words.count(token.count) if token.text else "–",
        "data_margin": _nats(token.margin),
        "tabindex": 0,
    }
    if not token.text:
        return tag("span", token.raw.hex().upper(), class_="chip byte", **data)
    chip = tag("span", *_visible(token.text), class_=f"chip {_shade(token.text)}", **data)
    return Html(chip + "<br>") if token.text.endswith("\n") else chip


def _nats(value: float | None) -> str:
    return words.decimals(value).replace("-", "−")


def _shade(piece: str) -> str:
    return f"q{min(len(piece), len(LENGTHS)) - 1}"


def _visible(piece: str) -> list[str]:
    """A piece with what shows nothing, marked."""
    return [tag("i", mark) if (mark := _MARKS.get(c) or escape(c)) != c and c != "\\" else c for c in piece]


# -- the vocabulary ------------------------------------------------------------------------------------------------


def _rounds(tokenizer: Tokenizer, rounds: Sequence[Mapping[str, Any]]) -> Html:
    lengths = {str(length): pieces for length, pieces in Counter(map(len, tokenizer.vocabulary.pieces)).items()}
    charts = join([*round_charts(rounds), _by_length(rounds)])
    lead = (
        both("训练每一轮之后的词表。", "The vocabulary after each round of its training.")
        if charts
        else both(
            "这个词表旁边没有训练记录，只有最后的结果。", "No record of its training lies beside; this is the end."
        )
    )
    body = tag("div", charts, lengths_table(lengths), class_="charts" if charts else None)
    return section("rounds", both("词长与轮次", "Lengths over the rounds"), body, lead=lead)


def _by_length(rounds: Sequence[Mapping[str, Any]]) -> Html:
    """Pieces of each length over the rounds, on a logarithmic axis."""
    points: dict[str, list[tuple[float, float]]] = {key: [] for key in LENGTHS}
    for row in rounds:
        step = number(row, "step")
        for key, value in by_length(row.get("pieces_by_length")).items() if step is not None else ():
            if key in points:
                points[key].append((step or 0.0, value))
    series = [Series(LENGTHS[key], found) for key, found in points.items() if found]
    title, unit = both("各长度的词数", "Pieces of each length"), both("对数坐标", "logarithmic")
    return line_chart(title, unit, series, x_unit=both("轮", "rounds"), log=True)


def _usage(usage: Sequence[Usage]) -> Html:
    rows = []
    for group in usage:
        many = _PIECES if group.length else 2 * _PIECES
        name = both(f"{group.length} 字", f"{group.length} char.") if group.length else both("全部", "all")
        few = Html("") if len(group.most) == group.pieces <= many else _pieces(group.least[:many])
        rows.append([name, words.count(group.pieces), _pieces(group.most[:many]), few])
    head = [both("长度", "length"), both("词", "pieces"), both("最常用", "most used"), both("最少用", "least used")]
    lead = both("次数来自词表文件，是训练最后一轮所数。", "Counts are those of the vocabulary file, of the last round.")
    return section(
        "usage", both("最常用与最少用的词", "Most and least used"), table(head, rows, (1,), "usage"), lead=lead
    )


def _pieces(counted: Sequence[inspect.Counted]) -> Html:
    shown = (
        tag(
            "span",
            tag("span", *_visible(p.piece), class_=f"chip {_shade(p.piece)}", title=f"id {p.id}"),
            tag("small", words.count(p.count)),
            class_="of",
        )
        for p in counted
    )
    return tag("div", join(shown, " "), class_="chips")


def _coverage(sets: Sequence[Coverage]) -> Html:
    rows, folded, notes = [], [], []
    for found in sets:
        name = _SETS[found.name]
        if not found.total:
            notes.append(name)
            continue
        parts = ("left", found.own), ("part", len(found.inside)), ("taken", len(found.missing))
        bar = [tag("i", class_=kind, style=f"width:{100 * n / found.total:.2f}%") for kind, n in parts if n]
        figures = [f for _, n in parts for f in (words.count(n), words.share(n, found.total))]
        rows.append([name, words.count(found.total), *figures, tag("div", *bar, class_="bar")])
        for title, characters in (
            (both("只有字节的", "bytes only"), found.missing),
            (both("只在更长的词里的", "only inside longer pieces"), found.inside),
        ):
            if characters:
                folded.append(details(join([name, " · ", title, f" {len(characters):,}"]), _characters(characters)))
    head = [both("字符集", "set"), both("字符", "characters"), both("自成一词", "own piece"), "%"]
    head += [both("只在长词里", "only inside"), "%", both("只有字节", "bytes only"), "%", ""]
    said = [
        both(
            "没有列出：运行 pip install pypinyin pypinyin-dict 之后可以看到 8,105 字的",
            "Not shown, as its list of 8,105 characters needs pip install pypinyin pypinyin-dict: ",
        ),
        *notes,
    ]
    note = tag("p", *said, both("。", "."), class_="lead") if notes else ""
    shown = table(head, rows, range(1, 8), "coverage")
    return section("coverage", both("字符覆盖", "Characters covered"), shown, note, *folded)


def _characters(characters: str) -> Html:
    rest = len(characters) - _CHARACTERS
    more = both(f" …… 另有 {rest:,} 个", f" … and {rest:,} more") if rest > 0 else ""
    return tag("p", " ".join(_MARKS.get(c) or escape(c) for c in characters[:_CHARACTERS]), more, class_="characters")


def _fertility(tokenizer: Tokenizer, domains: Mapping[str, Domain]) -> Html:
    title = both("各领域的切分效率", "Fertility by domain")
    if not domains:
        return section("fertility", title, tag("p", both("没有给出文本文件。", "No files were given."), class_="empty"))
    rows = [
        [
            f.domain,
            words.count(f.documents),
            words.size(f.bytes),
            words.count(f.characters),
            words.count(f.tokens),
            words.decimals(f.bytes_per_token),
            words.decimals(f.characters_per_token),
            words.decimals(f.tokens_per_han),
            words.share(f.byte_tokens, f.tokens),
        ]
        for f in inspect.fertility(tokenizer, {name: domain.documents for name, domain in domains.items()})
    ]
    head = [both("领域", "domain"), both("文档", "documents"), both("字节", "bytes"), both("字符", "characters")]
    head += [both("词元", "tokens"), both("字节/词元", "bytes/token"), both("字符/词元", "characters/token")]
    head += [both("词元/汉字", "tokens/Han"), both("字节词元", "byte tokens")]
    cut = [name for name, domain in domains.items() if domain.cut]
    note = (
        tag("p", both("只读了开头部分：", "Only the beginning was read: "), ", ".join(cut), class_="lead")
        if cut
        else ""
    )
    return section("fertility", title, table(head, rows, range(1, 9)), note)
