"""Complete checkpoints: weights, optimizer, random state, position; hashed, atomic, and refused when damaged.

``checkpoints/step-0000120/`` holds ``weights.safetensors``, ``optimizer.safetensors`` and ``state.json`` (step,
fingerprint of the data, the hashes of both files and of itself). The folder is written under another name and renamed,
so a kill leaves a whole one or none.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from congling import artifact
from congling.artifact import ArtifactError

_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a training goes on from: ``step`` steps are done."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]  # JSON; with "ends_phase" true it is kept always


class Checkpoints:
    """The checkpoints of one training, in ``folder``. ``data``: fingerprint of the data they belong to."""

    def __init__(self, folder: Path, data: str, keep: int) -> None:
        self.folder, self._data, self._keep = folder, data, keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint durably, then deletes those that need not be kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self._path(checkpoint.step)
        if final.exists():
            return
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            self._write(temporary, checkpoint)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        os.replace(temporary, final)
        _sync(self.folder)
        self._retire()

    def _write(self, folder: Path, checkpoint: Checkpoint) -> None:
        folder.mkdir()
        artifact.atomic_write(folder / _WEIGHTS, save(checkpoint.weights))
        artifact.atomic_write(folder / _OPTIMIZER, save(checkpoint.optimizer))
        state = {
            **checkpoint.state,
            "format": _FORMAT,
            "step": checkpoint.step,
            "data": self._data,
            "hashes": {name: artifact.hash_file(folder / name) for name in (_WEIGHTS, _OPTIMIZER)},
        }
        artifact.write_json(folder / _STATE, {**state, "hash": artifact.hash_json(state)})

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, verified; None when there is none. Raises ArtifactError when it cannot be used."""
        for torn in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(torn)
        steps = self._steps()
        if not steps:
            return None
        try:
            found = self._load(steps[-1])
        except ArtifactError as error:
            raise ArtifactError(f"{error}; {self._way_out(steps)}") from None
        if found.state["data"] != self._data:
            raise ArtifactError(
                f"checkpoint {self._path(found.step)}: was made with other training data; "
                f"bring that data back, or delete the folder {self.folder} to begin again"
            )
        return found

    def _load(self, step: int) -> Checkpoint:
        folder = self._path(step)
        state = _read_state(folder / _STATE)
        if state["format"] != _FORMAT:
            raise ArtifactError(f"checkpoint {folder}: format {state['format']}, this version reads {_FORMAT}")
        for name, expected in state["hashes"].items():
            if not (folder / name).is_file() or artifact.hash_file(folder / name) != expected:
                raise ArtifactError(f"checkpoint file {folder / name}: missing or damaged, its hash is another")
        weights, optimizer = (load((folder / name).read_bytes()) for name in (_WEIGHTS, _OPTIMIZER))
        return Checkpoint(state["step"], weights, optimizer, state)

    def _way_out(self, steps: list[int]) -> str:
        """What to do when the last of ``steps`` is damaged: the newest whole one before it is offered."""
        for number in range(len(steps) - 1, 0, -1):
            try:
                self._load(steps[number - 1])
            except ArtifactError:
                continue
            damaged = " and ".join(str(self._path(step)) for step in steps[number:])
            return f"delete {damaged} and give the same command to go on from step {steps[number - 1]}"
        return f"delete {self.folder} and give the same command to begin again"

    def _retire(self) -> None:
        """Keeps the newest few, and the last of every length phase."""
        for step in self._steps()[: -self._keep]:
            try:
                disposable = not _read_state(self._path(step) / _STATE).get("ends_phase")
            except ArtifactError:
                disposable = False  # damaged: a person may want to look at it
            if disposable:
                torn = self._path(step).with_name(f".{self._path(step).name}.tmp")
                os.replace(self._path(step), torn)  # a kill while deleting must not leave half a checkpoint
                shutil.rmtree(torn)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:07d}"

    def _steps(self) -> list[int]:
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-*"))


def _read_state(file: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(file.read_bytes())
        whole = state.pop("hash") == artifact.hash_json(state)
    except (OSError, ValueError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise ArtifactError(f"checkpoint file {file}: missing or damaged")
    return state


def _sync(folder: Path) -> None:
    """Makes a rename within ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def random_state() -> Tensor:
    """State of torch's generator on the CPU (dropout); of CUDA's beside it where there is one."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)


def set_random_state(state: Tensor) -> None:
    """Takes back what ``random_state`` gave."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if torch.cuda.is_available() and len(state) > size:
        torch.cuda.set_rng_state(state[size:])
