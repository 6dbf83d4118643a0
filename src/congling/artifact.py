"""Run folders: ``runs/<name>/<stage>/`` with a ``manifest.json`` written last.

A stage's *key* is a hash of its configuration, its inputs, its seed and the format version. A finished stage with the
same key is not run again; an unfinished one with the same key goes on where it stopped; with another key it starts
anew (a finished training is set aside as ``<stage>.1`` …, never deleted). All writes are temp, flush, fsync, rename,
so that ``kill -9`` leaves either the old file or the new one, never half of one.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from congling import __version__
from congling.config import Config, result_key, to_toml

FORMAT = 1  # of run folders; raised when their layout changes in a way that an older program cannot read
MANIFEST = "manifest.json"
_STATE = "state.json"  # the key of the stage under way
_PRIVATE = {MANIFEST, _STATE, "config.toml", "metrics.jsonl", ".lock"}
_LIBRARIES = ("torch", "numpy", "numba", "pyarrow", "pydantic", "safetensors")


class ArtifactError(ValueError):
    """A run folder that cannot be used; the message is one line for the user."""


# -- files ---------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_open(path: Path) -> Iterator[IO[bytes]]:
    """Opens a temporary file beside ``path`` for writing bytes; on success it replaces ``path`` durably."""
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def atomic_write(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` whole or not at all."""
    with atomic_open(path) as file:
        file.write(data)


