"""Decoding on a GPU from static buffers: the kernels of a step are recorded once a size, and then started together.

A step of a small model is some hundred kernels of a few microseconds each; starting them one by one from Python takes
longer than they do. A CUDA graph is started in one go, but with the same addresses and shapes: rows and pages are
rounded up, and what is too many writes to the scratch page. The logits stay on the device, where tokens are chosen.
Where there is no GPU the same steps run without recording, which is how they are tested. Never run
on a GPU so far, its speed is not known.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from congling.infer.backend import PAGE_TOKENS

Decode = Callable[[Tensor, Tensor, Tensor], Tensor]  # ids [S], lengths [S], tables [S, P] → logits [S, V]


@dataclass
class _Recorded:
    """Buffers of one size, and what runs on them."""

    inputs: Tensor  # [S, 2 + P] ids, lengths, tables: one copy to the device fills all
    logits: Tensor
    graph: "torch.cuda.CUDAGraph | None"


class StaticDecode:
    """``decode`` for any number of rows and pages, by recordings of a few sizes (powers of two)."""

    def __init__(self, decode: Decode, scratch: int, device: torch.device) -> None:
        self._decode, self._scratch, self._device = decode, scratch, device
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None  # shared: one runs at a time

    def __call__(self, ids: NDArray[np.int64], lengths: NDArray[np.int32], tables: NDArray[np.int32]) -> Tensor:
        """Logits [S, V] on the device, in memory that the next call writes again."""
        rows, pages = len(ids), int(lengths.max()) // PAGE_TOKENS + 1
        size = _rounded(rows), _rounded(pages)
        filled = np.full((size[0], 2 + size[1]), self._scratch, dtype=np.int64)
        filled[:, :2] = 0
        filled[:rows, 0], filled[:rows, 1] = ids, lengths
        used = tables[:, :pages]
        filled[:rows, 2 : 2 + used.shape[1]] = np.where(used < 0, self._scratch, used)
        recorded = self._recorded.get(size)
        if recorded is None:
            recorded = self._recorded[size] = self._record(torch.from_numpy(filled).to(self._device))
        else:
            recorded.inputs.copy_(torch.from_numpy(filled))
        if recorded.graph is None:
            recorded.logits = self._run(recorded.inputs)
        else:
            recorded.graph.replay()
        return recorded.logits[:rows]

    def _run(self, inputs: Tensor) -> Tensor:
        return self._decode(inputs[:, 0], inputs[:, 1], inputs[:, 2:])

    def _record(self, inputs: Tensor) -> _Recorded:
        if self._pool is None:
            return _Recorded(inputs, inputs, None)
        beside = torch.cuda.Stream(self._device)
        beside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(beside):  # once without recording: libraries set themselves up at their first call
            self._run(inputs)
        torch.cuda.current_stream(self._device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._run(inputs)
        return _Recorded(inputs, logits, graph)


def _rounded(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()
