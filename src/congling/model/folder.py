"""Model folders: ``model.json`` (architecture), ``model.safetensors`` (float32), ``vocabulary.txt``, nothing else."""

import json
import shutil
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from congling import artifact
from congling.artifact import ArtifactError
from congling.model.config import Architecture
from congling.model.transformer import Transformer

ARCHITECTURE, WEIGHTS, VOCABULARY = "model.json", "model.safetensors", "vocabulary.txt"


def save_model(folder: Path, model: Transformer, vocabulary: Path) -> None:
    """Writes the model folder; ``vocabulary`` is copied in. Weights first: a folder with model.json is whole."""
    weights = {name: p.detach().float().cpu().contiguous() for name, p in model.named_parameters()}
    artifact.atomic_write(folder / WEIGHTS, save(weights))
    if vocabulary != folder / VOCABULARY:
        with artifact.atomic_open(folder / VOCABULARY) as copy, open(vocabulary, "rb") as original:
            shutil.copyfileobj(original, copy)
    artifact.write_json(folder / ARCHITECTURE, model.architecture.model_dump())


def load_model(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Transformer:
    """The model of a folder, in evaluation mode. Hashes are checked when the folder has a manifest.

    Raises ArtifactError when files are missing, damaged, or do not belong together.
    """
    if not (folder / ARCHITECTURE).is_file():
        inner = sorted(str(p.parent) for p in folder.glob(f"*/{ARCHITECTURE}"))
        hint = f"; models in it: {', '.join(inner)}" if inner else ""
        raise ArtifactError(f"{folder}: no model folder (no {ARCHITECTURE}){hint}")
    if (folder / artifact.MANIFEST).exists():
        artifact.verify(folder, artifact.read_manifest(folder), [ARCHITECTURE, WEIGHTS, VOCABULARY])
    architecture = read_architecture(folder)
    try:
        weights = load((folder / WEIGHTS).read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{folder / WEIGHTS}: missing; the folder is no whole model") from None
    except SafetensorError as error:
        raise ArtifactError(f"{folder / WEIGHTS}: damaged ({error}); make the model again") from None
    model = Transformer(architecture)
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise ArtifactError(f"{folder}: {WEIGHTS} does not fit {ARCHITECTURE}; they come from two models") from None
    return model.to(device=device, dtype=dtype).eval()


def read_architecture(folder: Path) -> Architecture:
    """The architecture in ``model.json``; raises ArtifactError."""
    try:
        return Architecture(**json.loads((folder / ARCHITECTURE).read_text()))
    except (json.JSONDecodeError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ArtifactError(f"{folder / ARCHITECTURE}: not a model description: {reason}") from None
