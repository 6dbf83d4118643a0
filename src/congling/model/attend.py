"""Attention with any position method in plain torch: the path of CPUs, and the reference of the other paths.

On CPUs the plain products are 3–9 times as fast as ``scaled_dot_product_attention`` (benchmarks/model.py). The backward
pass is written by hand: autograd's leaves the heads innermost after mixing them and copies k transposed, which made
attention twice as slow. Letters: B batch, H heads, Q queries, T keys (the queries are the last Q of the T positions),
K head width, G 1 or H.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from congling.model.positions import NoPosition

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True)
class DocumentMask:
    """Which document each query and each key is of; a query looks at keys of its own document alone."""

    queries: Tensor  # [B, Q] numbers that never fall along a row
    keys: Tensor  # [B, T]

    @cached_property
    def blocked(self) -> Tensor:
        """[B, 1, Q, T], true where a key is of another document than the query; made once for all layers."""
        return (self.queries[:, :, None] != self.keys[:, None, :])[:, None]

    @cached_property
    def blocks(self) -> "BlockMask":
        """The causal mask within documents as FlexAttention wants it; made once for all layers."""
        from congling.model.flex import document_blocks

        return document_blocks(self)

    @cached_property
    def places(self) -> Tensor:
        """[B, Q] the place of each query within its document, from 0."""
        return (self.keys[:, None, :] == self.queries[:, :, None]).tril(self.keys.shape[1] - self.queries.shape[1]).sum(
            -1
        ) - 1


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: NoPosition,
    documents: DocumentMask | None = None,
    talking_before: Tensor | None = None,
    talking_after: Tensor | None = None,
) -> Tensor:
    """softmax(T_before·(q·kᵀ/√K·scale + bias))·T_after·v, causal: [B, H, Q, K] from q [B, H, Q, K], k, v [B, H, T, K].

    Source: SEED §3.3–3.5; talking heads: Shazeer et al. 2020. Not followed: the seed gives masked places −1e3, here
    −∞, the same for every row that has one open place. Cost: four tensors [B, H, Q, T] in the type of q: the caller
    turns autocast off, which would do the softmax in float32, at 1.3 times the time.
    """
    scale, bias = _scale_and_bias(position, q.shape[2], k.shape[2], q.shape[-1], q.device)
    factor = _log_scale(position, q.shape[2], k.shape[2], q.device, documents)
    if factor is not None:
        scale, bias = scale * factor, bias * factor
    causal = _causal(q.shape[2], k.shape[2], q.device)
    bias, masked = (bias + causal, None) if talking_before is None else (bias, causal)  # spares a pass over the scores
    blocked = None if documents is None else documents.blocked
    y: Tensor = _Attend.apply(q, k, v, scale, bias, masked, blocked, talking_before, talking_after)
    return y


class _Attend(torch.autograd.Function):
    """With r = q·kᵀ, s = r·scale + bias, m = B·s (masked), p = softmax(m), w = A·p, y = w·v (A, B mix the heads):

    dv = wᵀ·dy,  dw = dy·vᵀ,  dA = dw·pᵀ,  dp = Aᵀ·dw,  dm = p·(dp − Σ dp·p),  dB = dm·sᵀ,  ds = Bᵀ·dm,
    dbias = Σ ds,  dscale = Σ ds·r,  dr = ds·scale,  dq = dr·k,  dk = drᵀ·q.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: Tensor,  # [G, Q, T] or [1, 1, 1], or with a leading B
        bias: Tensor,  # likewise
        masked: Tensor | None,  # [Q, T] 0 or −∞, added behind the first mixing
        blocked: Tensor | None,  # [B, 1, Q, T] bool
        before: Tensor | None,  # [H, H]
        after: Tensor | None,
    ) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        raw = q @ k.mT  # [B, H, Q, T]
        scores = torch.addcmul(bias.to(q.dtype), raw, scale.to(q.dtype))
        mixed = scores if before is None else _mix(before, scores)
        if masked is not None:
            mixed += masked.to(q.dtype)
        if blocked is not None:  # where the weight is 0 so is the gradient: the backward pass needs no mask
            mixed.masked_fill_(blocked, float("-inf"))
        p = torch.softmax(mixed, dim=-1)
        weights = p if after is None else _mix(after, p)
        # No more than the backward pass needs: four tensors [B, H, Q, T] with talking heads, else two.
        ctx.save_for_backward(q, k, v, scale, before, after, raw, None if before is None else scores, p, weights)
        ctx.bias_shape = bias.shape
        return weights @ v

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, scale, before, after, raw, scores, p, weights = ctx.saved_tensors
        grad = grad.contiguous()
        grad_v = weights.mT @ grad
        slope = grad @ v.mT  # [B, H, Q, T], the gradient on its way back through w, p, m, s, r
        grad_before = grad_after = grad_scale = grad_bias = None
        if after is not None:
            grad_after = _mixed_by(slope, p, after)
            slope = _mix(after.T, slope)
        slope = torch._softmax_backward_data(slope, p, -1, p.dtype)
        if before is not None:
            grad_before = _mixed_by(slope, scores, before)
            slope = _mix(before.T, slope)
        if ctx.needs_input_grad[3]:
            grad_scale = (slope * raw).sum_to_size(scale.shape).to(scale.dtype)
        if ctx.needs_input_grad[4]:
            grad_bias = slope.sum_to_size(ctx.bias_shape).to(scale.dtype)
        slope *= scale.to(slope.dtype)
        return slope @ k, slope.mT @ q, grad_v, grad_scale, grad_bias, None, None, grad_before, grad_after


def _mix(talking: Tensor, x: Tensor) -> Tensor:
    """y[b, g] = Σ_h talking[g, h]·x[b, h] for x [B, H, Q, T]."""
    heads = talking.to(x.dtype).expand(len(x), -1, -1)  # without expand torch would transpose x
    return torch.bmm(heads, x.flatten(2)).view_as(x)


def _mixed_by(grad: Tensor, x: Tensor, talking: Tensor) -> Tensor:
    """The gradient of ``talking`` in y = _mix(talking, x): [H, H]."""
    return torch.bmm(grad.flatten(2), x.flatten(2).mT).sum(0).to(talking.dtype)


def _scale_and_bias(
    position: NoPosition, queries: int, keys: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """[G, Q, T] (or [1, 1, 1]) factors, 1/√K included, and summands."""
    distance = torch.arange(keys - 1, -queries, -1, device=device).clamp(min=0)  # [T + Q − 1], one a diagonal
    scale, bias = position.scale_and_bias(distance)
    one = torch.ones(1, 1, 1, device=device)
    scale = one if scale is None else _diagonals(scale, queries, keys)
    return scale * head_dim**-0.5, one * 0 if bias is None else _diagonals(bias, queries, keys)


def _log_scale(
    position: NoPosition, queries: int, keys: int, device: torch.device, documents: DocumentMask | None
) -> Tensor | None:
    """[B or 1, 1, Q, 1] factors on the scores where ``position.log_scale_from`` asks for them; None: no query does."""
    if not position.log_scale_from or keys <= position.log_scale_from:
        return None
    if documents is None:
        seen = torch.arange(keys - queries + 1, keys + 1, device=device)[None]
    else:
        seen = documents.places + 1  # [B, Q]
    factor = seen.log() / math.log(position.log_scale_from)
    return factor.clamp(min=1)[:, None, :, None]


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """0 where a key is not in the query's future, else −∞, [Q, T]."""
    return torch.full((queries, keys), float("-inf"), device=device).triu(keys - queries + 1)


def _diagonals(values: Tensor, queries: int, keys: int) -> Tensor:
    """[G, T + Q − 1] values a diagonal, the lower left corner first -> [G, Q, T], constant along diagonals."""
    return values.unfold(-1, keys, 1).flip(-2)
