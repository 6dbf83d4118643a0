"""Trainings of a tiny model by several processes, for test_distributed.py."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from congling.train.config import LoopConfig
from congling.train.distributed import RankLost, World
from congling.train.loop import Trainer
from congling.train.optimizers import Optimizer
from congling.train.precision import autocast
from congling.train.stops import Interrupted
from train.tiny_job import Counting, make_job, tiny_model

ROWS, LENGTH = 2, 8
MODELS = {
    "base": {"qk_norm": True, "value_residual": True, "num_layers": 2},  # tied embeddings
    "jerry": {"preset": "jerry-0.18b", "position": "distance_decay_heads"},
}
STEPS = {"base": 50, "jerry": 20}
LR = {"base": 1e-2, "jerry": 1e-3}  # affine scalars begin at 0.01: a higher rate is chaos


@dataclass
class Run:
    """A training of tests: model, loss and optimizer of one rank."""

    world: World
    model_name: str
    strategy: str = "ddp"
    dtype: torch.dtype = torch.float32
    muon_step: int | None = 6
    micro_batches: int = 4

    def __post_init__(self) -> None:
        config = LoopConfig(muon_step=self.muon_step, weight_decay=0.1)
        self.model = tiny_model(dropout=0.0, **MODELS[self.model_name])
        if self.world.rank:  # as if they had begun otherwise: rank 0's weights count
            torch.nn.init.zeros_(self.model.embedding)
        self.loss = self.world.wrap(self.model, self.strategy, self.dtype)
        self.optimizer = Optimizer(self.model, config, self.dtype, self.world)
        self.norms: dict[str, float] = {}
        self.updates: dict[str, float] = {}

    def steps(self, first: int, last: int, measure: bool = False) -> list[float]:
        """Losses of the steps first … last − 1."""
        return [self._step(step, measure) for step in range(first, last)]

    def _step(self, step: int, measure: bool) -> float:
        sums = []
        numbers = range(self.world.rank, self.micro_batches, self.world.size)
        for number in numbers:
            batch = Counting().batch((step * self.micro_batches + number) * ROWS * LENGTH, ROWS, LENGTH)
            with self.loss.accumulating(number == numbers[-1]):
                with autocast("cpu", self.dtype):
                    found = self.loss(batch.ids, batch.targets)
                found.objective.backward()
            sums.append((float(found.nats), int(found.learned)))
        nats, learned = self.world.sum([sum(column) for column in zip(*sums, strict=True)])
        self.norms = {group: norm / learned for group, norm in self.optimizer.grad_norms().items()}
        self.optimizer.scale_gradients(1 / learned)
        self.updates = self.optimizer.step(step, LR[self.model_name], measure)
        return nats / learned

    def save(self, file: Path) -> None:
        weights, state = self.world.full_state(self.model), self.optimizer.state()
        if weights is not None:
            tensors = {**{f"w.{n}": w for n, w in weights.items()}, **{f"o.{n}": s for n, s in state.items()}}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        self.world.barrier()

    def load(self, file: Path) -> None:
        found = load_file(file)
        self.world.load_full_state(self.model, {n[2:]: t for n, t in found.items() if n.startswith("w.")})
        self.optimizer.load_state({n[2:]: t for n, t in found.items() if n.startswith("o.")})

    def evaluated(self) -> float:
        """A loss that this rank computes alone."""
        batch = Counting().batch(10**6, ROWS, LENGTH)
        with autocast("cpu", self.dtype):
            return float(self.model.loss(batch.ids, batch.targets).nats)


def together(function, size: int, *arguments) -> list[int]:
    """Runs function(world, *arguments) on ``size`` ranks over gloo; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.ranks", "torch.distributed.tensor", "torch.distributed.fsdp"])
    ranks = [context.Process(target=_rank, args=(function, r, size, port, arguments)) for r in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        if rank.is_alive():
            rank.kill()
    return [rank.exitcode for rank in ranks]


def _rank(function, rank: int, size: int, port: int, arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    function(World.start("cpu", timeout=3.0 if function is lose_one else 60.0), *arguments)


def results(folder: Path, world: World, name: str, values: list[float]) -> None:
    """Leaves numbers for the test; every rank must have the same."""
    (folder / f"{name}.{world.rank}").write_text(" ".join(map(repr, values)))


def read_results(folder: Path, name: str, ranks: int = 2) -> list[float]:
    found = [[float(x) for x in (folder / f"{name}.{rank}").read_text().split()] for rank in range(ranks)]
    assert all(other == found[0] for other in found)
    return found[0]


# -- what the ranks do ---------------------------------------------------------------------------------------------


def whole_run(run: Run, file: Path) -> tuple[list[float], list[float]]:
    """Losses of all steps, saved in ``file`` in the middle; norms of gradients and updates there."""
    half = STEPS[run.model_name] // 2
    losses = run.steps(0, half - 1) + run.steps(half - 1, half, measure=True)
    norms = [*run.norms.values(), *run.updates.values()]
    run.save(file)
    return losses + run.steps(half, 2 * half), norms


def train_all(world: World, folder: Path) -> None:
    """Every model and strategy, and on from what one rank saved in the middle."""
    for model, steps in STEPS.items():
        for strategy in ("ddp", "fsdp"):
            name = f"{model}-{strategy}"
            run = Run(world, model, strategy)
            losses, norms = whole_run(run, folder / f"{name}.safetensors")
            results(folder, world, f"{name}-losses", losses)
            results(folder, world, f"{name}-norms", norms)
            with run.loss.whole():  # one rank oftener than the other
                results(folder, world, f"{name}-alone", [run.evaluated() for _ in range(1 + world.rank)][:1])
            again = Run(world, model, strategy)
            again.load(folder / f"{model}-one.safetensors")
            results(folder, world, f"{name}-resumed", again.steps(steps // 2, steps))
    for strategy in ("ddp", "fsdp"):
        train_bf16(world, folder, strategy)
        train_job(world, folder, strategy)
    world.close()


def train_bf16(world: World, folder: Path, strategy: str) -> None:
    run = Run(world, "base", strategy, torch.bfloat16)
    losses = run.steps(0, 12)
    with run.loss.whole():
        exact = float(run.model.loss(*vars(Counting().batch(0, 2, 8)).values()).nats)  # in float32, as samples are made
        results(folder, world, f"bf16-{strategy}", [*losses, run.evaluated(), exact])
    run.steps(12, 13)


def train_job(world: World, folder: Path, strategy: str) -> None:
    """The training of tiny_job.py: whole; stopped by a signal to rank 1; and on from where one rank was stopped."""
    one_stopped = folder / "one-stopped"
    shutil.copytree(one_stopped, folder / f"{strategy}-resumed") if world.is_main else None
    world.barrier()
    for name, stop in (("whole", None), ("stopped", 6), ("resumed", None)):
        job = make_job(
            folder / f"{strategy}-{name}", stopping(stop if world.rank == 1 else None), strategy=strategy, log_every=1
        )
        job.world = world
        with contextlib.suppress(Interrupted):
            Trainer(job).run()
        world.barrier()


def stopping(step: int | None) -> Counting:
    """A source that asks its process to stop when a step's batch is wanted."""

    def at(position: int) -> None:
        if step is not None and 64 * step <= position < 10**5:
            os.kill(os.getpid(), signal.SIGTERM)

    return Counting(at)


def uneven(world: World, folder: Path) -> None:
    """Rows that do not divide by the ranks, more ranks than heads, matrices without an owner here."""
    for strategy in ("ddp", "fsdp"):
        run = Run(world, "base", strategy, muon_step=2, micro_batches=3)
        run.steps(0, 4)
        run.save(folder / f"uneven-{strategy}.safetensors")
    world.close()


def lose_one(world: World, folder: Path, how: str) -> None:
    """Rank 1 dies, or hangs, in the middle of a training."""
    run = Run(world, "base")
    run.steps(0, 2)
    if world.rank == 1 and how == "dies":
        os._exit(9)
    if world.rank == 1:
        time.sleep(5)
    try:
        run.steps(2, 4)
    except RankLost as error:
        (folder / f"lost.{world.rank}").write_text(str(error))
        sys.exit(7)
