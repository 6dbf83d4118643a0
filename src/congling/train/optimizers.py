"""AdamW for all parameters, and from a chosen step on Muon for the matrices inside the layers."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from congling.model.transformer import Transformer
from congling.train.config import LoopConfig

_MATRICES = ("matrix", "heads")  # roles that Muon may take; embeddings and head never
_DECAYED = ("matrix", "heads", "embedding", "head")
# Quintic Newton–Schulz coefficients that reach singular values near 1 in five steps (Jordan et al. 2024).
_NEWTON_SCHULZ, _NS_STEPS = (3.4445, -4.7750, 2.0315), 5


class Optimizer:
    """One ``step`` for the model; its state is a flat dict of tensors, by parameter name."""

    def __init__(self, model: Transformer, config: LoopConfig, dtype: torch.dtype) -> None:
        self._config, self._dtype = config, dtype
        self._roles = model.parameter_roles()
        self._parameters = dict(model.named_parameters())
        self._head_dim = model.architecture.head_dim
        self._momentum: dict[str, Tensor] = {}
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in self._parameters.items() if self._roles[n] in _DECAYED]},
            {"params": [p for n, p in self._parameters.items() if self._roles[n] not in _DECAYED], "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(
            groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
        )

    def muon_names(self, step: int) -> list[str]:
        """Parameters that Muon updates at ``step``."""
        if self._config.muon_step is None or step < self._config.muon_step:
            return []
        return [name for name, role in self._roles.items() if role in _MATRICES]

    def step(self, step: int, lr: float) -> None:
        """Applies the gradients with learning rate ``lr`` and clears them."""
        names = self.muon_names(step)
        gradients = {n: self._parameters[n].grad for n in names}
        for name in names:  # hidden from AdamW, and its averages are not needed any more
            self._parameters[name].grad = None
            self._adam.state.pop(self._parameters[name], None)
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        self._muon({n: g for n, g in gradients.items() if g is not None}, lr)
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def _muon(self, gradients: dict[str, Tensor], lr: float) -> None:
        """Muon (Jordan et al. 2024) with Nesterov momentum; q/k/v a head at a time (SEED §4), the update scaled by
        0.2·√max(rows, columns) so that AdamW's learning rate fits (Liu et al. 2025); decoupled decay."""
        by_shape: dict[tuple[int, ...], list[tuple[str, Tensor]]] = defaultdict(list)
        beta = self._config.muon_momentum
        for name, gradient in gradients.items():
            if name not in self._momentum:
                self._momentum[name] = torch.zeros_like(gradient)
            momentum = self._momentum[name]
            momentum.lerp_(gradient, 1 - beta)
            update = self._split(name, gradient.lerp(momentum, beta))  # [H, K, D] or [1, rows, columns]
            by_shape[tuple(update.shape[1:])].append((name, update))
        for (rows, columns), members in by_shape.items():
            stacked = orthogonalise(torch.cat([u for _, u in members]), self._dtype)
            scale = 0.2 * max(rows, columns) ** 0.5
            for (name, _), update in zip(members, stacked.split([len(u) for _, u in members]), strict=True):
                parameter = self._parameters[name]
                parameter.mul_(1 - lr * self._config.weight_decay)
                parameter.add_(update.reshape(parameter.shape).to(parameter.dtype), alpha=-lr * scale)

    def _split(self, name: str, x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, self._head_dim)) if self._roles[name] == "heads" else x[None]

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        found = {f"muon.{name}": tensor for name, tensor in self._momentum.items()}
        for name, parameter in self._parameters.items():
            for key, tensor in self._adam.state.get(parameter, {}).items():
                found[f"adam.{name}/{key}"] = tensor
        return found

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes back what ``state`` gave, on the devices of the parameters."""
        adam: dict[str, dict[str, Any]] = defaultdict(dict)
        for key, tensor in state.items():
            kind, _, name = key.partition(".")
            if kind == "muon":
                self._momentum[name] = tensor.to(self._parameters[name].device, copy=True)
            elif kind == "adam":
                name, _, entry = name.rpartition("/")
                adam[name][entry] = tensor.to(self._parameters[name].device, copy=True)
        for name, entries in adam.items():
            self._adam.state[self._parameters[name]] = entries


def orthogonalise(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly (singular values 0.7–1.2), of a batch [N, rows, columns].

    Newton–Schulz: X ← aX + (bA + cA²)X with A = XXᵀ, from X/‖X‖ (Jordan et al. 2024), in ``dtype``.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = x.shape[-2] > x.shape[-1]
    y = x.mT if tall else x
    y = (y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(_NS_STEPS):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return (y.mT if tall else y).float()
