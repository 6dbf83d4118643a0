"""Which rank updates which rows of which parameter, and what each optimizer may take, by the parameter's name.

One process: everything. DDP: a matrix of a layer belongs to one rank, so that the orthogonalisations are spread evenly;
embedding and head are dealt out by rows (ZeRO-1: nobody holds the moments of another's share). FSDP: the rows that the
shard holds. Scalars and norms are updated by all ranks alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from congling.model.transformer import Transformer
from congling.train.distributed import Rows, World, is_sharded, local, row_chunks

GROUPS = ("embedding", "head", "attention", "feed_forward", "scalar")
MUON_ROLES = ("matrix", "heads")  # embeddings and head never
DECAYED_ROLES = ("matrix", "heads", "embedding", "head")
_ROLES = (*DECAYED_ROLES, "scalar")


@dataclass(frozen=True, eq=False)
class Share:
    """This rank's part of one parameter."""

    name: str
    role: str
    group: str  # of GROUPS, for the norms shown
    parameter: nn.Parameter
    rows: Rows
    replicated: bool  # updated by all ranks alike; ``rows`` then are those of rank 0
    owner: int  # who orthogonalises it
    weight: Tensor  # the rows of this rank, a view

    def gradient(self, rank: int) -> Tensor:
        """The rows of this rank, a view."""
        grad = self.parameter.grad
        if grad is None:
            return self.weight.new_empty(0).view(0, *self.weight.shape[1:])  # a shard without rows
        if self.replicated or is_sharded(grad):
            return local(grad)
        start, stop = self.rows[rank]
        return grad.detach()[start:stop]

    @property
    def split(self) -> bool:
        """Whether no rank has it whole (FSDP)."""
        return not self.replicated and is_sharded(self.parameter)


def make_shares(model: Transformer, world: World) -> list[Share]:
    """One share a trained parameter. Raises ValueError for a parameter that no rule places."""
    roles, head_dim = model.parameter_roles(), model.architecture.head_dim
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in named.items():
        check_role(name, roles.get(name), tuple(parameter.shape), head_dim)
    costs = {n: _cost(roles[n], p, head_dim) for n, p in named.items() if roles[n] in MUON_ROLES}
    owners = dict(zip(costs, deal(list(costs.values()), world.size), strict=True))
    return [_share(name, roles[name], p, owners.get(name, 0), world) for name, p in named.items()]


def check_role(name: str, role: str | None, shape: Sequence[int], head_dim: int) -> None:
    """Raises ValueError unless ``role`` is one that the optimizer knows and a parameter of ``shape`` can have."""
    problem = None
    if role not in _ROLES:
        problem = f"its role is {role!r}, not one of {', '.join(_ROLES)}"
    elif role in MUON_ROLES and len(shape) != 2:
        problem = f"role {role!r} is for matrices"
    elif role == "heads" and shape[0] % head_dim:
        problem = f"role 'heads' wants a multiple of {head_dim} rows"
    elif role == "scalar" and len(shape) > 1 and not name.endswith((".talking_before", ".talking_after")):
        problem = "role 'scalar' is for vectors and the maps between heads"
    if problem:
        raise ValueError(f"parameter {name} {list(shape)}: {problem}; correct Transformer.parameter_roles")


def group_of(name: str, role: str) -> str:
    """The group of GROUPS in which the norms of a parameter are counted."""
    if role in MUON_ROLES:
        return "attention" if ".attention." in name else "feed_forward"
    return role


def deal(costs: Sequence[float], size: int) -> list[int]:
    """A rank for each cost: the dearest first, always to the rank that has least so far (Graham 1969)."""
    loads, found = [0.0] * size, [0] * len(costs)
    for number in sorted(range(len(costs)), key=lambda n: (-costs[n], n)):
        rank = min(range(size), key=lambda r: (loads[r], r))
        loads[rank] += costs[number]
        found[number] = rank
    return found


def _cost(role: str, parameter: Tensor, head_dim: int) -> float:
    """Of orthogonalising: the products of Newton–Schulz, short side² · long side, a head at a time."""
    rows, columns = parameter.shape
    each = head_dim if role == "heads" else rows
    return rows / each * min(each, columns) ** 2 * max(each, columns)


def _share(name: str, role: str, parameter: nn.Parameter, owner: int, world: World) -> Share:
    count, replicated = len(parameter), role == "scalar"
    if replicated:
        rows: Rows = ((0, count),) + ((0, 0),) * (world.size - 1)
    elif is_sharded(parameter) or role not in MUON_ROLES:
        rows = row_chunks(count, world.size)
    else:
        rows = tuple((0, count) if rank == owner else (0, 0) for rank in range(world.size))
    weight = local(parameter)
    if not replicated and not is_sharded(parameter):
        start, stop = rows[world.rank]
        weight = weight[start:stop]
    return Share(name, role, group_of(name, role), parameter, rows, replicated, owner, weight)
