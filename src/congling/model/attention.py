"""Multi-head attention as a module: projections, norms, positions; and which kernel does the sums.

Letters: B batch, H heads, Q queries, T keys (the queries are the last Q of the T positions), K head width, D model
width.
"""

import torch
from torch import Tensor, nn

from congling.model.affine import ScaledLinear
from congling.model.attend import DocumentMask, attend
from congling.model.config import Architecture
from congling.model.flex import flex_attend
from congling.model.functional import unit_rms
from congling.model.positions import DecayOfHeads, make_position
from congling.model.talking_heads import can_talk, talking_attend


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

    def forward(self, x: Tensor, documents: DocumentMask | None, first_values: Tensor | None) -> tuple[Tensor, Tensor]:
        """x: [B, T, D] -> [B, T, D], and this layer's own values [B, H, T, K].

        first_values: those of the first layer, of which this one may take a learned share (value residual, Zhou et al.
        2024); None in the first.
        """
        v = self._heads(self.value(x))  # [B, H, T, K]
        q, k = self.queries_keys(x, torch.arange(x.shape[1], device=x.device))
        own = v
        if self.value_mix is not None and first_values is not None:
            mine, first = self.value_mix.to(v.dtype)
            v = mine * v + first * first_values
        y = self.attend(q, k, v, documents)  # [B, H, T, K]
        return self.out(y.transpose(1, 2).flatten(2)), own  # [B, T, D]

    def queries_keys(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, Q, D] at ``places`` [Q] -> queries and keys as their products are taken, [B, H, Q, K] each."""
        return self.queries(x, places), self.keys(x, places)

    def queries(self, x: Tensor, places: Tensor) -> Tensor:
        return self._placed(self._heads(self.query(x)), self.query_bias, places)

    def keys(self, x: Tensor, places: Tensor) -> Tensor:
        return self._placed(self._heads(self.key(x)), self.key_bias, places)

    def _placed(self, x: Tensor, bias: Tensor | None, places: Tensor) -> Tensor:
        x = unit_rms(x) if self.qk_norm else x
        if bias is not None:
            x = x + bias.to(x.dtype).view(-1, 1, self.head_dim)
        return self.position.rotate(x, places)

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
