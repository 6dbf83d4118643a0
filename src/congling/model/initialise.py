"""Starting values of all parameters, from a seed, the same on every device."""

import torch
from torch import Tensor, nn

from congling.model.affine import Affine


def initialise(model: nn.Module, seed: int) -> None:
    """Fills the parameters of a ``Transformer`` in place.

    With affine scalars, as the seed: every matrix Xavier-uniform, ``value`` = gain/100, ``bias`` = 0. Otherwise:
    embeddings N(0, 0.02²); matrices N(0, 1/in); those that write to the residual stream begin at 1/√(2·layers) of
    that (Radford et al. 2019); heads begin unmixed. Norm weights 1; positions, and the biases made for them,
    keep the values of their modules.
    """
    generator = torch.Generator().manual_seed(seed)
    affine = any(isinstance(module, Affine) for module in model.modules())
    num_layers = sum(name.endswith(".out.weight") for name, _ in model.named_parameters())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Affine):
                module.value.fill_(module.gain / 100)
                module.bias.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif parameter.dim() == 2:
                parameter.copy_(_matrix(name, parameter, affine, num_layers, generator))


def _matrix(name: str, parameter: Tensor, affine: bool, num_layers: int, generator: torch.Generator) -> Tensor:
    rows, columns = parameter.shape
    if affine:
        bound = (6 / (rows + columns)) ** 0.5  # Xavier-uniform (Glorot & Bengio 2010)
        return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)
    if "talking" in name:
        return torch.eye(rows)
    std = 0.02 if name in ("embedding", "head", "input_position.weight") else columns**-0.5
    if name.endswith((".out.weight", ".down.weight")):
        std *= (2 * num_layers) ** -0.5
    return torch.empty(rows, columns).normal_(0.0, std, generator=generator)
