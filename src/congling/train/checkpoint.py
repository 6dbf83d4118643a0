"""Complete checkpoints: weights, optimizer, random state, position; hashed, atomic, and refused when damaged.

``checkpoints/step-0000120/`` holds ``weights.safetensors``, ``optimizer.safetensors`` and ``state.json`` (step,
fingerprints, the hashes of both files). The folder is written under another name and renamed, so a kill leaves a whole
one or none.
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
    state: dict[str, Any]  # JSON


class Checkpoints:
    """The checkpoints of one training, in ``folder``. ``data``: fingerprint of the data they belong to."""

    def __init__(self, folder: Path, data: str, keep: int) -> None:
        self.folder, self._data, self._keep = folder, data, keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint durably, then deletes those that need not be kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self._path(checkpoint.step)
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        if final.exists():
            return
        try:
            self._write(temporary, checkpoint)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        os.replace(temporary, final)
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
        artifact.write_json(folder / _STATE, state)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, verified; None when there is none. Raises ArtifactError when it cannot be used."""
        steps = self._steps()
        if not steps:
            return None
        folder = self._path(steps[-1])
        try:
            return self._load(folder)
        except (OSError, json.JSONDecodeError, KeyError, ValueError) as error:
            offer = f"go on from step {steps[-2]}" if len(steps) > 1 else "begin again"
            raise ArtifactError(f"{error}; delete the folder {folder} and give the same command to {offer}") from None

    def _load(self, folder: Path) -> Checkpoint:
        try:
            state = json.loads((folder / _STATE).read_text())
            found, hashes = state["format"], state["hashes"]
        except (json.JSONDecodeError, KeyError, FileNotFoundError, UnicodeDecodeError):
            raise ArtifactError(f"checkpoint {folder / _STATE}: missing or damaged") from None
        if found != _FORMAT:
            raise ArtifactError(f"checkpoint {folder}: format {found}, this version reads {_FORMAT}")
        for name, expected in hashes.items():
            if not (folder / name).is_file() or artifact.hash_file(folder / name) != expected:
                raise ArtifactError(f"checkpoint {folder / name}: missing or damaged, its hash is another")
        if state["data"] != self._data:
            raise ArtifactError(f"checkpoint {folder}: was made with other training data")
        weights, optimizer = (load((folder / name).read_bytes()) for name in (_WEIGHTS, _OPTIMIZER))
        return Checkpoint(state["step"], weights, optimizer, state)

    def _retire(self) -> None:
        """Keeps the newest few, and the last of every length phase."""
        steps = self._steps()
        for step in steps[: -self._keep]:
            state = json.loads((self._path(step) / _STATE).read_text())
            if not state.get("ends_phase"):
                shutil.rmtree(self._path(step))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:07d}"

    def _steps(self) -> list[int]:
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-*"))


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
