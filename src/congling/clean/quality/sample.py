"""The documents that are shown for labelling: a draw from a corpus that depends on its texts and a seed alone.

Evenly by source: the document with the smallest hash of each source, then the second of each, and so on. A uniform draw
of a crawl would show little but its largest site. Of a large corpus, at most _FILES files and _BYTES of text are read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import xxhash

from congling.artifact import MANIFEST, hash_json, read_manifest
from congling.clean.config import CleanConfig
from congling.clean.normalise import normalise
from congling.clean.quality.config import LabelConfig
from congling.corpus.documents import make_batch
from congling.corpus.readers import find_files, read_documents
from congling.corpus.shards import read_shard
from congling.corpus.streams import Reject
from congling.reporter import Reporter

SHOWN = 20_000  # characters of a document that are shown and stored; the classifier reads fewer
_BYTES, _FILES = 1 << 30, 256  # of text read for a draw; files it may come from
_EDGE = 64 << 10  # bytes at either end of a raw file that tell it from another


class Document(NamedTuple):
    """A document of the draw."""

    text: str  # its first SHOWN characters
    characters: int  # of the whole
    id: int
    source: str


def draw(corpus: Path, config: LabelConfig, reporter: Reporter) -> tuple[str, list[Document]]:
    """(name@fingerprint of the corpus, documents in random order).

    ``corpus``: the folder of a clean stage or of a run, or raw files. Raises ValueError in one line when there is
    nothing to read or no document in it.
    """
    folder = corpus / "clean" if any(corpus.glob("clean/corpus-*.parquet")) else corpus
    shards = sorted(folder.glob("corpus-*.parquet")) if folder.is_dir() else []
    files = shards or find_files([corpus])
    chosen = sorted(files, key=lambda file: xxhash.xxh3_64_intdigest(_name(file, folder).encode(), config.seed))[
        :_FILES
    ]
    with reporter.progress("read", None, "B") as bar:
        pool, damaged = _Pool(config.documents, config.seed), list[Reject]()
        for file in chosen:
            left = _BYTES // len(chosen)
            for batch in read_shard(file) if shards else _raw(file, config, damaged):
                pool.add(batch)
                left -= batch["text"].nbytes
                bar.advance(batch["text"].nbytes)
                if left <= 0:
                    break
    if damaged:
        first = damaged[0]
        reporter.warn(
            f"{len(damaged)} records could not be read, the first at {first.file}:{first.line}: {first.detail}"
        )
    if not (found := pool.drawn()):
        raise ValueError(f"{corpus}: no documents with text in {len(files)} files")
    return f"{_shown_name(folder)}@{_fingerprint(folder, files, chosen)}", found


def _raw(file: Path, config: LabelConfig, damaged: list[Reject]) -> Iterator[pa.RecordBatch]:
    """Raw documents, normalised: people shall judge texts, not tags, and not what a cut among tags leaves of them."""
    for batch in read_documents(file, text_key=config.text_key, encoding=config.encoding, on_reject=damaged.append):
        yield make_batch(normalise(batch["text"], CleanConfig()).text, batch["source"], batch["id"].to_numpy())


class _Pool:
    """The first ``size`` documents by (place in their source by hash, hash). Which these are does not depend on the
    order of arrival, and one that falls out never comes back: its place only grows."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._found: dict[int, Document] = {}  # by hash of the text: each text once

    def add(self, batch: pa.RecordBatch) -> None:
        for text, id, source in zip(*(batch[name].to_pylist() for name in ("text", "id", "source")), strict=True):
            if not text.isspace() and text:
                document = Document(text[:SHOWN], len(text), id, source)
                self._found.setdefault(xxhash.xxh3_64_intdigest(text.encode(), self._seed), document)
            if len(self._found) >= 2 * self._size + 1000:
                self._prune()

    def drawn(self) -> list[Document]:
        self._prune()
        # By another hash than the draw: a large source was drawn by its smallest, and all of it would come first.
        again = sorted((xxhash.xxh3_64_intdigest(key.to_bytes(8, "little")), key) for key in self._found)
        return [self._found[key] for _, key in again]

    def _prune(self) -> None:
        seen: dict[str, int] = {}
        places = []
        for key in sorted(self._found):
            source = self._found[key].source
            seen[source] = seen.get(source, -1) + 1
            places.append((seen[source], key))
        self._found = {key: self._found[key] for _, key in sorted(places)[: self._size]}


def _name(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else file.name


def _shown_name(folder: Path) -> str:
    return "/".join(folder.resolve().parts[-2:])


def _fingerprint(folder: Path, files: list[Path], chosen: list[Path]) -> str:
    """Of a finished stage, its hash; of other files, names, sizes, and both ends of those that are read."""
    if (folder / MANIFEST).exists():
        digest: str = read_manifest(folder)["hash"]
        return digest[:16]
    ends = []
    for file in sorted(chosen):
        with open(file, "rb") as opened:
            head = opened.read(_EDGE)
            opened.seek(max(0, file.stat().st_size - _EDGE))
            ends.append([xxhash.xxh3_128_hexdigest(head), xxhash.xxh3_128_hexdigest(opened.read(_EDGE))])
    return hash_json([[[_name(file, folder), file.stat().st_size] for file in sorted(files)], ends])[:16]