def hash_file(path: Path) -> str:
    """BLAKE2b-128 of the file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, new_hash).hexdigest()


def hash_json(value: Any) -> str:
    """BLAKE2b-128 of a JSON value with sorted keys, in hex."""
    return new_hash(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, whole or not at all."""
    atomic_write(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def new_hash(data: bytes = b"") -> Any:
    """The hash of this house: BLAKE2b-128; ``update`` and ``hexdigest`` as in hashlib."""
    return hashlib.blake2b(data, digest_size=16)


def sync_folder(folder: Path) -> None:
    """Makes renames within ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- stages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A stage under way: where it writes, what it reads, and whether an earlier try left something to go on from."""

    name: str
    path: Path
    inputs: Mapping[str, Path]  # name -> folder of a finished stage, or a raw file or folder
    seed: int
    key: str
    resumed: bool
    started: float = field(default_factory=time.time)  # seconds since the epoch

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"


@contextmanager
def stage(
    path: Path,
    name: str,
    config: Mapping[str, Config],
    inputs: Mapping[str, Path],
    seed: int,
    *,
    raw: Mapping[str, Sequence[Path]] | None = None,
    keep_old: bool = False,
) -> Iterator[tuple[Stage | None, dict[str, Any]]]:
    """Begins or resumes the stage at ``path``; yields (None, manifest) when it is already done.

    config: the sections that shape the result. inputs: folders of finished stages. raw: input files that no stage
    made. The caller fills the yielded dict: it becomes ``summary`` in the manifest, which is written last.
    keep_old: set a finished result with another key aside instead of deleting it. Raises ArtifactError.
    """
    path.mkdir(parents=True, exist_ok=True)
    with _lock(path):
        done = _read_manifest_if_any(path)
        fingerprints = {n: _input_fingerprint(n, p) for n, p in inputs.items()}
        fingerprints |= {n: _raw_fingerprint(files, done, n) for n, files in (raw or {}).items()}
        key = hash_json(
            {
                "format": FORMAT,
                "stage": name,
                "config": {n: result_key(c) for n, c in config.items()},
                "inputs": {n: f["hash"] for n, f in fingerprints.items()},
                "seed": seed,
            }
        )
        if done is not None and done["key"] == key:
            yield None, done
            return
        resumed = _prepare(path, key, done is not None, keep_old)
        atomic_write(path / "config.toml", to_toml(config).encode())
        now = Stage(name, path, dict(inputs), seed, key, resumed)
        summary: dict[str, Any] = {}
        yield now, summary
        _finish(now, config, fingerprints, summary)


def _prepare(path: Path, key: str, finished: bool, keep_old: bool) -> bool:
    """Clears what another key left; returns True when there is work of this key to go on from."""
    state = path / _STATE
    if not finished and state.exists() and json.loads(state.read_bytes()).get("key") == key:
        return True
    old = [p for p in path.iterdir() if p.name != ".lock"]
    if old and keep_old:
        _set_aside(path, old)
    else:
        # The manifest goes first: a kill in between must not leave a manifest over missing files.
        for p in sorted(old, key=lambda p: p.name not in (MANIFEST, _STATE)):
            shutil.rmtree(p) if p.is_dir() else p.unlink()
    write_json(state, {"key": key, "format": FORMAT})
    return False


def _set_aside(path: Path, old: Sequence[Path]) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    aside.mkdir()
    for p in sorted(old, key=lambda p: p.name == MANIFEST):
        os.replace(p, aside / p.name)


def _finish(
    now: Stage, config: Mapping[str, Config], fingerprints: Mapping[str, Any], summary: Mapping[str, Any]
) -> None:
    outputs = {}
    for p in sorted(now.path.rglob("*")):
        if p.is_file() and p.name not in _PRIVATE and not p.name.endswith(".tmp"):
            outputs[str(p.relative_to(now.path))] = {"bytes": p.stat().st_size, "hash": hash_file(p)}
    manifest = {
        "format": FORMAT,
        "stage": now.name,
        "key": now.key,
        "seed": now.seed,
        "config": {n: json.loads(c.model_dump_json()) for n, c in config.items()},
        "inputs": fingerprints,
        "outputs": outputs,
        # What the stage is for, not how often it was saved on the way.
        "hash": hash_json({n: o["hash"] for n, o in outputs.items() if not n.startswith("checkpoints/")}),
        "code": __version__,
        "libraries": _versions(),
        "host": {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
        "started": now.started,
        "seconds": time.time() - now.started,
        "resumed": now.resumed,
        "summary": dict(summary),
    }
    write_json(now.path / MANIFEST, manifest)
    (now.path / _STATE).unlink(missing_ok=True)


def read_manifest(path: Path, stage: str | Sequence[str] | None = None) -> dict[str, Any]:
    """The manifest of the finished stage at ``path``; with ``stage``, checks that it is one of that kind.

    Raises ArtifactError when the folder is absent, unfinished, of another kind, or of another format version.
    """
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such folder")
    manifest = _read_manifest_if_any(path)
    if manifest is None:
        inner = sorted(p.parent.name for p in path.glob(f"*/{MANIFEST}"))
        hint = f"; finished stages in it: {', '.join(inner)}" if inner else "; run its stage to the end first"
        raise ArtifactError(f"{path}: holds no finished stage (no {MANIFEST}){hint}")
    kinds = [stage] if isinstance(stage, str) else stage
    if kinds and manifest["stage"] not in kinds:
        raise ArtifactError(f"{path}: is the result of {manifest['stage']!r}, needed: {' or '.join(kinds)}")
    return manifest


def verify(path: Path, manifest: Mapping[str, Any], names: Sequence[str] | None = None) -> None:
    """Compares the output files (all, or ``names``) with the hashes of the manifest; raises ArtifactError."""
    for name in names if names is not None else manifest["outputs"]:
        expected = manifest["outputs"].get(name)
        file = path / name
        if expected is None or not file.is_file():
            raise ArtifactError(f"{file}: missing; delete {path} and run its stage again")
        if file.stat().st_size != expected["bytes"] or hash_file(file) != expected["hash"]:
            raise ArtifactError(
                f"{file}: damaged, its hash differs from {MANIFEST}; delete {path} and run its stage again"
            )


def _read_manifest_if_any(path: Path) -> dict[str, Any] | None:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        found = manifest["format"]
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ArtifactError(f"{file}: not a manifest; delete {path} and run its stage again") from None
    if found != FORMAT:
        raise ArtifactError(
            f"{path}: written in run-folder format {found}, this version ({__version__}) reads {FORMAT}; "
            "use the version that wrote it, or another run.dir"
        )
    return manifest


def _input_fingerprint(name: str, path: Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    return {"path": str(path), "stage": manifest["stage"], "hash": manifest["hash"]}


def _raw_fingerprint(files: Sequence[Path], done: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """Hashes raw files by content; as git does, a file whose size and time are those of the last run is not read."""
    known = ((done or {}).get("inputs", {}).get(name) or {}).get("files", {})
    listed = {}
    for file in files:
        info = file.stat()
        old = known.get(str(file))
        same = old is not None and (old["bytes"], old["mtime_ns"]) == (info.st_size, info.st_mtime_ns)
        digest = old["hash"] if same else hash_file(file)
        listed[str(file)] = {"bytes": info.st_size, "mtime_ns": info.st_mtime_ns, "hash": digest}
    return {"files": listed, "hash": hash_json([[Path(n).name, f["hash"]] for n, f in listed.items()])}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with open(path / ".lock", "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(f"{path}: another congling process is at work here; wait for it or stop it") from None
        yield  # the system drops the lock when the process ends, however it ends
