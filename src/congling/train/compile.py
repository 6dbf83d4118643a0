"""torch.compile for the layers, in training alone."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from congling.model.transformer import Layer, Transformer

_SHAPES = 64  # lengths × micro-batches × kinds of layer of a training, each compiled for itself


def compile_layers(model: Transformer, mode: str, device: str, backend: str = "inductor") -> None:
    """Compiles the layers in place when ``mode`` ("auto", "on", "off") asks; auto: on CUDA, a CPU gains nothing.

    What is compiled: norms, casts, activations, residual sums, and the products as library calls between them; the
    code of one layer serves all. Left out: attention, which has kernels of its own, and embedding, head and loss. Each
    length is compiled for itself: fixed shapes make the quicker code.
    """
    if mode == "off" or (mode == "auto" and device != "cuda"):
        return
    options: dict[str, Any] = {"dynamic": False, "backend": backend}
    if torch.__version__ >= "2.13":  # before, the limit is 8: further shapes run uncompiled, with a warning
        options["recompile_limit"] = _SHAPES
    for layer in model.layers:
        assert isinstance(layer, Layer)
        setattr(layer.attention, "attend", torch.compiler.disable(layer.attention.attend))  # noqa: B010 (mypy)
        layer.compile(**options)


def eager() -> AbstractContextManager[None]:
    """Validation and samples come in many shapes, which are not worth a compilation."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance
