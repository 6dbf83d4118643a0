"""How attention knows distances: one small class a method.

Inside attention, ``rotate`` may change queries and keys before their product; ``scale_and_bias`` gives what a score is
multiplied with and what is added to it at a distance. Two older methods add to the embeddings instead.
Letters: B batch, H heads, Q queries, K head width, D model width, G 1 or H, M distances.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congling.model.config import Architecture


class NoPosition(nn.Module):
    """No position information but the causal mask (Haviv et al. 2022, "NoPE").

    log_scale_from: all scores of a query that sees n keys, the position's part included, are multiplied by
    ln n / ln log_scale_from where that is above 1 (0: never). What a head was sure of among so many keys it
    stays sure of among more: the keys that it does not want outweigh it less (Su 2021; SSMax: Nakanishi 2025, who
    learns the factor and trains with it).
    """

    log_scale_from = 0

    def rotate(self, x: Tensor, places: Tensor) -> Tensor:
        """x: [..., Q, K] queries or keys of the positions ``places`` [Q]"""
        return x

    def scale_and_bias(self, distance: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """distance: [M] query position minus key position, ≥ 0; returns [G, M] factors and summands (None: 1, 0)."""
        return None, None


class DistanceDecay(NoPosition):
    """The seed's positions (SEED §3): s / (1 + r·(i − j)), then − c for every key but the own position.

    rate r and offset c are learned, one each a layer, as the seed; initially 0.1 and 1. The seed stores each as value +
    bias of an affine scalar; the sum is all that the forward pass sees.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.full((1,), 0.1))
        self.offset = nn.Parameter(torch.ones(1))

    def rates(self) -> Tensor:
        """[G] r."""
        return self.rate

    def scale_and_bias(self, distance: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return 1 / (1 + self.rates()[:, None] * distance), -self.offset[:, None] * (distance > 0)  # [G, M]


class DecayOfHeads(DistanceDecay):
    """A rate and an offset a head. The heads begin with rates from ``fastest`` to ``slowest``, geometrically: some for
    the neighbours, some for far away.

    ln r is what is learned: it keeps r above 0, and steps of Adam's size change r by a share of it. (Changed by the
    step itself, a rate of 1e-4 is 0.1 after a hundred steps.)

    constant b > 0: what the scores of a head with r = 1 begin with (``qk_bias``), others with 2b·r/(1 + r). Such
    a head, whose c begins at −b·r/(1 + r) − 6, looks at the token before and at little else: b/(1 + r·d) falls
    fast, and −c makes up for what d = 1 loses against d = 0.
    """

    def __init__(self, num_heads: int, fastest: float, slowest: float, constant: float = 0.0) -> None:
        NoPosition.__init__(self)
        share = torch.arange(num_heads) / max(num_heads - 1, 1)  # 0 … 1
        rates = fastest * (slowest / fastest) ** share
        part = rates / (1 + rates)
        self.constants = 2 * constant * part  # [H]
        self.log_rate = nn.Parameter(rates.log())
        self.offset = nn.Parameter(-self.constants * part - 12 * part if constant else torch.ones(num_heads))

    def rates(self) -> Tensor:
        return self.log_rate.exp()


class Alibi(NoPosition):
    """Linear biases −m·(i − j) with fixed slopes m = 2^(−8h/H), h = 1…H (Press et al. 2022)."""

    slopes: Tensor

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        slopes = 2.0 ** (-8 * torch.arange(1, num_heads + 1) / num_heads)
        self.register_buffer("slopes", slopes, persistent=False)

    def scale_and_bias(self, distance: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return None, -self.slopes[:, None] * distance


class Rope(NoPosition):
    """Rotary positions, base 10,000, halves paired (Su et al. 2021; the pairing of GPT-NeoX)."""

    def rotate(self, x: Tensor, places: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        frequency = 10_000.0 ** (-torch.arange(half, device=x.device) / half)
        angle = places[:, None] * frequency  # [Q, K/2]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = x.split(half, dim=-1)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Sinusoidal(nn.Module):
    """Fixed waves added to the embeddings (Vaswani et al. 2017, §3.5), as large as those are at the start."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self._dim, self._scale = dim, scale

    def forward(self, places: Tensor) -> Tensor:
        """places: [...] from 0 -> [..., D]."""
        half = torch.arange(self._dim // 2, device=places.device)
        angle = places[..., None] * 10_000.0 ** (-half / (self._dim // 2))  # [..., D/2]
        return self._scale * torch.cat((angle.sin(), angle.cos()), dim=-1)


class Learned(nn.Module):
    """A learned vector for each place, added to the embeddings (Gehring et al. 2017); no place beyond the last."""

    def __init__(self, dim: int, max_len: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_len, dim))

    def forward(self, places: Tensor) -> Tensor:
        """places: [...] from 0 -> [..., D]. Raises ValueError for a place that the table does not have."""
        if places.numel() and int(places.max()) >= len(self.weight):
            raise ValueError(
                f"{int(places.max()) + 1} tokens: learned positions end at model.max_len = {len(self.weight)}"
            )
        return F.embedding(places, self.weight)


def make_position(architecture: Architecture) -> NoPosition:
    """The position module of one layer's attention."""
    made = _make_position(architecture)
    made.log_scale_from = architecture.log_scale_from
    return made


def _make_position(a: Architecture) -> NoPosition:
    if a.position == "distance_decay":
        return DistanceDecay()
    if a.position == "distance_decay_heads":
        return DecayOfHeads(a.num_heads, a.fastest_decay, a.slowest_decay, 50.0 if a.qk_bias else 0.0)
    if a.position == "alibi":
        return Alibi(a.num_heads)
    return Rope() if a.position == "rope" else NoPosition()


def make_input_position(architecture: Architecture) -> Sinusoidal | Learned | None:
    """What is added to the embeddings, for the two methods that work there."""
    a = architecture
    if a.position == "sinusoidal":
        return Sinusoidal(a.dim, 1.0 if a.affine else 0.02)
    return Learned(a.dim, a.max_len) if a.position == "learned" else None
