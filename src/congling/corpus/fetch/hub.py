"""Public data sets of the Hugging Face hub (or a mirror: HF_ENDPOINT), file by file, so that a killed fetch goes on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
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
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    try:
        revision = _pinned_revision(api, wanted.repository, pin)
        entries = api.list_repo_tree(wanted.repository, recursive=True, revision=revision, repo_type="dataset")
        sizes = {e.path: e.size for e in entries if hasattr(e, "size")}
        names = _choose(wanted, sorted(sizes))
        with reporter.progress(f"fetch {wanted.repository}", sum(sizes[n] for n in names), "B") as bar:
            files = [_bring_file(api, wanted.repository, n, revision, folder, sizes[n], bar) for n in names]
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


def _bring_file(api: Any, repository: str, name: str, revision: str, folder: Path, size: int, bar: Bar) -> Path:
    from tqdm import tqdm  # type: ignore[import-untyped]

    end = bar.done + size
    bar.note = name

    class Meter(
        tqdm
    ):  # silent; passes on what arrives. Several may count the same bytes: the file's size is the limit.
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            bar.advance(min(n or 0, end - bar.done))

    path = Path(
        api.hf_hub_download(
            repository, name, repo_type="dataset", revision=revision, local_dir=folder, tqdm_class=Meter
        )
    )
    if path.stat().st_size != size:
        raise FetchError(f"{path}: has {path.stat().st_size} bytes instead of {size}; delete it and run it again")
    bar.advance(end - bar.done)
    return path


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
