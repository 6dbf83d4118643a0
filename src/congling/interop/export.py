"""``congling export MODEL format=hf|gguf|space``: a model folder in the forms of others."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from congling.artifact import ArtifactError
from congling.interop.card import write_card
from congling.interop.config import ExportConfig
from congling.interop.gguf import write_gguf
from congling.interop.huggingface.export import write_hf
from congling.interop.lineage import find_lineage
from congling.interop.space import write_space

_WRITERS: dict[str, Callable[[Path, Path, ExportConfig], None]] = {
    "hf": write_hf,
    "gguf": write_gguf,
    "space": write_space,
}


def export(folder: Path, config: ExportConfig) -> Path:
    """Writes the model of ``folder`` for ``config.format``; returns the folder, or the file, that was made.

    It appears whole or not at all, and never replaces what is there. Raises ValueError (of it ArtifactError) in one
    line.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder")
    out = Path(config.out) if config.out else _beside(folder.resolve(), config.format)
    if out.exists() and not (out.is_dir() and config.format != "gguf" and not any(out.iterdir())):
        raise ValueError(f"{out}: is there already; give another out=…, or delete it")
    with _draft(out) as draft:
        _WRITERS[config.format](folder, draft, config)
        if config.format != "gguf":
            write_card(draft, out.name, find_lineage(folder), config)
    return out


def _beside(folder: Path, format: str) -> Path:
    return folder.with_name(f"{folder.name}.gguf" if format == "gguf" else f"{folder.name}-{format}")


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """A place beside ``out`` which takes its name when all went well, and goes away otherwise."""
    draft = out.with_name(f".{out.name}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove(draft)
    try:
        yield draft
        os.replace(draft, out)
    finally:
        _remove(draft)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
