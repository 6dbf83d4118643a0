"""How attention knows distances: one small class a method, with the same two doors.

``rotate`` may change queries and keys before their product; ``scale_and_bias`` gives what a score is multiplied with
and what is added to it at a distance. Letters: B batch, H heads, Q queries, K head width, G 1 or H, M distances.
"""

import torch
from torch import Tensor, nn

from congling.model.config import Architecture


class NoPosition(nn.Module):
    """No position information but the causal mask (Haviv et al. 2022, "NoPE")."""

    def rotate(self, x: Tensor, offset: int) -> Tensor:
        """x: [B, H, Q, K] queries or keys of positions offset, offset + 1, …"""
        return x

    def scale_and_bias(self, distance: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """distance: [M] query position minus key position, ≥ 0; returns [G, M] factors and summands (None: 1, 0)."""
        return None, None


class DistanceDecay(NoPosition):
    """The seed's positions (SEED §3): s / (1 + r·(i − j)), then − c for every key but the own position.

    rate r and offset c are learned, one each a layer (groups = 1, as the seed) or a head; initially 0.1 and 1. The
    seed stores each as value + bias of an affine scalar; the sum is all that the forward pass sees. With a rate a
    head, |r| is used, so that no head can reach the pole at r = −1/(i − j).
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.full((groups,), 0.1))
        self.offset = nn.Parameter(torch.ones(groups))

    def scale_and_bias(self, distance: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rate = self.rate.abs() if len(self.rate) > 1 else self.rate
        return 1 / (1 + rate[:, None] * distance), -self.offset[:, None] * (distance > 0)  # [G, M]


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

    def rotate(self, x: Tensor, offset: int) -> Tensor:
        half = x.shape[-1] // 2
        frequency = 10_000.0 ** (-torch.arange(half, device=x.device) / half)
        position = torch.arange(offset, offset + x.shape[-2], device=x.device)
        angle = position[:, None] * frequency  # [Q, K/2]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = x.split(half, dim=-1)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def make_position(architecture: Architecture) -> NoPosition:
    """The position module of one layer."""
    heads = architecture.num_heads
    return {
        "distance_decay": lambda: DistanceDecay(1),
        "distance_decay_heads": lambda: DistanceDecay(heads),
        "alibi": lambda: Alibi(heads),
        "rope": Rope,
        "none": NoPosition,
    }[architecture.position]()
