"""The seed's affine scalars, A(x) = 100·(x·value + bias): two learned numbers before or behind a matrix."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Affine(nn.Module):
    """A(x) = 100·(x·value + bias) (SEED §3). ``value`` starts at ``gain``/100, so that A begins as x·gain."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.value = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(100 * self.bias.to(x.dtype), x, 100 * self.value.to(x.dtype))


class ScaledLinear(nn.Module):
    """A matrix without bias, [out, in], and where they are wanted the affine scalars: A(Wx), or W·A(x)."""

    def __init__(
        self, in_features: int, out_features: int, affine: bool, place: Literal["before", "behind"] = "behind"
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.affine = Affine() if affine else None
        self._before = place == "before"

    def forward(self, x: Tensor) -> Tensor:
        if self.affine is None:
            return F.linear(x, self.weight)
        return F.linear(self.affine(x), self.weight) if self._before else self.affine(F.linear(x, self.weight))
