"""Several processes that train one model together: started by torchrun, or one process alone, which costs nothing.

Every rank runs the same program; rank 0 ("main") prints and writes. Gradients are sums over the ranks. Small exchanges
(sums of the loop, rows of a checkpoint) go over gloo on the CPU, tensors of a GPU over NCCL.
"""

import ctypes
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from congling.model.loss import LossSum
from congling.model.transformer import Transformer

Rows = tuple[tuple[int, int], ...]  # for each rank, which rows [start, stop) of a tensor are its own
_TIMEOUT = 600.0  # seconds
_OTHERS_FAILED = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out", "timeout")


class RankLost(ValueError):
    """Another rank ended or hangs; the message is one line for the user."""


class World:
    """The processes of a training. ``World()`` is this one alone."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, torch.device(device)

    @classmethod
    def start(cls, device: str | None = None, timeout: float = _TIMEOUT) -> "World":
        """Joins the processes that torchrun started; without it, this process alone.

        device: "cuda" or "cpu"; None: CUDA where there is any. timeout: seconds that a rank waits for the others before
        it ends (a rank that dies is noticed at once over gloo). Raises ValueError when a GPU is missing, RankLost.
        """
        rank, size, local = (int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
        kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
        place = torch.device(kind)
        if kind == "cuda":
            if local >= torch.cuda.device_count():
                raise ValueError(
                    f"rank {rank} of {size}: this machine has {torch.cuda.device_count()} GPUs, process {local + 1} on "
                    f"it has none; torchrun --nproc-per-node {torch.cuda.device_count()}"
                )
            place = torch.device(kind, local)
            torch.cuda.set_device(place)
        world = cls(rank, size, place)
        if size > 1:
            backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
            with world.answering():
                dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
            _keep_for_ever(dist.group.WORLD)
        return world

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def close(self) -> None:
        """Leaves the others, after a training that ended well: waits until all ranks have come here."""
        if self.size > 1 and dist.is_initialized():
            self.barrier()
            _let_gloo_finish()
            dist.destroy_process_group()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turns what torch raises when another rank is gone into RankLost."""
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, dist.DistError) or any(word in str(error) for word in _OTHERS_FAILED)
            if self.size == 1 or not lost or isinstance(error, torch.OutOfMemoryError):
                raise
            _let_gloo_finish()
            raise RankLost(
                f"rank {self.rank} of {self.size}: another rank ended or does not answer; its own output says why; "
                "the same command goes on from the last checkpoint"
            ) from error

    # -- exchanges ---------------------------------------------------------------------------------------------------

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks, in float64 and in the order of the ranks: the same bits on all of them."""
        if self.size == 1:
            return [float(value) for value in values]
        mine = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with self.answering():
            dist.all_gather(found, mine)
        total = found[0]
        for other in found[1:]:
            total = total + other
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum([float(flag)])[0] > 0

    def barrier(self) -> None:
        """Returns when all ranks have come here."""
        self.sum([0.0])

    def add(self, tensor: Tensor) -> Tensor:
        """``tensor``, summed over the ranks in place."""
        if self.size > 1:
            with self.answering():
                dist.all_reduce(tensor)
        return tensor

    def publish(self, tensors: Iterable[tuple[Tensor, Rows]]) -> None:
        """Fills in the rows of whole tensors that the other ranks have changed; all at once."""
        with self.answering():
            works = [
                dist.broadcast(tensor[start:stop], src=rank, async_op=True)
                for tensor, rows in tensors
                for rank, (start, stop) in enumerate(rows)
                if stop > start
            ]
            for work in works:
                work.wait()

    def gather_rows(self, mine: Tensor, rows: Rows, shape: Sequence[int]) -> Tensor | None:
        """The whole tensor on rank 0, on the CPU; None on the others. mine: this rank's rows."""
        mine = mine.detach().cpu().contiguous()
        with self.answering():
            if not self.is_main:
                if mine.numel():
                    dist.send(mine, 0)
                return None
            whole = torch.empty(tuple(shape), dtype=mine.dtype)
            for rank, (start, stop) in enumerate(rows):
                if rank == 0:
                    whole[start:stop] = mine
                elif stop > start:
                    dist.recv(whole[start:stop], rank)
        return whole

    def swap(
        self, pieces: Sequence[Sequence[Tensor]], sizes: Sequence[Sequence[int]], empty: Tensor
    ) -> list[list[Tensor]]:
        """Sends pieces[r] to rank r; returns the flat tensors that rank r sent, sizes[r] long. empty: of their type."""
        send = torch.cat([empty, *(piece.flatten() for there in pieces for piece in there)])
        totals = [sum(there) for there in sizes]
        found = send.new_empty(sum(totals))
        with self.answering():
            dist.all_to_all_single(found, send, totals, [sum(p.numel() for p in there) for there in pieces])
        return [list(part.split(list(s))) for part, s in zip(found.split(totals), sizes, strict=True)]

    # -- the model ---------------------------------------------------------------------------------------------------

    def wrap(self, model: Transformer, strategy: str, dtype: torch.dtype = torch.float32) -> "LossModule":
        """The loss of ``model``, computed together. Before the optimizer is made: "fsdp" changes the parameters.

        strategy: "ddp", whole weights on every rank; "fsdp", weights, gradients and moments in shards (FSDP2). dtype:
        in which fsdp sends the matrices of a layer, the one that autocast would turn them into anyway; the masters
        and the sums of gradients stay float32. All ranks begin with the weights of rank 0.
        """
        if self.size == 1:
            return LossModule(model, self)
        with self.answering(), torch.no_grad():
            for parameter in model.parameters():
                dist.broadcast(parameter.detach(), src=0)
        return _Sharded(model, self, dtype) if strategy == "fsdp" else _Replicated(model, self)

    def full_state(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The whole weights by name on rank 0 (they may be the model's own: copy what is to last); else None."""
        weights = {n: self._whole(p) if is_sharded(p) else p.detach() for n, p in model.named_parameters()}
        return {n: w for n, w in weights.items() if w is not None} if self.is_main else None

    def _whole(self, parameter: Tensor) -> Tensor | None:
        return self.gather_rows(local(parameter), row_chunks(len(parameter), self.size), parameter.shape)

    def load_full_state(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        """Takes whole weights, which every rank has read. Raises ValueError when they are of another model."""
        named = dict(model.named_parameters())
        if weights.keys() != named.keys():
            different = ", ".join(sorted(weights.keys() ^ named.keys())[:3])
            raise ValueError(f"weights of another model: {different}, … only in one of the two")
        for name, parameter in named.items():
            if weights[name].shape != parameter.shape:
                raise ValueError(
                    f"weights of another model: {name} is {list(weights[name].shape)}, here {list(parameter.shape)}"
                )
            start, stop = row_chunks(len(parameter), self.size)[self.rank] if is_sharded(parameter) else (0, None)
            local(parameter).copy_(weights[name][start:stop])


class LossModule:
    """``loss(ids, targets, documents, z_loss)``; gradients after the last micro-batch of a step are sums over ranks."""

    def __init__(self, model: Transformer, world: World) -> None:
        self.model, self.world = model, world
        self._module: nn.Module = _Loss(model)

    def __call__(self, ids: Tensor, targets: Tensor, documents: Tensor | None = None, z_loss: float = 0.0) -> LossSum:
        """As ``Transformer.loss``; every rank calls it equally often."""
        found: LossSum = self._module(ids, targets, documents, z_loss)
        return found

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch; the gradients are summed over the ranks in the last one."""
        yield

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within, each rank can use the model by itself (no gradients): validation, samples. All ranks enter it."""
        yield


class _Loss(nn.Module):
    """``Transformer.loss`` as a forward, which is what DDP and FSDP watch."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, targets: Tensor, documents: Tensor | None, z_loss: float) -> LossSum:
        return self.model.loss(ids, targets, documents, z_loss)


class _Replicated(LossModule):
    """torch DDP. Not with static_graph, which counts the backward passes without a sum wrongly."""

    def __init__(self, model: Transformer, world: World) -> None:
        super().__init__(model, world)
        devices = [world.device.index] if world.device.type == "cuda" else None
        self._ddp = DistributedDataParallel(self._module, devices, gradient_as_bucket_view=True, init_sync=False)
        self._ddp.register_comm_hook(None, _sum_of_bucket)  # DDP by itself would take the mean
        self._module = self._ddp

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        synchronising, self._ddp.require_backward_grad_sync = self._ddp.require_backward_grad_sync, last
        try:
            with self.world.answering():
                yield
        finally:
            self._ddp.require_backward_grad_sync = synchronising


def _sum_of_bucket(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return summed


class _Sharded(LossModule):
    """FSDP2: a group a layer, and one of embedding and head. Scalars and norms, a thousandth of the weights, stay whole
    on every rank and in float32; their gradients are summed here."""

    def __init__(self, model: Transformer, world: World, dtype: torch.dtype) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        super().__init__(model, world)
        # A layer's values are a view, which nothing changes in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        roles = model.parameter_roles()
        self._scalars = [p for n, p in model.named_parameters() if roles[n] == "scalar"]
        mesh, ignored = init_device_mesh(world.device.type, (world.size,)), set(self._scalars)
        # The residual stream is float32: no casts of a layer's inputs, and none of the embedding.
        narrow = None if dtype == torch.float32 else dtype
        layers = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for layer in model.layers:
            fully_shard(layer, mesh=mesh, mp_policy=layers, ignored_params=ignored)
        root = MixedPrecisionPolicy(cast_forward_inputs=False)
        fully_shard(self._module, mesh=mesh, mp_policy=root, ignored_params=ignored)
        self._groups = [module for module in self._module.modules() if isinstance(module, FSDPModule)]
        for group in self._groups:
            group.set_gradient_divide_factor(1.0)
            group.set_force_sum_reduction_for_comms(True)
        self._root = self._groups[0]
        self._root._get_fsdp_state()._lazy_init()  # else the first part to run, in ``whole`` a layer, becomes the root

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        self._root.set_requires_gradient_sync(last)
        self._root.set_is_last_backward(last)
        with self.world.answering():
            yield
        if last:
            self._sum_scalars()

    def _sum_scalars(self) -> None:
        gradients = [p.grad for p in self._scalars if p.grad is not None]
        if gradients:
            summed = self.world.add(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    @contextmanager
    def whole(self) -> Iterator[None]:
        parts = [(m, n, p) for m in self.model.modules() for n, p in m.named_parameters(recurse=False) if is_sharded(p)]
        self._root.set_reshard_after_forward(False)
        with self.world.answering():
            masters = [(m, n, nn.Parameter(p.full_tensor(), False)) for m, n, p in parts]  # type: ignore[attr-defined]
            for group in self._groups:
                group.unshard()
        gathered = [(m, n, m.get_parameter(n)) for m, n, _ in masters]
        try:
            for module, name, parameter in masters:  # float32, whatever FSDP has gathered them in
                setattr(module, name, parameter)
            with torch.no_grad():
                yield
        finally:
            for module, name, parameter in gathered:
                setattr(module, name, parameter)
            for group in self._groups:
                group.reshard()
                group.set_reshard_after_forward(group is not self._root, recurse=False)


def _keep_for_ever(group: Any) -> None:
    """Freeing a gloo group can hang: it waits for a thread that may wait for the interpreter, which is waiting (seen
    with torch 2.13 when DDP is freed). The process ends soon after; what ends with it does no harm."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def _let_gloo_finish() -> None:
    """Its threads let go of the tensors of the last exchange, for which they need the interpreter; one that still
    does when Python ends aborts the process."""
    time.sleep(0.2)


def is_sharded(tensor: Tensor) -> bool:
    """Whether FSDP2 has cut ``tensor`` (a DTensor) into rows."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, without autograd; the tensor itself where it is whole."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part.detach()


def row_chunks(count: int, size: int) -> Rows:
    """How FSDP2 deals ``count`` rows to ``size`` ranks: equal chunks, rounded up, the last ones smaller or empty."""
    chunk = -(-count // size)
    return tuple((min(rank * chunk, count), min((rank + 1) * chunk, count)) for rank in range(size))
