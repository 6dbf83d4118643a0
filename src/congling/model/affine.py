"""The seed's affine scalars: A(x) = 100·(x·value + bias), two learned numbers around a matrix."""

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
        return 100 * (x * self.value.to(x.dtype) + self.bias.to(x.dtype))


class ScaledLinear(nn.Module):
    """A matrix without bias, [out, in], and the seed's affine scalars behind it where they are wanted."""

    def __init__(self, in_features: int, out_features: int, affine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.affine = Affine() if affine else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight)
        return y if self.affine is None else self.affine(y)
