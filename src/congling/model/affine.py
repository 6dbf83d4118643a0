"""The seed's affine scalars, A(x) = 100·(x·value + bias): two learned numbers before or behind a matrix."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congling.model.functional import compute_dtype

Place = Literal["before", "behind"]


class Affine(nn.Module):
    """A(x) = 100·(x·value + bias) (SEED §3). ``value`` starts at ``gain``/100, so that A begins as x·gain."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.value = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * (100 * self.value) + 100 * self.bias


class ScaledLinear(nn.Module):
    """A matrix without bias, [out, in], and where they are wanted the affine scalars: A(Wx), or W·A(x)."""

    def __init__(self, in_features: int, out_features: int, affine: bool, place: Place = "behind") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.affine = Affine() if affine else None
        self._place: Place = place

    def forward(self, x: Tensor) -> Tensor:
        if self.affine is None:
            return F.linear(x, self.weight)
        y: Tensor = _AffineLinear.apply(x, self.weight, self.affine.value, self.affine.bias, self._place)
        return y


class _AffineLinear(torch.autograd.Function):
    """y = x·(sW)ᵀ + c·u; s = 100·value, c = 100·bias, u = 1 ("behind": A(Wx)) or u_i = Σ_j W_ij ("before": W·A(x)).

    dx = dy·sW;  with G = dyᵀ·x and g = Σ dy over rows:  dW = s·G (+ c·g behind all columns when u depends on W),
    dvalue = 100·Σ G·W,  dbias = 100·g·u. The scalars ride on the weights' cast to bf16 and on the bias of the product:
    passes over weights in place of passes over activations, a tenth of a training step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, value: Tensor, bias: Tensor, place: Place) -> Tensor:
        dtype = compute_dtype(x)
        x, scaled = x.to(dtype), (weight * (100 * value)).to(dtype)
        direction = weight.sum(1) if place == "before" else torch.ones_like(weight[:, 0])  # u: [out]
        ctx.save_for_backward(x, weight, scaled, direction, value, bias)
        ctx.place = place
        return F.linear(x, scaled, (100 * bias * direction).to(dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scaled, direction, value, bias = ctx.saved_tensors
        rows = grad.flatten(0, -2)  # [N, out]
        total = rows.sum(0).to(weight.dtype)  # g; bf16 is summed in float32, and a float32 result takes 8 times as long
        grad_weight = (rows.T @ x.flatten(0, -2)).to(weight.dtype)  # G, and in place dW
        grad_value = 100 * torch.dot(grad_weight.flatten(), weight.flatten()).view(1)
        grad_weight *= 100 * value
        if ctx.place == "before":
            grad_weight += (100 * bias * total)[:, None]
        grad_bias = 100 * torch.dot(total, direction).view(1)
        return (grad @ scaled).view_as(x), grad_weight, grad_value, grad_bias, None
