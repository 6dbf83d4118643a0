"""Causal multi-head attention with any position method, in plain torch.

Letters: B batch, H heads, Q queries, T keys, K head width, D model width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congling.model.affine import ScaledLinear
from congling.model.config import Architecture
from congling.model.positions import NoPosition, make_position


@dataclass
class LayerCache:
    """Keys and values of one layer seen so far, [B, H, max_len, K]; the first ``length`` columns are filled."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds [B, H, Q, K] and returns all keys and values so far."""
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"{end} tokens do not fit into a cache made for {self.keys.shape[2]}")
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module):
    """q, k, v projections, scores with positions, optional talking heads, output projection."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        inner = a.num_heads * a.head_dim
        self.num_heads, self.head_dim = a.num_heads, a.head_dim
        self.query = ScaledLinear(a.dim, inner, a.affine)
        self.key = ScaledLinear(a.dim, inner, a.affine)
        self.value = ScaledLinear(a.dim, inner, a.affine)
        self.out = ScaledLinear(inner, a.dim, a.affine)
        self.position = make_position(a)
        self.qk_norm = a.qk_norm
        self.talking_before = nn.Parameter(torch.eye(a.num_heads)) if a.talking_heads else None
        self.talking_after = nn.Parameter(torch.eye(a.num_heads)) if a.talking_heads else None

    def forward(self, x: Tensor, blocked: Tensor | None, cache: LayerCache | None) -> Tensor:
        """x: [B, Q, D]; blocked: [B, 1, Q, T] true where a query must not look (beyond the causal mask)."""
        offset = cache.length if cache is not None else 0
        q, k, v = (self._heads(project(x)) for project in (self.query, self.key, self.value))  # [B, H, Q, K]
        if self.qk_norm:
            q, k = F.rms_norm(q, (self.head_dim,)), F.rms_norm(k, (self.head_dim,))
        q, k = self.position.rotate(q, offset), self.position.rotate(k, offset)
        if cache is not None:
            k, v = cache.append(k, v)
        y = attend(q, k, v, self.position, blocked, self.talking_before, self.talking_after)  # [B, H, Q, K]
        return self.out(y.transpose(1, 2).flatten(2))  # [B, Q, D]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # [B, Q, H·K] -> [B, H, Q, K]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: NoPosition,
    blocked: Tensor | None = None,
    talking_before: Tensor | None = None,
    talking_after: Tensor | None = None,
) -> Tensor:
    """Attention of the last Q of T positions: softmax(T_before·(q·kᵀ/√K · scale + bias))·T_after·v, [B, H, Q, K].

    Equation: SEED §3.3–3.5 (Shazeer et al. 2020 for talking heads). Not followed: the seed gives masked places −1e3
    (here −∞, the same but for rows that are all padding). Cost: a few tensors [B, H, Q, T].
    """
    queries, keys = q.shape[2], k.shape[2]
    scores = q @ k.transpose(-1, -2)  # [B, H, Q, T]
    distance = _distance(queries, keys, q.device)
    scale, bias = _scale_and_bias(position, distance, q.shape[-1])
    if talking_before is None:  # the causal mask rides on the summand: one pass less over [B, H, Q, T]
        bias = bias.masked_fill(distance < 0, float("-inf"))
    scores = torch.addcmul(bias.to(scores.dtype), scores, scale.to(scores.dtype))
    if talking_before is not None:
        scores = torch.einsum("gh,bhqt->bgqt", talking_before.to(scores.dtype), scores)
        scores = scores.masked_fill(distance < 0, float("-inf"))
    if blocked is not None:
        scores = scores.masked_fill(blocked, float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    if talking_after is not None:
        weights = torch.einsum("gh,bhqt->bgqt", talking_after.to(weights.dtype), weights)
    return weights.to(v.dtype) @ v


def _distance(queries: int, keys: int, device: torch.device) -> Tensor:
    """Query position minus key position, [Q, T] float32; the queries are the last of the keys' positions."""
    rows = torch.arange(keys - queries, keys, device=device, dtype=torch.float32)
    return rows[:, None] - torch.arange(keys, device=device, dtype=torch.float32)


def _scale_and_bias(position: NoPosition, distance: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """[G, Q, T] (or [1, 1, 1]) factors, 1/√K included, and summands."""
    scale, bias = position.scale_and_bias(distance.clamp(min=0))
    one = torch.ones(1, 1, 1, device=distance.device)
    return (one if scale is None else scale) * head_dim**-0.5, one * 0 if bias is None else bias
