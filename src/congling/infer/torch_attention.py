"""Attention of rows that are alone in their sequences (decoding), over either cache, in plain torch.

Letters: S sequences, T cached tokens, H heads, K head width, D model width, P pages.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from congling.model.affine import ScaledLinear
from congling.model.attention import Attention

if TYPE_CHECKING:
    from congling.infer.torch_backend import TorchBackend


Cells = Tensor | slice  # which places of the memory: their numbers, or a run of neighbours, which copies nothing
Kept = Tensor | list[Tensor]  # [S, T, …] of all sequences, or [T, …] of each


@dataclass
class Single:
    """What one row each of S sequences looks at."""

    cells: Tensor | list[Cells]  # [S, T], what a GPU wants; or of each sequence its own, what a CPU wants
    distance: Tensor  # [S, T] to the row's own place, at least 0
    hidden: Tensor | None  # [S, 1, T] true: not of the sequence; None: all are

    @classmethod
    def of_tables(cls, lengths: Tensor, tables: Tensor, page_tokens: int, blank: int) -> "Single":
        """lengths: [S] tokens before the row's own; tables: [S, P] pages, any number behind the last.

        blank: a cell of zeros, which stands for places without a token. What a place that is not ours holds may be no
        number, and 0 · NaN is NaN: no request should depend on what another left behind.
        """
        within = torch.arange(page_tokens, device=tables.device)
        cells = (tables[:, :, None] * page_tokens + within).flatten(1)  # [S, T]
        distance, hidden = _distances(lengths, cells.shape[1])
        return cls(cells.masked_fill(hidden, blank), distance, hidden[:, None])

    @classmethod
    def of_runs(cls, lengths: Tensor, cells: list[Cells]) -> "Single":
        """cells: of each sequence, its row's own place included."""
        distance, hidden = _distances(lengths, int(lengths.max()) + 1)
        return cls(cells, distance, hidden[:, None] if len(cells) > 1 else None)


def _distances(lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """[S, width] distances, at least 0, and where there is no token."""
    distance = lengths[:, None] - torch.arange(width, device=lengths.device)
    return distance.clamp(min=0), distance < 0


def attend_single(backend: "TorchBackend", number: int, q: Tensor, single: Single) -> Tensor:
    """[S, H, K] from queries q [S, H, K] of layer ``number``; scores and weights are float32."""
    attention = backend.attention(number)
    kept, inverse = backend.kept(number, single.cells)
    width = single.distance.shape[1]
    if not backend.absorbed:
        k, v = _halves(kept, q.shape[1:])
        return _sum(_weights(attention, _dot(q, k, width).float(), single), v, q.dtype)
    weights = _weights(attention, _absorbed_products(attention, q, kept, inverse, width), single)
    value = _absorbed_values(attention, weights, kept)
    if attention.value_mix is None:
        return value
    mine, share = attention.value_mix.to(value.dtype)
    below, _ = backend.kept(0, single.cells)
    return mine * value + share * _absorbed_values(backend.attention(0), weights, below)


def _halves(kept: Kept, head: torch.Size) -> tuple[Kept, Kept]:
    """Keys and values [..., H, K]."""
    if isinstance(kept, Tensor):
        k, v = kept.unflatten(-1, (2, *head)).unbind(-3)
        return k, v
    pairs = [_halves(one, head) for one in kept]
    return [cast(Tensor, k) for k, _ in pairs], [cast(Tensor, v) for _, v in pairs]


def _dot(q: Tensor, keys: Kept, width: int) -> Tensor:
    """q·k [S, H, T] of q [S, H, X] and keys [S, T, X], one for all heads, or [S, T, H, X]; 0 behind the last key."""
    if isinstance(keys, Tensor):
        return q @ keys.mT if keys.dim() == 3 else torch.einsum("shk,sthk->sht", q, keys)
    products = q.new_zeros(len(q), q.shape[1], width)
    for one, mine, k in zip(products, q, keys, strict=True):
        one[:, : len(k)] = mine @ k.mT if k.dim() == 2 else torch.bmm(mine[:, None], k.permute(1, 2, 0))[:, 0]
    return products


def _sum(weights: Tensor, values: Kept, dtype: torch.dtype) -> Tensor:
    """Σ w·v [S, H, X] with weights [S, H, T] and values as the keys of ``_dot``."""
    w = weights.to(dtype)
    if isinstance(values, Tensor):
        return w @ values if values.dim() == 3 else torch.einsum("sht,sthk->shk", w, values)
    sums = []
    for mine, v in zip(w, values, strict=True):
        mine = mine[:, : len(v)]
        sums.append(mine @ v if v.dim() == 2 else torch.bmm(mine[:, None], v.transpose(0, 1))[:, 0])
    return torch.stack(sums)


def _absorbed_products(attention: Attention, q: Tensor, y: Kept, inverse: Tensor | None, width: int) -> Tensor:
    """q·k of all keys [S, H, T]; with affine scalars k = A(W·y), with qk_norm k/rms(k), with qk_bias k + β."""
    folded = torch.einsum("shk,hkd->shd", q, _heads(attention.key, attention))
    products = _dot(folded, y, width).float()
    affine = attention.key.affine
    if affine is not None:
        products = products * (100 * affine.value) + (100 * affine.bias) * q.sum(-1, keepdim=True)
    if inverse is not None:
        products = products * inverse.mT
    if attention.key_bias is not None:
        bias = attention.key_bias.view(attention.num_heads, attention.head_dim).to(q.dtype)
        products = products + (q * bias).sum(-1, keepdim=True)
    return products


def _absorbed_values(attention: Attention, weights: Tensor, y: Kept) -> Tensor:
    """Σ w·v [S, H, K] with v = A(W·y); the weights' sum is 1 unless the heads were mixed behind the softmax."""
    context = _sum(weights, y, attention.value.weight.dtype)  # [S, H, D]
    value = torch.einsum("shd,hkd->shk", context, _heads(attention.value, attention))
    affine = attention.value.affine
    if affine is None:
        return value
    return value * (100 * affine.value) + ((100 * affine.bias) * weights.sum(-1, keepdim=True)).to(value.dtype)


def _heads(linear: ScaledLinear, attention: Attention) -> Tensor:
    return linear.weight.view(attention.num_heads, attention.head_dim, -1)


def _weights(attention: Attention, products: Tensor, single: Single) -> Tensor:
    """From q·k [S, H, T] to what the values are weighted with: positions, mixing, softmax, mixing, as ``attend``."""
    position, distance = attention.position, single.distance
    scale, bias = position.scale_and_bias(distance.flatten())  # [G, S·T]
    scores = products * attention.head_dim**-0.5
    if scale is not None:
        scores = scores * scale.view(-1, *distance.shape).transpose(0, 1)
    if bias is not None:
        scores = scores + bias.view(-1, *distance.shape).transpose(0, 1)
    if position.log_scale_from:
        seen = distance[:, :1] + 1  # the first key is as far as there are keys before the row
        scores = scores * (seen.log() / math.log(position.log_scale_from)).clamp(min=1)[:, :, None]
    if attention.talking_before is not None:
        scores = attention.talking_before.float() @ scores
    if single.hidden is not None:
        scores = scores.masked_fill(single.hidden, float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    return weights if attention.talking_after is None else attention.talking_after.float() @ weights
