"""Causal multi-head attention with any position method, in plain torch.

On CPUs the plain products are 3–9 times as fast as ``scaled_dot_product_attention`` (benchmarks/model.py), and a
hand-written backward pass gained 5 %: not worth its lines. Letters: B batch, H heads, Q queries, T keys (the queries
are the last Q of the T positions), K head width, D model width, G 1 or H.
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
        self.talking_before = nn.Parameter(torch.empty(a.num_heads, a.num_heads)) if a.talking_heads else None
        self.talking_after = nn.Parameter(torch.empty(a.num_heads, a.num_heads)) if a.talking_heads else None

    def forward(self, x: Tensor, blocked: Tensor | None, cache: LayerCache | None) -> Tensor:
        """x: [B, Q, D]; blocked: [B, 1, Q, T] true where a query must not look (beyond the causal mask)."""
        offset = cache.length if cache is not None else 0
        q, k, v = (self._heads(project(x)) for project in (self.query, self.key, self.value))  # [B, H, Q, K]
        if self.qk_norm:
            q, k = F.rms_norm(q, (self.head_dim,)), F.rms_norm(k, (self.head_dim,))
        q, k = self.position.rotate(q, offset), self.position.rotate(k, offset)
        if cache is not None:
            k, v = cache.append(k, v)
        with torch.autocast(x.device.type, enabled=False):
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
    if blocked is not None:
        with torch.no_grad():  # where the weight is 0 so is the gradient: the backward pass needs no mask
            scores.masked_fill_(blocked, float("-inf"))
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
