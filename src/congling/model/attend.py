"""Attention with any position method in plain torch: the path of CPUs, and the reference of the other paths.

On CPUs the plain products are 3–9 times as fast as ``scaled_dot_product_attention`` (benchmarks/model.py), and a
hand-written backward pass gained 5 %: not worth its lines. Letters: B batch, H heads, Q queries, T keys (the queries
are the last Q of the T positions), K head width, G 1 or H.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from congling.model.positions import NoPosition


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
    scores = q @ k.transpose(-1, -2)  # [B, H, Q, T]
    scale, bias = _scale_and_bias(position, q.shape[2], k.shape[2], q.shape[-1], q.device)
    causal = _causal(q.shape[2], k.shape[2], q.device)
    if talking_before is None:  # the mask rides on the summand: no pass of its own over [B, H, Q, T]
        scores = torch.addcmul((bias + causal).to(q.dtype), scores, scale.to(q.dtype))
    else:
        scores = _mix(talking_before, torch.addcmul(bias.to(q.dtype), scores, scale.to(q.dtype))) + causal.to(q.dtype)
    if documents is not None:
        with torch.no_grad():  # where the weight is 0 so is the gradient: the backward pass needs no mask
            scores.masked_fill_(documents.blocked, float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    if talking_after is not None:
        weights = _mix(talking_after, weights)
    return weights @ v


def _mix(talking: Tensor, x: Tensor) -> Tensor:
    """y[b, g] = Σ_h talking[g, h]·x[b, h] for x [B, H, Q, T]."""
    return (talking.to(x.dtype) @ x.flatten(2)).view_as(x)


def _scale_and_bias(
    position: NoPosition, queries: int, keys: int, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """[G, Q, T] (or [1, 1, 1]) factors, 1/√K included, and summands."""
    distance = torch.arange(keys - 1, -queries, -1, device=device).clamp(min=0)  # [T + Q − 1], one a diagonal
    scale, bias = position.scale_and_bias(distance)
    one = torch.ones(1, 1, 1, device=device)
    scale = one if scale is None else _diagonals(scale, queries, keys)
    return scale * head_dim**-0.5, one * 0 if bias is None else _diagonals(bias, queries, keys)


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """0 where a key is not in the query's future, else −∞, [Q, T]."""
    return torch.full((queries, keys), float("-inf"), device=device).triu(keys - queries + 1)


def _diagonals(values: Tensor, queries: int, keys: int) -> Tensor:
    """[G, T + Q − 1] values a diagonal, the lower left corner first -> [G, Q, T], constant along diagonals."""
    return values.unfold(-1, keys, 1).flip(-2)
