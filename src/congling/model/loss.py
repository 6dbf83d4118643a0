"""Cross-entropy over a large vocabulary without ever holding all logits.

The head and the loss are one autograd function: a chunk of rows at a time, logits → loss → gradient of the logits →
gradients of hidden states and head, while the chunk is still in the processor's cache. Memory: one chunk of logits.
"""

from typing import Any

import torch
from torch import Tensor

IGNORE = -100  # a target that is not learned
_CHUNK = 1024  # rows; below 512 the matrix products become slow on a CPU


class LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of −ln softmax(h·Wᵀ)[target], in nats. h: [N, D], W: [V, D], target: [N] (IGNORE: left out)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        dtype = _compute_dtype(hidden)
        h, w = hidden.to(dtype), weight.to(dtype)
        learn = hidden.requires_grad or weight.requires_grad
        grad_hidden = torch.empty_like(h) if learn else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if learn else None
        total = hidden.new_zeros((), dtype=torch.float32 if dtype != torch.float64 else dtype)
        for start in range(0, len(h), _CHUNK):
            rows = slice(start, start + _CHUNK)
            loss, grad = _chunk(h[rows] @ w.T, targets[rows], learn)
            total += loss
            if grad is not None and grad_hidden is not None and grad_weight is not None:
                grad = grad.to(dtype)
                torch.mm(grad, w, out=grad_hidden[rows])
                grad_weight += grad.T @ h[rows]
        if learn:
            ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return (grad_hidden.to(ctx.dtypes[0]) * grad).to(ctx.dtypes[0]), (grad_weight * grad).to(ctx.dtypes[1]), None


def _chunk(logits: Tensor, targets: Tensor, learn: bool) -> tuple[Tensor, Tensor | None]:
    """Loss of a chunk and the gradient of its logits (softmax − one-hot; zero rows where ignored)."""
    used = targets != IGNORE
    column = targets.clamp(min=0)[:, None]  # [N, 1]
    wide = logits if logits.dtype == torch.float64 else logits.float()
    log_probs = torch.log_softmax(wide, dim=-1)
    loss = -(log_probs.gather(1, column)[:, 0] * used).sum()
    if not learn:
        return loss, None
    grad = log_probs.exp_()
    grad.scatter_add_(1, column, grad.new_full((len(column), 1), -1.0))
    if not bool(used.all()):
        grad *= used[:, None]
    return loss, grad


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """What autocast would multiply in; an autograd function has to ask for itself."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
