"""The micro-batches of a step: which are this rank's, and their gradients, summed."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from congling.evaluate.bits import count_bytes
from congling.train.config import LoopConfig
from congling.train.data import Batch, BatchSource, Loader, Request, keyed_hash
from congling.train.distributed import LossModule, World
from congling.train.precision import autocast
from congling.train.schedule import StepPlan


class Gradients:
    """Forward and backward over the micro-batches of a step."""

    def __init__(
        self,
        loss: LossModule,
        source: BatchSource,
        config: LoopConfig,
        world: World,
        dtype: torch.dtype,
        token_bytes: NDArray[np.int32],
        seed: int,
    ) -> None:
        """dtype: of activations. token_bytes [V]: raw bytes of each id. seed: of dropout."""
        self._loss, self._world, self._device, self._dtype = loss, world, world.device, dtype
        self._loader = Loader(source, config.loader_threads, pin=self._device.type == "cuda")
        self._sizes = torch.from_numpy(token_bytes.astype(np.int64))
        self._z_loss, self._seed = config.z_loss, seed

    def requests(self, plan: StepPlan, position: int) -> list[Request]:
        """This rank's micro-batches of a step: number r, r + ranks, r + 2·ranks …"""
        micro, world = plan.micro_batch_tokens, self._world
        starts = range(position + world.rank * micro, position + plan.batch_tokens, world.size * micro)
        return [Request(start, micro // plan.seq_len, plan.seq_len) for start in starts]

    def add(self, requests: list[Request], ahead: list[Request]) -> list[float]:
        """Adds the gradients of the summed loss; returns sums of this rank: nats, learned targets, their raw bytes.

        ahead: what is likely wanted next, to be prepared meanwhile. Waits for the device once, at the end.
        """
        self._loader.expect([*requests, *ahead])
        found, num_bytes = [], 0
        for number, request in enumerate(requests):
            batch = self._loader.get(request)
            num_bytes += count_bytes(batch, self._sizes)
            # Dropout, too, is a function of seed and position: neither ranks nor a resume change it.
            torch.manual_seed(keyed_hash(f"{self._seed}/dropout/{request.position}"))
            with self._loss.accumulating(number + 1 == len(requests)):
                with autocast(self._device.type, self._dtype):
                    sums = self._loss(*self._to_device(batch), self._z_loss)
                sums.objective.backward()
            found.append(torch.stack([sums.nats.double(), sums.learned.double()]))
        nats, learned = torch.stack(found).sum(0).tolist()
        return [nats, learned, float(num_bytes)]

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        ids, targets = (x.to(self._device, non_blocking=True) for x in (batch.ids, batch.targets))
        return ids, targets, None if batch.documents is None else batch.documents.to(self._device, non_blocking=True)

    def close(self) -> None:
        """Ends the threads of the loader."""
        self._loader.close()
