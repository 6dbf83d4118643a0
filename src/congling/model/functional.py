"""Functions that plain torch does slowly on a CPU: with few passes over memory, backward passes by hand."""

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


def unit_rms(x: Tensor) -> Tensor:
    """x / √(mean(x²) + 1e-6) over the last axis; on a CPU the factor is rounded to the type of x."""
    if x.device.type == "cpu" and torch.is_grad_enabled():
        y: Tensor = _UnitRms.apply(x)
        return y
    return F.rms_norm(x, x.shape[-1:], None, EPS)


def dropout(x: Tensor, share: float) -> Tensor:
    """Sets about ``share`` of the values to 0, at random, and scales the others so that the mean stays.

    torch draws 7 ns a value on a CPU; here 16 random bits a value make it 1 ns, 4 % of a training step of jerry-0.18b.
    """
    if x.device.type != "cpu":
        return F.dropout(x, share)
    dropped = round(share * 2**16)  # of the 2¹⁶ values of a short integer
    bits = torch.empty(x.numel() // 4 + 1, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[: x.numel()]
    kept = torch.ge(bits.view_as(x), dropped - 2**15, out=torch.empty_like(x))  # 0 or 1 in the type of x
    return x * kept * (2**16 / (2**16 - dropped))


class _RmsNorm(torch.autograd.Function):
    """With s = 1/√(mean(x²) + ε):  dx = s·(g·w) − x·s³·(Σ g·w·x)/D,  dw = Σ g·x·s."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        scale = _inverse_rms(x).to(x.dtype)  # [..., 1]
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, scale = ctx.saved_tensors
        product = (grad * x).flatten(0, -2)  # [N, D]
        grad_weight = product.T @ scale.flatten()
        slope = (product @ weight).view_as(scale) * scale.pow(3) / x.shape[-1]
        return (grad * weight).mul_(scale).addcmul_(x, slope, value=-1), grad_weight


class _UnitRms(torch.autograd.Function):
    """With s = 1/√(mean(x²) + ε):  dx = s·g − x·s³·(Σ g·x)/K."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scale = _inverse_rms(x)
        ctx.save_for_backward(x, scale)
        return x * scale.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, scale = ctx.saved_tensors
        slope = (grad * x).sum(-1, keepdim=True, dtype=scale.dtype) * scale.pow(3) / x.shape[-1]
        return (grad * scale.to(x.dtype)).addcmul_(x, slope.to(x.dtype), value=-1)


def _inverse_rms(x: Tensor) -> Tensor:
    """[..., 1], at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return (torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype).square() / x.shape[-1] + EPS).rsqrt()


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
