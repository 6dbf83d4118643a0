"""Public data sets of the Hugging Face hub (or a mirror: HF_ENDPOINT), file by file, so that a killed fetch goes on."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

from congling.artifact import write_json
from congling.corpus.fetch.packages import FetchError
from congling.corpus.readers import FORMATS, is_known
from congling.reporter import Bar, Reporter


@dataclass(frozen=True)
class HubSet:
    """A data set of the hub: where it lies, what it holds, which of its files are wanted (none: all of known form)."""

    repository: str
    kind: Literal["corpus", "dialogues"] = "corpus"
    files: tuple[str, ...] = ()


SETS = {
    "wudao": HubSet("mdokl/WuDaoCorpora2.0-RefinedEdition60GTXT"),
    "fineweb-edu-chinese": HubSet("opencsg/chinese-fineweb-edu"),
    "skypile": HubSet("Skywork/SkyPile-150B"),
    "wikipedia-zh": HubSet("wikimedia/wikipedia", files=("20231101.zh/*",)),
    "coig-cqia": HubSet("m-a-p/COIG-CQIA", "dialogues", ("*-full.jsonl",)),
    "belle-0.5m": HubSet("BelleGroup/train_0.5M_CN", "dialogues"),
    "firefly": HubSet("YeungNLP/firefly-train-1.1M", "dialogues"),
    "alpaca-zh": HubSet("shibing624/alpaca-zh", "dialogues"),
}


@dataclass(frozen=True)
class Download:
    """What was fetched: files in order of their names, and the commit of the hub they are of."""

    files: list[Path]
    revision: str


def download(wanted: HubSet, folder: Path, pin: Path, reporter: Reporter, endpoint: str | None = None) -> Download:
    """Brings the files of ``wanted`` into ``folder``, going on from what is there.

    pin: a JSON file that keeps the hub's commit, so that a resumed fetch does not mix two of them.
    endpoint: of the hub; None: the user's own. Raises FetchError.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=endpoint)
    files: list[Path] = []
    try:
        revision = _pinned_revision(api, wanted.repository, pin)
        entries = api.list_repo_tree(wanted.repository, recursive=True, revision=revision, repo_type="dataset")
        present = {e.path: e for e in entries if isinstance(e, RepoFile)}
        chosen = [present[name] for name in _choose(wanted, sorted(present))]
        with reporter.progress(f"fetch {wanted.repository}", sum(e.size for e in chosen), "B") as bar:
            for entry in chosen:
                url = hf_hub_url(
                    wanted.repository, entry.path, repo_type="dataset", revision=revision, endpoint=endpoint
                )
                files.append(_bring_file(url, folder / entry.path, entry, bar))
    except FetchError:
        raise
    except Exception as error:  # the library's own, those of its HTTP client (which has changed), the system's
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise
        raise FetchError(_explain(wanted.repository, error)) from None
    return Download(files, revision)


def _pinned_revision(api: Any, repository: str, pin: Path) -> str:
    if pin.exists():
        return str(json.loads(pin.read_bytes())["revision"])
    revision = api.dataset_info(repository).sha
    write_json(pin, {"repository": repository, "revision": revision})
    return str(revision)


def _choose(wanted: HubSet, present: Sequence[str]) -> list[str]:
    matching = [n for n in present if not wanted.files or any(fnmatchcase(n, p) for p in wanted.files)]
    names = [n for n in matching if is_known(Path(n))]
    if not names:
        what = f"matching {', '.join(wanted.files)}" if wanted.files else "of a known form"
        some = ", ".join(present[:8]) + (" …" if len(present) > 8 else "")
        raise FetchError(
            f"{wanted.repository}: no file {what}; it has {some or 'nothing'}; give fetch.files patterns of "
            f"{', '.join(FORMATS)} files"
        )
    return names


def _bring_file(url: str, path: Path, entry: Any, bar: Bar) -> Path:
    """Downloads one file, going on from an earlier try's ``.part``, and checks it before it gets its name.

    The library's own download would begin each file anew in every process; only its HTTP part is used.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    bar.note = entry.path
    if path.is_file() and path.stat().st_size == entry.size:
        bar.advance(entry.size)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with open(part, "ab") as file:
        done = file.tell()
        bar.advance(done)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # ranges are of the bytes as they are
        meter: Any = partial(_Meter, bar)
        http_get(url, file, resume_size=done, headers=headers, expected_size=entry.size, tqdm_class=meter)
        file.flush()
        os.fsync(file.fileno())
    expected = entry.lfs.sha256 if entry.lfs else None
    if part.stat().st_size != entry.size or (expected and _sha256(part) != expected):
        part.unlink()
        raise FetchError(f"{entry.path}: arrived damaged and was deleted; run the same command again")
    os.replace(part, path)
    return path


class _Meter:
    """Passes what arrives on to a bar, in the place of tqdm."""

    def __init__(self, bar: Bar, **options: Any) -> None:
        self._bar = bar

    def update(self, amount: float) -> None:
        self._bar.advance(amount)

    def __enter__(self) -> "_Meter":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(repository: str, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"{repository}: gated; accept its terms on its page, log in with `hf auth login`, then run it again"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{repository}: no such data set on the hub, or it is private; check fetch.dataset, or log in"
    first = (str(error).strip().splitlines() or ["no details"])[0]
    return (
        f"{repository}: cannot be fetched ({type(error).__name__}: {first[:160]}); check the network "
        "(HF_ENDPOINT names a mirror), then run the same command again: what has arrived stays"
    )
