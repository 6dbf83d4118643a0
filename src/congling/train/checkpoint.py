"""Complete checkpoints: weights, optimizer, counters; hashed, atomic, and refused when they do not fit.

``checkpoints/step-0000120/`` is a model folder (``model.json``, ``model.safetensors``, ``vocabulary.txt``), which
``congling chat`` takes, with ``optimizer.safetensors`` and a ``manifest.json``: step, fingerprint of the data, state of
the loop, sizes and hashes of the files, and its own hash. The folder is written under another name and renamed, so a
kill leaves a whole one or none. What changes on disk is in ``save``, ``pin`` and ``clear_torn``; the rest only reads.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from congling import artifact
from congling.artifact import MANIFEST, ArtifactError
from congling.model.config import Architecture
from congling.model.folder import ARCHITECTURE, VOCABULARY, WEIGHTS
from congling.model.tensors import read_tensors, write_tensors

OPTIMIZER = "optimizer.safetensors"
PINNED = "keep"  # an empty file of this name in a checkpoint: it is never deleted; people may make one, too
FORMAT = 2  # of checkpoints
_SLACK = 1 << 20  # bytes for headers, the manifest and folders


@dataclass(frozen=True)
class Checkpoint:
    """What a training goes on from: ``step`` steps are done."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]  # JSON; with "ends_phase" true it is kept always
    needs: tuple[int, ...] = ()  # steps of earlier ones that the training may go back to: kept as long as this one

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensors in (self.weights, self.optimizer) for tensor in tensors.values())


