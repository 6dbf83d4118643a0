"""Markup by construction: whatever is not ``Html`` is escaped, so that text of a model or a crawl stays text."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template


class Html(str):
    """Markup that is safe as it is."""

    __slots__ = ()


def join(parts: Iterable[str], between: str = "") -> Html:
    """One piece of markup; parts that are not ``Html`` are escaped."""
    return Html(escape(between).join(p if isinstance(p, Html) else escape(str(p)) for p in parts))


def tag(name: str, *children: str, **attributes: str | float | None) -> Html:
    """``<name …>children</name>``; ``class_`` stands for ``class``, ``data_x`` for ``data-x``; None leaves one out."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{pairs}>" if name == "input" else f"<{name}{pairs}>{join(children)}</{name}>")


def both(zh: str, en: str) -> Html:
    """A text in Chinese and in English; the page shows one of the two."""
    return Html(tag("span", zh, lang="zh") + tag("span", en, lang="en"))


def details(summary: str, *children: str) -> Html:
    """A part of the page that is folded away until asked for."""
    return tag("details", tag("summary", summary), *children)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), class_: str = "") -> Html:
    """A table that scrolls in its own box; ``numbers``: the columns set flush right, in figures of equal width."""

    def row(cells: Sequence[str], kind: str) -> Html:
        return tag("tr", *(tag(kind, c, class_="number" if i in numbers else None) for i, c in enumerate(cells)))

    body = tag("tbody", *(row(cells, "td") for cells in rows))
    return tag("div", tag("table", tag("thead", row(head, "th")), body, class_=class_ or None), class_="scroll")


def section(name: str, title: Html, *body: str, lead: str = "") -> Html:
    """A part of the page; without a body it says that there is nothing yet."""
    filled = [part for part in body if part] or [tag("p", both("尚未完成。", "Not there yet."), class_="empty")]
    return tag("section", tag("h2", title), tag("p", lead, class_="lead") if lead else "", *filled, id=name)


def page(title: str, header: Html, body: Html) -> str:
    """A whole self-contained page: nothing is loaded, and no script may run but ours, a second wall behind the
    escaping."""
    script = _resource("page.js")
    return Template(_resource("page.html")).substitute(
        title=join([title]),
        style=_resource("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        header=header,
        body=body,
    )


def _resource(name: str) -> str:
    return files("congling.report").joinpath(name).read_text(encoding="utf-8")
