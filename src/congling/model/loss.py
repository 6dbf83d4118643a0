"""Cross-entropy over a large vocabulary without ever holding all logits.

The head and the loss are one autograd function: a chunk of rows at a time, logits → loss → gradient of the logits →
gradients of hidden states and head, while the chunk is at hand. Nothing is computed twice. On a CPU nine tenths of its
time are the three matrix products, which run at the processor's peak (benchmarks/model.py).
Letters: N rows, D model width, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from congling.model.functional import compute_dtype

IGNORE = -100  # a target that is not learned
# Rows. Below 512 the matrix products become slow on a CPU; a GPU wants more work a launch (8,192 rows of 65,536 logits
# in bf16 are 1 GiB).
_CHUNK = {"cpu": 1024, "cuda": 8192}


class LossSum(NamedTuple):
    """Sums over the targets that are not IGNORE; scalars on the device of the model."""

    objective: Tensor  # what training descends: nats + z_loss·Σ (ln Z)²
    nats: Tensor  # cross-entropy, without a gradient
    learned: Tensor  # int64, how many targets


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float = 0.0, z_loss: float = 0.0
) -> LossSum:
    """Head and loss in one: z = cap·tanh(h·Wᵀ/cap) (cap 0: h·Wᵀ), nats −z[target] + ln Z with Z = Σ exp z.

    hidden [N, D], weight [V, D], targets [N] ids or IGNORE. z_loss draws ln Z towards 0 (Chowdhery et al. 2022, §5),
    which keeps logits from drifting to where bf16 is coarse. Matrix products in the type of autocast, else of hidden.
    """
    learned = targets != IGNORE
    count = learned.sum()
    if hidden.device.type == "cpu" and int(count) < len(targets):
        hidden, targets = hidden[learned], targets[learned]  # half of the time of a tuning step; on a GPU it would wait
    objective, nats = _LinearCrossEntropy.apply(hidden, weight, targets, softcap, z_loss)
    return LossSum(objective, nats, count)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(hidden)
        with torch.autocast(hidden.device.type, enabled=False):  # it would do the softmax in float32
            h, w = hidden.to(dtype), weight.to(dtype)
            totals = torch.zeros(2, device=h.device, dtype=torch.promote_types(dtype, torch.float32))
            learning = any(ctx.needs_input_grad)
            grad_hidden = torch.empty_like(h) if learning else h.new_empty(0)
            grad_weight: Tensor | None = None
            for rows in _chunks(len(h), h.device.type):
                sums, grad = _loss_and_gradient(_logits(h[rows], w, softcap), targets[rows], softcap, z_loss, learning)
                totals += sums
                if grad is None:
                    continue
                torch.mm(grad, w, out=grad_hidden[rows])
                part = grad.T @ h[rows]
                grad_weight = part.to(weight.dtype) if grad_weight is None else grad_weight.add_(part)
        if learning:
            ctx.save_for_backward(grad_hidden, torch.zeros_like(weight) if grad_weight is None else grad_weight)
        nats, squares = totals.unbind()
        ctx.mark_non_differentiable(nats)
        return nats + z_loss * squares, nats

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad.device.type == "cpu" and grad == 1:  # the last step of a chain: spares a pass over [V, D]
            return grad_hidden, grad_weight, None, None, None
        return grad_hidden * grad, grad_weight * grad, None, None, None


def _chunks(rows: int, device: str) -> list[slice]:
    size = _CHUNK.get(device, 8192)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _logits(h: Tensor, w: Tensor, softcap: float) -> Tensor:
    z = h @ w.T  # [N, V]
    return z.div_(softcap).tanh_().mul_(softcap) if softcap else z


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, softcap: float, z_loss: float, learning: bool
) -> tuple[Tensor, Tensor | None]:
    """[Σ nats, Σ (ln Z)²] of a chunk of capped logits z [N, V]; the gradient of the uncapped ones when ``learning``.

    With p = softmax(z):  d nats/dz = p − one-hot,  d (ln Z)²/dz = 2·ln Z·p,  dz/d uncapped = 1 − (z/cap)².
    One softmax in the type of the logits, and the loss from its own rounded probabilities: a third of the time of a
    float32 log-softmax, and the rounding (2⁻⁹ in bf16, without bias) is below that of the logits themselves.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    if not learning:  # measuring a model is worth the time
        logits = logits.to(wide)
    learned = targets != IGNORE
    place = torch.arange(len(targets), device=targets.device), targets.clamp(min=0)
    # 1 + 2·z_loss·ln Z is 1 in bf16: with a z-loss the softmax has to be float32 until the factor is in it.
    p = torch.softmax(logits, dim=-1, dtype=wide if z_loss else None)
    hit = p[place]  # [N]
    nats = -hit.to(wide).clamp(min=torch.finfo(wide).tiny).log()
    log_z = logits[place].to(wide) + nats
    sums = torch.stack([torch.where(learned, x, 0).sum() for x in (nats, log_z.square())])
    if not learning:
        return sums, None
    if z_loss:
        factor = 1 + 2 * z_loss * log_z
        p = p.mul_(factor[:, None]).to(logits.dtype)
        hit = hit * factor
    hit = hit.to(p.dtype)
    p[place] = hit - 1  # scatter_ would take the whole chunk to float32 and back
    if softcap:
        p *= 1 - (logits / softcap).square_()
    if p.device.type != "cpu":  # there rows that are not learned have been left out
        p *= learned.to(p.dtype)[:, None]
    return sums, p
