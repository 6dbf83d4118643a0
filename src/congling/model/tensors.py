"""Tensors in safetensors files, written without a second copy in memory and hashed on the way.

The format (https://huggingface.co/docs/safetensors, version 1): 8 bytes with the length of the header, little-endian;
the header in JSON, name → dtype, shape and where its bytes lie; then the bytes of all tensors without gaps. Wide types
come first, so that every tensor is aligned in the memory-mapped file.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from congling import artifact
from congling.artifact import ArtifactError

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_CHUNK = 16 << 20  # bytes hashed and written at a time: they stay in the cache between the two


def write_tensors(
    file: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Writes a whole safetensors file into ``file``; returns its {"bytes", "hash"}, as in a manifest.

    metadata: texts for the header. ``transformers`` wants {"format": "pt"} there.
    A tensor on another device, or not contiguous, is copied when its turn comes. Raises OSError.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    digest, size = artifact.new_hash(), 0
    for chunk in _chunks({name: tensors[name] for name in order}, metadata):
        digest.update(chunk)
        file.write(chunk)
        size += len(chunk)
    return {"bytes": size, "hash": digest.hexdigest()}


def _chunks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> Iterator[bytes | memoryview]:
    """The bytes of the file, piece by piece."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, tensor in tensors.items():
        end = place + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(data), _CHUNK):
            yield data[start : start + _CHUNK]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU, mapped from the file: read when they are used. Raises
    ArtifactError."""
    try:
        return load_file(path)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); make or copy the model again") from None
