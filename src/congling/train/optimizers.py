"""AdamW for all parameters, and from a chosen step on Muon for the matrices inside the layers; sharded over ranks."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from congling.model.transformer import Transformer
from congling.train.config import LoopConfig
from congling.train.distributed import World
from congling.train.newton_schulz import orthogonalise
from congling.train.shares import DECAYED_ROLES, GROUPS, MUON_ROLES, Share, make_shares

_AVERAGES = ("exp_avg", "exp_avg_sq")


class Optimizer:
    """One ``step`` for the model; its state is a flat dict of whole tensors, by parameter name, whatever the ranks.

    With several ranks, all of them make every call. ``world.wrap`` comes first. The gradients are taken as they are.
    """

    def __init__(self, model: Transformer, config: LoopConfig, dtype: torch.dtype, world: World | None = None) -> None:
        """dtype: in which updates are orthogonalised. Raises ValueError for a parameter that no rule places."""
        self._config, self._dtype, self._world = config, dtype, world or World()
        self._head_dim = model.architecture.head_dim
        self._shares = make_shares(model, self._world)
        self._mine = [share for share in self._shares if share.weight.numel()]
        self._momentum: dict[str, Tensor] = {}  # this rank's rows
        self._steps: dict[str, int] = {}  # updates of AdamW, of the parameters that are its own
        self._taken: set[str] = set()  # by Muon
        decayed = [share.weight for share in self._mine if share.role in DECAYED_ROLES]
        others = [share.weight for share in self._mine if share.role not in DECAYED_ROLES]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW(
            groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
        )

    def muon_names(self, step: int) -> list[str]:
        """Parameters that Muon updates at ``step``."""
        if self._config.muon_step is None or step < self._config.muon_step:
            return []
        return [share.name for share in self._shares if share.role in MUON_ROLES]

    # -- gradients ---------------------------------------------------------------------------------------------------

    def grad_norms(self) -> dict[str, float]:
        """Norms of the gradients by group ("embedding", "head", "attention", "feed_forward", "scalar")."""
        mine = [share for share in self._mine if share.parameter.grad is not None]
        return self._group_norms(mine, [share.gradient(self._world.rank) for share in mine])

    def weight_norms(self) -> dict[str, float]:
        """Norms of the weights by group, as in ``grad_norms``."""
        return self._group_norms(self._mine, [share.weight for share in self._mine])

    def scale_gradients(self, factor: float | Tensor) -> None:
        """Multiplies the gradients that this rank will use."""
        gradients = [s.gradient(self._world.rank) for s in self._mine if s.parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, factor)

    def clear(self) -> None:
        """Drops all gradients."""
        for share in self._shares:
            share.parameter.grad = share.weight.grad = None

    def _group_norms(self, shares: Sequence[Share], tensors: Sequence[Tensor]) -> dict[str, float]:
        """Over all ranks; waits for the device once."""
        squares = torch.zeros(len(GROUPS), dtype=torch.float64, device=self._world.device)
        counted = [n for n, share in enumerate(shares) if self._world.is_main or not share.replicated]
        if counted:
            norms = torch.stack(torch._foreach_norm([tensors[n] for n in counted])).double()
            places = torch.tensor([GROUPS.index(shares[n].group) for n in counted], device=norms.device)
            squares = squares.to(norms.device).index_add_(0, places, norms.square())
        present = {share.group for share in self._shares}
        found = self._world.add(squares).sqrt().tolist()
        return {group: norm for group, norm in zip(GROUPS, found, strict=True) if group in present}

    # -- the update --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, step: int, lr: float, measure: bool = False) -> dict[str, float]:
        """Applies the gradients with learning rate ``lr`` and clears them.

        With ``measure``, returns the norms of what was added to the weights, by group as in ``grad_norms``.
        """
        names = set(self.muon_names(step))
        shares = [share for share in self._shares if share.parameter.grad is not None or share.split]
        mine = [share for share in shares if share.weight.numel() and share.parameter.grad is not None]
        before = [share.weight.clone() for share in mine] if measure else []
        for share in shares:
            if share.name in names:
                self._taken.add(share.name)
                self._steps.pop(share.name, None)
            else:
                self._steps[share.name] = self._steps.get(share.name, 0) + 1
        self._adamw([share for share in mine if share.name not in names], lr)
        self._muon([share for share in shares if share.name in names], lr)
        self.clear()
        if self._world.size > 1:
            self._world.publish((s.parameter, s.rows) for s in self._shares if not (s.split or s.replicated))
        if not measure:
            return {}
        torch._foreach_sub_(before, [share.weight for share in mine])
        return self._group_norms(mine, before)

    def _adamw(self, shares: Sequence[Share], lr: float) -> None:
        for share in shares:
            share.weight.grad = share.gradient(self._world.rank)
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()

    def _muon(self, shares: Sequence[Share], lr: float) -> None:
        """Muon (Jordan et al. 2024) with Nesterov momentum; q/k/v a head at a time (SEED §4), the update scaled by
        0.2·√max(rows, columns) so that AdamW's learning rate fits (Liu et al. 2025); decoupled decay."""
        mine = [share for share in shares if share.weight.numel()]
        gradients = [share.gradient(self._world.rank) for share in mine]
        if mine:
            momenta = [self._momentum_of(share) for share in mine]
            torch._foreach_lerp_(momenta, gradients, 1 - self._config.muon_momentum)
            torch._foreach_lerp_(gradients, momenta, self._config.muon_momentum)  # nobody needs the gradients any more
            torch._foreach_mul_([share.weight for share in mine], 1 - lr * self._config.weight_decay)
        updates = dict(zip((share.name for share in mine), gradients, strict=True))
        split = [share for share in shares if share.split]
        whole = [(share, updates[share.name]) for share in mine if not share.split]
        if split:
            directions = dict[str, Tensor]()
            for members, found in self._orthogonal(self._to_owners(split, updates)):
                directions.update((share.name, x.to(self._dtype)) for share, x in zip(members, found, strict=True))
            for share, x in self._from_owners(split, directions):
                share.weight.add_(x, alpha=-lr * self._scale(share))
        for members, found in self._orthogonal(whole):
            torch._foreach_add_([share.weight for share in members], found, alpha=-lr * self._scale(members[0]))

    def _momentum_of(self, share: Share) -> Tensor:
        """Zero at the start; where AdamW had the matrix before, its first average, a mean of gradients too."""
        if share.name not in self._momentum:
            averages = self._adam.state.pop(share.weight, None)
            self._momentum[share.name] = averages["exp_avg"] if averages else torch.zeros_like(share.weight)
        return self._momentum[share.name]

    def _scale(self, share: Share) -> float:
        rows, columns = share.parameter.shape
        return 0.2 * max(self._head_dim if share.role == "heads" else rows, columns) ** 0.5

    def _orthogonal(self, updates: Sequence[tuple[Share, Tensor]]) -> Iterator[tuple[list[Share], list[Tensor]]]:
        """Directions of whole matrices, those of one shape together."""
        by_shape: dict[tuple[int, ...], list[tuple[Share, Tensor]]] = defaultdict(list)
        for share, update in updates:
            stack = update.unflatten(0, (-1, self._head_dim)) if share.role == "heads" else update[None]
            by_shape[tuple(stack.shape[1:])].append((share, stack))  # [H, K, D] or [1, rows, columns]
        for members in by_shape.values():
            found = orthogonalise(torch.cat([stack for _, stack in members]), self._dtype)
            parts = found.split([len(stack) for _, stack in members])
            yield [share for share, _ in members], [part.flatten(0, 1) for part in parts]

    # -- FSDP: a matrix is orthogonalised by one rank, which has all its rows for a moment ---------------------------

    def _to_owners(self, shares: Sequence[Share], updates: dict[str, Tensor]) -> list[tuple[Share, Tensor]]:
        """The whole updates of the matrices that this rank owns."""
        rank, ranks = self._world.rank, range(self._world.size)
        empty = shares[0].weight.new_empty(0)
        pieces = [[updates.get(s.name, empty).to(self._dtype) for s in shares if s.owner == there] for there in ranks]
        mine = [share for share in shares if share.owner == rank]
        sizes = [[_numel(share, there) for share in mine] for there in ranks]
        found = self._world.swap(pieces, sizes, empty.to(self._dtype))  # [from rank][matrix]
        return [
            (share, torch.cat([found[there][n] for there in ranks]).view(share.parameter.shape))
            for n, share in enumerate(mine)
        ]

    def _from_owners(self, shares: Sequence[Share], directions: dict[str, Tensor]) -> Iterator[tuple[Share, Tensor]]:
        """This rank's rows of all directions, in exchange for those of the matrices that it owns."""
        ranks = range(self._world.size)
        mine = [share for share in shares if share.owner == self._world.rank]
        pieces = [[directions[share.name][slice(*share.rows[there])] for share in mine] for there in ranks]
        empty = shares[0].weight.new_empty(0, dtype=self._dtype)
        by_owner = [[share for share in shares if share.owner == there] for there in ranks]
        sizes = [[_numel(share, self._world.rank) for share in theirs] for theirs in by_owner]
        for theirs, found in zip(by_owner, self._world.swap(pieces, sizes, empty), strict=True):
            for share, flat in zip(theirs, found, strict=True):
                yield share, flat.view(share.weight.shape)

    # -- state -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, whole, on rank 0; {} on the others.

        muon.NAME: momentum; adam.NAME/exp_avg, /exp_avg_sq, /step. With one rank the tensors are the optimizer's own:
        copy what is to last.
        """
        found: dict[str, Tensor] = {}
        for share in self._shares:
            if share.name in self._taken:
                self._gather(share, f"muon.{share.name}", self._momentum.get(share.name), found)
            elif share.name in self._steps:
                averages = self._adam.state.get(share.weight, {})
                for key in _AVERAGES:
                    self._gather(share, f"adam.{share.name}/{key}", averages.get(key), found)
                found[f"adam.{share.name}/step"] = torch.tensor(float(self._steps[share.name]))
        return found if self._world.is_main else {}

    def _gather(self, share: Share, key: str, mine: Tensor | None, found: dict[str, Tensor]) -> None:
        if mine is None:
            mine = share.weight.new_empty(share.weight.shape)  # no rows
        if self._world.size > 1 and not share.replicated:
            whole = self._world.gather_rows(mine, share.rows, share.parameter.shape)
            if whole is None:
                return
            mine = whole
        found[key] = mine

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes back what ``state`` gave, which every rank has read; nothing of before is left.

        Raises ValueError when it belongs to another model.
        """
        self._momentum, self._steps, self._taken = {}, {}, set()
        self._adam.state.clear()
        shares = {share.name: share for share in self._shares}
        for key, tensor in state.items():
            kind, _, name = key.partition(".")
            name, _, entry = name.partition("/")
            if kind not in ("muon", "adam") or name not in shares:
                raise ValueError(f"optimizer state of another model: {key} has no place here")
            share = shares[name]
            if entry == "step":
                self._steps[name] = int(tensor)
                if share.weight.numel():
                    self._adam.state[share.weight]["step"] = tensor.to(share.weight.device, torch.float32, copy=True)
                continue
            if tensor.shape != share.parameter.shape:
                here = list(share.parameter.shape)
                raise ValueError(f"optimizer state of another model: {key} is {list(tensor.shape)}, here {here}")
            start, stop = share.rows[0 if share.replicated else self._world.rank]
            mine = tensor[start:stop].to(share.weight.device, copy=True)
            if kind == "muon":
                self._taken.add(name)
                self._momentum[name] = mine
            elif share.weight.numel():
                self._adam.state[share.weight][entry] = mine


def _numel(share: Share, rank: int) -> int:
    start, stop = share.rows[rank]
    return (stop - start) * share.parameter.shape[1]
