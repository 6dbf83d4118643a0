"""Poems of the Tang and Song, out of the npm package chinese-poetry (traditional characters for the shi)."""

import re
from collections.abc import Iterator
from pathlib import Path

import orjson

from congling.corpus.fetch.packages import Archive, read_archive

ARCHIVE = Archive(
    "chinese-poetry",
    "2.0.1",
    "chinese-poetry-2.0.1.tgz",
    85464664,
    "sha512-KtYARvV7CWNtax0na9+Jn6PlhGgSoid7PWyDzXI4KsCEm2odZcqEQyval5koaLygZnM/EQ3lfJ//25K8p3uHNg==",
    "npm",
)
PACKAGE_FILE = "package/package.json"
_FILES = re.compile(r"package/dist/(quantangshi/poet\.(tang|song)|songci/ci\.song)\.\w+\.json")


def poems(path: Path) -> Iterator[dict[str, str]]:
    """One poem a document: title, author, and a line for each of its lines; those without lines are left out."""
    for _, content in read_archive(path, lambda name: _FILES.fullmatch(name) is not None):
        for poem in orjson.loads(content):
            lines = [line.strip() for line in poem["paragraphs"] if line.strip()]
            title = poem.get("title") or poem.get("rhythmic") or ""
            if lines:
                yield {"text": "\n".join([title.strip(), poem["author"].strip(), *lines])}
