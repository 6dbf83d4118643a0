"""Cross-entropy over a large vocabulary without ever holding all logits.

The head and the loss are one autograd function: a chunk of rows at a time, logits → loss → gradient of the logits →
gradients of hidden states and head, while the chunk is still in the processor's cache. Nothing is computed twice.
"""

from typing import Any

import torch
from torch import Tensor

from congling.model.functional import compute_dtype

IGNORE = -100  # a target that is not learned
_CHUNK = 1024  # rows; below 512 the matrix products become slow on a CPU


class LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of −ln softmax(cap·tanh(h·Wᵀ/cap))[target], in nats; cap 0: no cap.

    h: [N, D], W: [V, D], target: [N] ids. The matrix products run in the type of autocast, else of h.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float) -> Tensor:
        dtype = compute_dtype(hidden)
        with torch.autocast(hidden.device.type, enabled=False):  # it would do the softmax in float32
            return LinearCrossEntropy._forward(ctx, hidden, weight, targets, softcap, dtype)

    @staticmethod
    def _forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, dtype: torch.dtype
    ) -> Tensor:
        h, w = hidden.to(dtype), weight.to(dtype)
        total = hidden.new_zeros((), dtype=torch.promote_types(dtype, torch.float32))
        if not any(ctx.needs_input_grad):
            for rows in _chunks(len(h)):
                total += torch.nn.functional.cross_entropy(
                    _logits(h[rows], w, softcap).to(total.dtype), targets[rows], reduction="sum"
                )
            return total
        grad_hidden, grad_weight = torch.empty_like(h), torch.zeros_like(weight)
        for rows in _chunks(len(h)):
            loss, grad = _loss_and_gradient(_logits(h[rows], w, softcap), targets[rows], softcap)
            total += loss
            torch.mm(grad, w, out=grad_hidden[rows])
            grad_weight += grad.T @ h[rows]
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad, grad_weight * grad, None, None


def _chunks(rows: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, rows, _CHUNK)]


def _logits(h: Tensor, w: Tensor, softcap: float) -> Tensor:
    z = h @ w.T  # [N, V]
    return z.div_(softcap).tanh_().mul_(softcap) if softcap else z


def _loss_and_gradient(logits: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """Loss of a chunk and the gradient of its uncapped logits: (softmax − one-hot)·(1 − (logit/cap)²).

    One softmax in the type of the logits, and the loss from its own rounded probabilities: a third of the time of a
    float32 log-softmax, and the rounding (2⁻⁹ in bf16, without bias) is below that of the logits themselves.
    """
    place = torch.arange(len(targets), device=targets.device), targets
    grad = torch.softmax(logits, dim=-1)
    hit = grad[place]  # [N]
    wide = hit.to(torch.promote_types(grad.dtype, torch.float32))
    loss = -wide.clamp(min=torch.finfo(wide.dtype).tiny).log().sum()
    grad[place] = hit - 1  # scatter_ would take the whole chunk to float32 and back
    if softcap:
        grad *= 1 - (logits / softcap).square_()
    return loss, grad
