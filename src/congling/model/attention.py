"""Multi-head attention as a module: projections, norms, positions, cache; and which kernel does the sums.

Letters: B batch, H heads, Q queries, T keys (the queries are the last Q of the T positions), K head width, D model
width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from congling.model.affine import ScaledLinear
from congling.model.attend import DocumentMask, attend
from congling.model.config import Architecture
from congling.model.flex import flex_attend
from congling.model.functional import unit_rms
from congling.model.positions import DecayOfHeads, make_position
from congling.model.talking_heads import can_talk, talking_attend


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

    def __init__(self, architecture: Architecture, first_layer: bool = False) -> None:
        super().__init__()
        a = architecture
        inner = a.num_heads * a.head_dim
        self.num_heads, self.head_dim = a.num_heads, a.head_dim
        self.query = ScaledLinear(a.dim, inner, a.affine)
        self.key = ScaledLinear(a.dim, inner, a.affine)
        self.value = ScaledLinear(a.dim, inner, a.affine)
        self.out = ScaledLinear(inner, a.dim, a.affine)
        self.position = make_position(a)
        mixes = a.value_residual and not first_layer
        self.value_mix = (
            nn.Parameter(torch.tensor([0.5, 0.5])) if mixes else None
        )  # of own values, of the first layer's
        self.qk_norm = a.qk_norm
        self.query_bias = self.key_bias = None
        if a.qk_bias:
            self.query_bias, self.key_bias = (nn.Parameter(self._first_bias()) for _ in range(2))
        self.talking_before = nn.Parameter(torch.empty(a.num_heads, a.num_heads)) if a.talking_heads else None
        self.talking_after = nn.Parameter(torch.empty(a.num_heads, a.num_heads)) if a.talking_heads else None

    def forward(
        self, x: Tensor, documents: DocumentMask | None, cache: LayerCache | None, first_values: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x: [B, Q, D] -> [B, Q, D], and this layer's own values [B, H, Q, K].

        first_values: those of the first layer, of which this one may take a learned share (value residual, Zhou et al.
        2024); None in the first.
        """
        offset = cache.length if cache is not None else 0
        q, k, v = (self._heads(project(x)) for project in (self.query, self.key, self.value))  # [B, H, Q, K]
        if self.qk_norm:
            q, k = unit_rms(q), unit_rms(k)
        if self.query_bias is not None and self.key_bias is not None:
            q, k = (x + b.to(x.dtype).view(-1, 1, self.head_dim) for x, b in ((q, self.query_bias), (k, self.key_bias)))
        q, k = self.position.rotate(q, offset), self.position.rotate(k, offset)
        own = v
        if self.value_mix is not None and first_values is not None:
            mine, first = self.value_mix.to(v.dtype)
            v = mine * v + first * first_values
        if cache is not None:
            k, v = cache.append(k, v)
        y = self.attend(q, k, v, documents)  # [B, H, Q, K]
        return self.out(y.transpose(1, 2).flatten(2)), own  # [B, Q, D]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, documents: DocumentMask | None) -> Tensor:
        """[B, H, Q, K] by the kernel for this device; a few queries behind a cache need none. Never compiled."""
        before, after = self.talking_before, self.talking_after
        with torch.autocast(q.device.type, enabled=False):
            grows = 0 < self.position.log_scale_from < k.shape[2]  # the kernels know no factors on the scores
            if q.device.type == "cuda" and q.shape[2] == k.shape[2] and not grows:
                if before is None or after is None:
                    return flex_attend(q, k, v, self.position, documents)
                if can_talk(self.position):
                    return talking_attend(q, k, v, self.position, documents, before, after)
            return attend(q, k, v, self.position, documents, before, after)

    def _first_bias(self) -> Tensor:
        """[H·K]: 0, or where the position wants a constant b in the scores of a head, βᵀβ/√K = b."""
        bias = torch.zeros(self.num_heads, self.head_dim)
        if isinstance(self.position, DecayOfHeads):
            bias += (self.position.constants * self.head_dim**-0.5).sqrt()[:, None]
        return bias.flatten()

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # [B, Q, H·K] -> [B, H, Q, K]