class Checkpoints:
    """The checkpoints of one training, in ``folder``.

    data: fingerprint of the data they belong to. keep: how many of the newest stay; besides them stay the last of every
    length phase, the pinned, what the newest need, and every ``keep_every`` steps one (0: none). architecture,
    vocabulary (a file), stage: those of the model, written into each and compared when one is loaded.
    """

    def __init__(
        self,
        folder: Path,
        data: str,
        keep: int,
        *,
        keep_every: int = 0,
        architecture: Architecture | None = None,
        vocabulary: Path | None = None,
        stage: str = "",
    ) -> None:
        self.folder, self._data, self._keep, self._keep_every = folder, data, keep, keep_every
        self._architecture, self._vocabulary, self._stage = architecture, vocabulary, stage

    # -- writing -------------------------------------------------------------------------------------------------------

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint durably, then deletes those that need not be kept.

        Raises OSError (ENOSPC before anything is written when the space is known to be short); then nothing of the new
        one is left, and the earlier ones are as they were.
        """
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            artifact.sync_folder(self.folder.parent)
        self.clear_torn()
        final = self.path(checkpoint.step)
        if final.exists():
            return
        self._check_space(checkpoint)
        temporary = _torn_name(final)
        try:
            self._write(temporary, checkpoint)
            os.replace(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        artifact.sync_folder(self.folder)
        self._retire()

    def _check_space(self, checkpoint: Checkpoint) -> None:
        vocabulary = self._vocabulary.stat().st_size if self._vocabulary else 0
        needed = checkpoint.size + vocabulary + _SLACK
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            problem = f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free"
            raise OSError(errno.ENOSPC, problem, str(self.folder))

    def _write(self, folder: Path, checkpoint: Checkpoint) -> None:
        folder.mkdir()
        outputs = {}
        for name, tensors in ((WEIGHTS, checkpoint.weights), (OPTIMIZER, checkpoint.optimizer)):
            with _durable(folder / name) as file:
                outputs[name] = write_tensors(file, tensors)
        if self._vocabulary is not None:
            outputs[VOCABULARY] = _write_file(folder / VOCABULARY, self._vocabulary.read_bytes())
        if self._architecture is not None:
            text = self._architecture.model_dump_json(indent=1) + "\n"
            outputs[ARCHITECTURE] = _write_file(folder / ARCHITECTURE, text.encode())
        manifest = {
            "format": artifact.FORMAT,
            "checkpoint": FORMAT,
            "stage": self._stage,
            "step": checkpoint.step,
            "data": self._data,
            "needs": list(checkpoint.needs),
            "state": checkpoint.state,
            "outputs": outputs,
            "hash": artifact.hash_json({name: file["hash"] for name, file in outputs.items()}),
        }
        manifest["manifest_hash"] = artifact.hash_json(manifest)
        _write_file(folder / MANIFEST, (json.dumps(manifest, ensure_ascii=False, indent=1) + "\n").encode())
        artifact.sync_folder(folder)

    def pin(self, step: int) -> None:
        """Keeps this checkpoint always. Raises OSError."""
        artifact.atomic_write(self.path(step) / PINNED, b"")

    def clear_torn(self) -> None:
        """Deletes what a killed save or deletion left. Only for the process that writes, and between two writes."""
        for torn in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(torn, ignore_errors=True)

    def _retire(self) -> None:
        """Deletes what is not among those to be kept (see the class); a damaged one stays: people may look at it."""
        steps, manifests = self.steps(), {}
        for step in steps:
            try:
                manifests[step] = _read_manifest(self.path(step))
            except ArtifactError:
                continue
        kept = set(steps[-self._keep :])
        kept |= {needed for step in kept & manifests.keys() for needed in manifests[step]["needs"]}
        for step, manifest in manifests.items():
            always = manifest["state"].get("ends_phase") or (self.path(step) / PINNED).exists()
            regular = self._keep_every and step % self._keep_every == 0
            if not (step in kept or always or regular):
                torn = _torn_name(self.path(step))
                os.replace(self.path(step), torn)  # a kill while deleting must not leave half a checkpoint
                shutil.rmtree(torn, ignore_errors=True)

    # -- reading -------------------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """The steps of all checkpoints, rising."""
        found = (re.fullmatch(r"step-(\d{7,})", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:07d}"

    def latest(self, at_most: int | None = None) -> Checkpoint | None:
        """The newest checkpoint (of those up to step ``at_most``), verified; None when there is none.

        Its tensors are mapped from the files: copy what is to be changed. Raises ArtifactError in one line when it is
        damaged or belongs to another model, vocabulary or data; a damaged one is never passed over in silence.
        """
        steps = [step for step in self.steps() if at_most is None or step <= at_most]
        return self.load(steps[-1]) if steps else None

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of ``step``, verified as in ``latest``."""
        folder = self.path(step)
        try:
            manifest = _read_manifest(folder)
            if manifest["step"] != step:
                raise _DamagedError(f"checkpoint {folder}: is that of step {manifest['step']}, renamed")
            _check_files(folder, manifest, [ARCHITECTURE])
            self._check_fit(folder, manifest)  # before the gigabytes are hashed
            _check_files(folder, manifest)
        except _DamagedError as error:
            raise ArtifactError(f"{error}; {self._way_out(step)}") from None
        weights, optimizer = read_tensors(folder / WEIGHTS), read_tensors(folder / OPTIMIZER)
        return Checkpoint(step, weights, optimizer, manifest["state"], tuple(manifest["needs"]))

    def _check_fit(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Raises ArtifactError when the checkpoint belongs to another training."""
        files, other = manifest["outputs"], ""
        if self._architecture is not None:
            described = json.loads((folder / ARCHITECTURE).read_bytes()) if ARCHITECTURE in files else {}
            other = _first_difference(described, self._architecture.model_dump(mode="json"))
        vocabulary = self._vocabulary
        if vocabulary and files.get(VOCABULARY, {}).get("hash") != artifact.hash_file(vocabulary):
            other = other or f"another vocabulary than {vocabulary}"
        if manifest["data"] != self._data:
            other = other or "other training data"
        if other:
            raise ArtifactError(
                f"checkpoint {folder}: was made with {other}; bring that back, "
                f"or delete the folder {self.folder} to begin again"
            )

    def _way_out(self, step: int) -> str:
        """What to do when that of ``step`` is damaged: the newest whole one before it is offered."""
        damaged = [step]
        for earlier in reversed([s for s in self.steps() if s < step]):
            try:
                _check_files(self.path(earlier), _read_manifest(self.path(earlier)))
            except ArtifactError:
                damaged.insert(0, earlier)
                continue
            names = " and ".join(str(self.path(s)) for s in damaged)
            return f"delete {names} and give the same command to go on from step {earlier}"
        return f"delete {self.folder} and give the same command to begin again"


class _DamagedError(ArtifactError):
    """A file of a checkpoint is missing or was changed."""


def _torn_name(final: Path) -> Path:
    return final.with_name(f".{final.name}.tmp")


@contextmanager
def _durable(path: Path) -> Iterator[IO[bytes]]:
    """A new file, on disk when the block ends; not atomic: its folder is renamed when all is there."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_file(path: Path, data: bytes) -> dict[str, Any]:
    with _durable(path) as file:
        file.write(data)
    return {"bytes": len(data), "hash": artifact.new_hash(data).hexdigest()}


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Raises _DamagedError, or ArtifactError when another version wrote it."""
    file = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_bytes())
        found = int(manifest["checkpoint"])
        whole = manifest.pop("manifest_hash") == artifact.hash_json(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _DamagedError(f"checkpoint file {file}: missing or damaged") from None
    if found != FORMAT:
        raise ArtifactError(
            f"checkpoint {folder}: written in format {found}, this version reads {FORMAT}; use the version that wrote "
            f"it, or delete the folder {folder.parent} to begin again"
        )
    if not whole:
        raise _DamagedError(f"checkpoint file {file}: damaged, its hash is another")
    return manifest


def _check_files(folder: Path, manifest: Mapping[str, Any], names: Sequence[str] = ()) -> None:
    """Raises _DamagedError unless all files, or those of ``names``, have their length and their hash."""
    for name, expected in manifest["outputs"].items():
        if names and name not in names:
            continue
        file = folder / name
        if not file.is_file():
            raise _DamagedError(f"checkpoint file {file}: missing")
        if (size := file.stat().st_size) != expected["bytes"]:
            raise _DamagedError(f"checkpoint file {file}: damaged, {size} bytes instead of {expected['bytes']}")
        if artifact.hash_file(file) != expected["hash"]:
            raise _DamagedError(f"checkpoint file {file}: damaged, its hash is another")


def _first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What sets two architectures apart: "another model (dim 256 there, 512 here)"; "" when nothing does."""
    for dial in (*here, *there):
        if there.get(dial) != here.get(dial):
            return f"another model ({dial} {there.get(dial, 'unknown')} there, {here.get(dial, 'unknown')} here)"
    return ""
