"""JSON records of a file: an array's items or an object a line, all at once where nothing is amiss, else one by one."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from congling.corpus.documents import make_batch
from congling.corpus.json_stream import FAULTS, TOO_LONG, Item, array_items
from congling.corpus.streams import Faults, LongLine, ReadError, line_blocks


class Group(NamedTuple):
    """Neighbouring records: their bytes, for the quick way, and as items with lines and faults, for the careful one."""

    raws: Sequence[bytes | memoryview]
    items: Callable[[], list[Item]]


def json_items(path: Path, blocks: Iterator[bytes], faults: Faults) -> tuple[Iterator[Group], str]:
    """The items of a ``.json`` file, and what to call their place: an array's items, or an object a line."""
    blocks, head = faults.until_damage(blocks), b""
    for block in blocks:
        head += block
        if head.strip():
            break
    whole = itertools.chain([head] if head else [], blocks)
    first = head.lstrip()[:1]
    if first == b"{":
        return line_items(whole, faults), "line"
    if first not in (b"[", b""):
        raise ReadError(f"{path}: not JSON: begins with {head.lstrip()[:20].decode('utf-8', 'replace')!r}")
    groups = array_items(whole)
    return (
        Group([b"" if item.fault else item.raw for item in items], partial(list, items)) for items in groups
    ), "item"


def line_items(blocks: Iterator[bytes], faults: Faults) -> Iterator[Group]:
    """The records of a file that has one a line; white lines are none."""
    line = 1
    for block in faults.until_damage(line_blocks(blocks)):
        if isinstance(block, LongLine):
            yield Group([block], partial(list, [Item(memoryview(block), line, TOO_LONG)]))
            line += 1
            continue
        lines = block.split(b"\n")
        yield Group([raw for raw in lines if raw], partial(_items, lines, line))
        line += len(lines) - 1


def _items(lines: list[bytes], first: int) -> list[Item]:
    return [Item(memoryview(raw), n, 0) for n, raw in enumerate(lines, first) if raw and not raw.isspace()]


def read_rows(
    groups: Iterable[Group], unit: str, keys: Sequence[str], batch_bytes: int, faults: Faults
) -> Iterator[pa.RecordBatch]:
    """Batches of SCHEMA, of about ``batch_bytes`` of input; ``unit``: what a record is called ("line", "item")."""
    texts: list[str] = []
    sources: list[str] = []
    ids: list[int] = []
    size = id = 0
    name = faults.path.name
    for group in groups:
        quick = _parse_all(group.raws, keys, name)
        if quick is not None:
            texts += quick[0]
            sources += quick[1]
            ids += range(id, id + len(quick[0]))
            size += sum(map(len, group.raws))
            id += len(quick[0])
        for item in group.items() if quick is None else ():
            row = parse(item, id, unit, faults)
            if row is not None:
                text = next((row[key] for key in keys if key in row), None)
                if isinstance(text, str):
                    source = row.get("source")
                    texts.append(text)
                    sources.append(source if isinstance(source, str) else name)
                    ids.append(id)
                    size += len(item.raw)
                else:
                    faults.report(item.line, id, bytes(item.raw), "no_text", _no_text(row, keys), unit)
            id += 1
        if size >= batch_bytes:
            yield make_batch(texts, sources, ids)
            texts, sources, ids, size = [], [], [], 0
    if texts:
        yield make_batch(texts, sources, ids)


def _parse_all(
    raws: Sequence[bytes | memoryview], keys: Sequence[str], name: str
) -> tuple[list[str], list[str]] | None:
    """Texts and sources of records among which nothing is amiss; None when something may be."""
    try:
        rows = [*map(orjson.loads, raws)]
        key = next((k for k in keys if rows and k in rows[0]), keys[0])
        texts = [row[key] for row in rows]
        sources = [row.get("source", name) for row in rows]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    earlier = keys[: keys.index(key)]
    if {*map(type, texts), *map(type, sources)} - {str} or any(k in row for k in earlier for row in rows):
        return None
    return texts, sources


def parse(item: Item, id: int, unit: str, faults: Faults) -> dict[str, Any] | None:
    """The object, or None when it is broken (and reported)."""
    raw, line, fault = item
    detail = FAULTS[fault]
    if not fault:
        try:
            row = orjson.loads(raw)
            if isinstance(row, dict):
                return row
            detail = "not an object"
        except orjson.JSONDecodeError as error:
            detail = error.msg
    elif fault == TOO_LONG:
        faults.report(line, id, bytes(raw[:4096]), "too_large", detail, unit)
        return None
    try:
        bytes(raw).decode()
    except UnicodeDecodeError as error:
        faults.report(line, id, bytes(raw), "bad_encoding", f"not UTF-8 at byte {error.start} of the {unit}", unit)
        return None
    faults.report(line, id, bytes(raw), "bad_json", f"broken JSON ({detail}); mend or delete the {unit}", unit)
    return None


def _no_text(row: dict[str, Any], keys: Sequence[str]) -> str:
    present = [key for key in keys if key in row]
    if present:
        return f"{present[0]!r} is not text but {type(row[present[0]]).__name__}"
    return f"no text under {either(keys)} (it has {', '.join(row) or 'nothing'}); give text_key=…"


def either(keys: Sequence[str]) -> str:
    return " or ".join(repr(key) for key in keys)
