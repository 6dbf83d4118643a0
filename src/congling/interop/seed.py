"""``congling import-seed``: the seed's published weights (SEED §3) and vocabulary (SEED §2) → a model folder.

Sizes are read from the weights. Nothing in the file is run: ``torch.load`` takes tensors alone (``weights_only``).
"""

import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from congling.model.config import PRESETS, Architecture
from congling.model.folder import save_model
from congling.model.transformer import Transformer

_EMBEDDING = "embedding.look_up_table.weight"
_LAYER = re.compile(r"encoder\.encoder_layers\.(\d+)\.")
# Our name -> the seed's, of the parts that have a matrix and an affine scalar pair; then of all that stands alone.
_PAIRS = {
    "attention.query": ("multi_head_attention.query_w", "multi_head_attention.query_a"),
    "attention.key": ("multi_head_attention.key_w", "multi_head_attention.key_a"),
    "attention.value": ("multi_head_attention.value_w", "multi_head_attention.value_a"),
    "attention.out": ("multi_head_attention.out_w", "multi_head_attention.out_a"),
    "feed_forward.up": ("position_wise_feed_forward.w1", "position_wise_feed_forward.a1"),
    "feed_forward.down": ("position_wise_feed_forward.w2", "position_wise_feed_forward.a2"),
}
_SINGLE = {
    "attention.talking_before": "multi_head_attention.talking_before_softmax.weight",
    "attention.talking_after": "multi_head_attention.talking_after_softmax.weight",
    "norm.weight": "layer_norm.weight",
}
# The seed evaluates these two affines at 1 and uses nothing else of them: our one number is value + bias.
_SUMS = {
    "attention.position.rate": "multi_head_attention.relative_affine",
    "attention.position.offset": "multi_head_attention.absolute_affine",
}
_OUTER = {
    "embedding": _EMBEDDING,
    "embedding_affine.value": "embedding.affine.value",
    "embedding_affine.bias": "embedding.affine.bias",
    "head": "projector.project.weight",
    "head_affine.value": "projector.affine.value",
    "head_affine.bias": "projector.affine.bias",
}


def import_seed(weights: Path, vocabulary: Path, out: Path) -> Architecture:
    """Writes the model folder ``out``, which must be new or empty; returns the sizes that the weights have.

    weights: a state dict with the names of SEED §3 in torch's zip format, in any floating type; a common prefix
    (``module.``) and a dictionary around it (``{"model": …}``) are taken off. Raises ValueError in one line, and then
    leaves nothing behind.
    """
    from congling.tokenizer.tokenizer import Tokenizer

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is there already; give a new or an empty folder")
    found = _state_dict(weights)
    architecture = _architecture(weights, found)
    tokenizer = Tokenizer.from_seed(vocabulary)
    if tokenizer.vocab_size != architecture.vocab_size:
        raise ValueError(
            f"{vocabulary}: gives {tokenizer.vocab_size} rows (256 and its pieces), {weights} has "
            f"{architecture.vocab_size}; they do not belong together"
        )
    with torch.device("meta"):
        model = Transformer(architecture, seed=None)
    named = _converted(weights, found, {name: tuple(p.shape) for name, p in model.named_parameters()})
    draft = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        save_model(draft, model, tokenizer.save(draft), named)
        os.replace(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return architecture


# -- reading -------------------------------------------------------------------------------------------------------


def _state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of the file under the names of SEED §3."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    with open(file, "rb") as opened:
        if opened.read(4) != b"PK\x03\x04":
            raise ValueError(f"{file}: no weights in torch's zip format; save them with torch.save of today")
    damaged = ValueError(f"{file}: cut short or damaged; download it again")
    if not zipfile.is_zipfile(file):  # looks at the end of the file, where a zip has its table of contents
        raise damaged
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{file}: asks for more than tensors (its pickle wants to run code); it was not loaded"
        ) from None
    except (RuntimeError, ValueError, EOFError, KeyError, OverflowError, UnicodeDecodeError):
        raise damaged from None
    candidates = list(_with_prefix(content, 3))
    if len(candidates) != 1:
        problem = f"{len(candidates)} sets of weights" if candidates else f"no {_EMBEDDING}"
        raise ValueError(f"{file}: holds {problem}; expected one state dict with the seed's names (SEED §3)")
    return candidates[0]


