"""Model folders: ``model.json`` (architecture), ``model.safetensors`` (float32), ``vocabulary.txt``, nothing else."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from congling import artifact
from congling.artifact import ArtifactError
from congling.model.config import Architecture
from congling.model.tensors import read_tensors, write_tensors
from congling.model.transformer import Transformer

ARCHITECTURE, WEIGHTS, VOCABULARY = "model.json", "model.safetensors", "vocabulary.txt"


def save_model(folder: Path, model: Transformer, vocabulary: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Writes the model folder; ``vocabulary`` is copied in. Weights first: a folder with model.json is whole.

    weights: those to write, when the model has them in shards; None: its own.
    """
    named = dict(model.named_parameters()) if weights is None else weights
    weights = {name: p.detach().float().cpu().contiguous() for name, p in named.items()}
    with artifact.atomic_open(folder / WEIGHTS) as file:
        write_tensors(file, weights)
    if vocabulary != folder / VOCABULARY:
        with artifact.atomic_open(folder / VOCABULARY) as copy, open(vocabulary, "rb") as original:
            shutil.copyfileobj(original, copy)
    artifact.write_json(folder / ARCHITECTURE, model.architecture.model_dump())


def load_model(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Transformer:
    """The model of a folder, in evaluation mode. Hashes are checked when the folder has a manifest.

    Raises ArtifactError when files are missing, damaged, or do not belong together.
    """
    _check_model_folder(folder)
    model = Transformer(_read_architecture(folder / ARCHITECTURE), seed=None)
    weights = read_tensors(folder / WEIGHTS)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError:
        raise ArtifactError(f"{folder}: {WEIGHTS} does not fit {ARCHITECTURE}; they come from two models") from None
    return model.to(device=device, dtype=dtype).eval()


def _check_model_folder(folder: Path) -> None:
    """Raises ArtifactError unless ``folder`` holds a whole model; the message lists the models that are near."""
    if not (folder / ARCHITECTURE).is_file():
        problem = f"no model in it (no {ARCHITECTURE})" if folder.is_dir() else "no such folder"
        if (folder / "checkpoints").is_dir():
            problem = "its training has not finished; give the same command again to go on"
        near = folder if folder.is_dir() else folder.parent
        found = sorted(str(p.parent) for p in near.glob(f"*/{ARCHITECTURE}"))
        found += sorted(str(p.parent) for p in near.glob(f"checkpoints/step-*/{ARCHITECTURE}"))
        raise ArtifactError(f"{folder}: {problem}" + (f"; models here: {', '.join(found)}" if found else ""))
    for name in (WEIGHTS, VOCABULARY):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name}: missing; copy it from where the model was trained")
    if (folder / artifact.MANIFEST).exists():
        artifact.verify(folder, artifact.read_manifest(folder), [ARCHITECTURE, WEIGHTS, VOCABULARY])


def _read_architecture(file: Path) -> Architecture:
    try:
        return Architecture.model_validate_json(file.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise ArtifactError(f"{file}: not a model description: {key} {problem['msg']}") from None
