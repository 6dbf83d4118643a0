"""Two functions whose autograd in plain torch makes many passes over memory on a CPU, with backward passes by hand."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that matrix products with ``x`` are done in: that of autocast when it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and x.dtype != torch.float64 else x.dtype


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """x / √(mean(x²) + 1e-6)·weight over the last axis (Zhang & Sennrich 2019), in the type of x."""
    if x.device.type == "cpu" and torch.is_grad_enabled():
        y: Tensor = _RmsNorm.apply(x, weight)
        return y
    return F.rms_norm(x, weight.shape, weight, EPS)


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)² (So et al. 2021)."""
    y: Tensor = _ReluSquared.apply(x)
    return y


class _RmsNorm(torch.autograd.Function):
    """With s = 1/√(mean(x²) + ε):  dx = s·(g·w) − x·s³·(Σ g·w·x)/D,  dw = Σ g·x·s."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = (norm.square() / x.shape[-1] + EPS).rsqrt()  # [..., 1]
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, scale = ctx.saved_tensors
        product = (grad * x).flatten(0, -2)  # [N, D]
        grad_weight = product.T @ scale.flatten()
        slope = (product @ weight).view_as(scale) * scale.pow(3) / x.shape[-1]
        return (grad * weight).mul_(scale).addcmul_(x, slope, value=-1), grad_weight


class _ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rectified = F.relu(x)
        ctx.save_for_backward(rectified)
        return rectified * rectified

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rectified,) = ctx.saved_tensors
        return (grad * rectified).mul_(2)