def _with_prefix(content: Any, depth: int) -> Iterator[dict[str, Tensor]]:
    """State dicts of a model in ``content``, itself or inside; a prefix that all names share is taken off."""
    if not isinstance(content, Mapping) or depth == 0:
        return
    names = [name for name in content if isinstance(name, str)]
    prefixes = [name.removesuffix(_EMBEDDING) for name in names if name.endswith(_EMBEDDING)]
    if prefixes:
        for prefix in prefixes:
            yield {name.removeprefix(prefix): content[name] for name in names if name.startswith(prefix)}
        return
    for value in content.values():
        yield from _with_prefix(value, depth - 1)


def _architecture(file: Path, found: Mapping[str, Tensor]) -> Architecture:
    """The preset of the seed, with the sizes that the tensors have."""
    layer = "encoder.encoder_layers.0."
    vocab_size, dim = _matrix(file, found, _EMBEDDING)
    num_heads, _ = _matrix(file, found, f"{layer}{_SINGLE['attention.talking_before']}")
    inner, _ = _matrix(file, found, f"{layer}{_PAIRS['attention.query'][0]}.weight")
    ffn_dim, _ = _matrix(file, found, f"{layer}{_PAIRS['feed_forward.up'][0]}.weight")
    if inner % num_heads:
        raise ValueError(f"{file}: queries of {inner} numbers cannot be of {num_heads} heads (talking_before_softmax)")
    numbers = sorted({int(match[1]) for name in found if (match := _LAYER.match(name))})
    if numbers != list(range(len(numbers))):
        raise ValueError(f"{file}: layer {min(set(range(len(numbers))) - set(numbers))} is missing")
    sizes: dict[str, Any] = {
        "dim": dim,
        "num_layers": len(numbers),
        "num_heads": num_heads,
        "head_dim": inner // num_heads,
    }
    return Architecture(**{**PRESETS["jerry-0.18b"], **sizes, "ffn_dim": ffn_dim, "vocab_size": vocab_size})


def _matrix(file: Path, found: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    tensor = _tensor(file, found, name)
    if tensor.dim() != 2 or 0 in tensor.shape:
        raise ValueError(f"{file}: {name} has shape {list(tensor.shape)}, expected a matrix")
    return tensor.shape[0], tensor.shape[1]


def _tensor(file: Path, found: Mapping[str, Tensor], name: str) -> Tensor:
    tensor = found.get(name)
    if tensor is None:
        raise ValueError(f"{file}: {name} is missing")
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise ValueError(f"{file}: {name} holds no floating-point numbers")
    if tensor.nbytes > tensor.untyped_storage().nbytes():  # a small file must not ask for all memory
        raise ValueError(f"{file}: {name} claims more numbers than the file has")
    return tensor


# -- names and shapes ----------------------------------------------------------------------------------------------


def _converted(file: Path, found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Our names → float32 tensors of ``shapes``. Every name of the file must have been used."""
    named, used = {}, set()
    for ours, shape in shapes.items():
        theirs = _seed_names(ours)
        parts = [_shaped(file, _tensor(file, found, name), name, shape) for name in theirs]
        named[ours] = (parts[0] if len(parts) == 1 else parts[0].double() + parts[1].double()).float()
        if not named[ours].isfinite().all():
            raise ValueError(f"{file}: {theirs[0]} holds numbers that are not finite; the file is damaged")
        used.update(theirs)
    if extra := sorted(set(found) - used):
        raise ValueError(f"{file}: {extra[0]} is no part of the seed's model (SEED §3) ({len(extra)} such names)")
    return named


def _shaped(file: Path, tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    if shape == (1,) and tensor.numel() == 1:  # a scalar may be stored as one
        return tensor.reshape(1)
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{file}: {name} has shape {list(tensor.shape)}, expected {list(shape)}")
    return tensor


def _seed_names(ours: str) -> list[str]:
    """The seed's names for a parameter of ours; two, where ours is the sum of two."""
    if ours in _OUTER:
        return [_OUTER[ours]]
    _, number, rest = ours.split(".", 2)
    layer = f"encoder.encoder_layers.{number}."
    if rest in _SUMS:
        return [f"{layer}{_SUMS[rest]}.{part}" for part in ("value", "bias")]
    if rest in _SINGLE:
        return [layer + _SINGLE[rest]]
    part, kind = rest.rsplit(".", 1)  # …query, weight; or …query.affine, value
    matrix, affine = _PAIRS[part.removesuffix(".affine")]
    return [f"{layer}{matrix}.weight" if kind == "weight" else f"{layer}{affine}.{kind}"]
