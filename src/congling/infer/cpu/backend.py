"""``CpuBackend``: a transformer on CPU cores, with packed weights and kernels of its own."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from congling.infer.backend import PAGE_TOKENS, Batch
from congling.infer.cpu import fields as f
from congling.infer.cpu.pack import aligned, round_up
from congling.infer.cpu.schedule import Schedule, schedule
from congling.infer.cpu.weights import Weights
from congling.model.transformer import Transformer

_CHUNK = 128  # rows whose keys and values are made anew at a time
_MOST_PAGES = 1 << 16  # of a wave: two million tokens
assert PAGE_TOKENS == f.PAGE


class CpuBackend:
    """Implements ``Backend``. Raises ValueError for a cache that the model's positions do not allow."""

    def __init__(
        self,
        transformer: Transformer,
        precision: str = "auto",
        cache: str = "auto",
        cache_precision: str = "auto",
        threads: int = 0,
    ) -> None:
        a = transformer.architecture
        if cache == "absorbed" and a.position == "rope":
            raise ValueError("engine.cache = absorbed: not with position=rope, whose keys turn; use kv")
        precision = "bf16" if precision == "auto" else precision
        if cache_precision == "auto":  # int8: no measurable loss, half the bytes (docs/serving.md)
            cache_precision = "fp32" if precision == "fp32" else "int8"
        absorbed = cache == "absorbed" if cache != "auto" else _absorbs(transformer)
        self.vocab_size, self.page_tokens, self.max_len = a.vocab_size, f.PAGE, a.max_len
        self.precision, self.cache, self.cache_precision = precision, "absorbed" if absorbed else "kv", cache_precision
        self.threads = threads or os.cpu_count() or 1
        self._weights = Weights(transformer, precision, absorbed, cache_precision)
        self._input_position, self._rope = transformer.input_position, a.position == "rope"
        self._buffers = _Buffers(self._weights, self.threads)
        self.page_bytes = int(self._weights.model[f.PAGE_BYTES])
        self._pages = aligned(0)
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        self._lock = threading.Lock()

    def allocate(self, num_pages: int) -> None:
        self._pages = aligned(num_pages * self.page_bytes)
        self._weights.model[f.POOL] = self._pages.ctypes.data

    def copy_page(self, source: int, target: int) -> None:
        pages, size = self._pages, self.page_bytes
        pages[target * size : (target + 1) * size] = pages[source * size : (source + 1) * size]

    def forward(self, batch: Batch) -> Tensor:
        with self._lock:
            plan = schedule(batch, self.cache == "absorbed", int(self._weights.model[f.IDENTITY]))
            logits = self._buffers.grow(plan, len(batch.wanted))
            inputs = np.zeros((0, 0), np.float32)
            if self._input_position is not None:
                with torch.inference_mode():
                    inputs = self._input_position(torch.from_numpy(plan.positions)).float().cpu().numpy()
            if self._rope:
                self._buffers.rotate(plan.positions)
            self._run(plan, batch, inputs)
            return torch.from_numpy(logits)[:, : self.vocab_size]

    def _run(self, plan: Schedule, batch: Batch, inputs: NDArray[np.float32]) -> None:
        from congling.infer.cpu.step_kernels import step

        arguments: tuple[Any, ...] = (
            self._weights.model, self._weights.layers, np.ascontiguousarray(batch.ids, np.int64), plan.places,
            plan.waves, plan.jobs, plan.width, np.ascontiguousarray(batch.wanted, np.int64), inputs,
        )  # fmt: skip
        if self._pool is None:
            step(0, *arguments)
            return
        others = [self._pool.submit(step, thread, *arguments) for thread in range(1, self.threads)]
        step(0, *arguments)
        for other in others:
            other.result()


def _absorbs(transformer: Transformer) -> bool:
    """cache = auto: layer inputs wherever they cost no more matrices: a quarter of the memory, as fast at 18 … 4,096
    tokens (``benchmarks/cache.py``).

    Normed keys ask for their 1/rms, so for the key matrix once more, a tenth of all that a token reads.
    """
    a = transformer.architecture
    return a.position != "rope" and not a.qk_norm


class _Buffers:
    """Room for what a step computes on its way, made larger when a step wants more."""

    def __init__(self, weights: Weights, threads: int) -> None:
        from congling.infer.cpu.cache_kernels import heads_bytes, input_bytes
        from congling.infer.cpu.product_kernels import product_address

        self._model, self._weights, a = weights.model, weights, weights.architecture
        self._held: dict[int, NDArray[np.uint8]] = {}
        m = self._model
        m[f.THREADS] = threads
        m[f.WEIGHT_PRODUCT], m[f.CACHE_PRODUCT] = (product_address(int(m[kind])) for kind in (f.WEIGHTS, f.CACHE))
        kind, normed = int(m[f.CACHE]), a.num_heads if a.qk_norm else 0
        self._kv_bytes = heads_bytes(kind, a.num_heads, weights.head)
        m[f.LAYER_BYTES] = input_bytes(kind, weights.dim, normed) if weights.absorbed else self._kv_bytes
        m[f.PAGE_BYTES] = a.num_layers * m[f.LAYER_BYTES]
        self._room(f.BARRIER, 128)
        self._room(f.IDENTITY, 4 * _MOST_PAGES).view(np.int32)[:] = np.arange(_MOST_PAGES)

    def grow(self, plan: Schedule, wanted: int) -> NDArray[np.float32]:
        """Makes room for a step; returns where its logits will be, [W, V filled up]."""
        m, a, w = self._model, self._weights.architecture, self._weights
        rows, inner = max(len(plan.places), wanted), a.num_heads * w.head
        wave = f.WAVE_ROWS * a.num_heads
        for field in (f.X, f.Y):
            self._room(field, 4 * rows * w.dim)
        for field in (f.Q, f.K, f.V, f.FIRST_V):
            self._room(field, 4 * rows * inner)
        for field in (f.UP, f.GATE):
            self._room(field, 4 * rows * w.inner)
        # numbers of a row take 4 bytes at most, with their scales too
        self._room(f.ROWS, 4 * max(rows * max(w.dim, inner, w.inner), wave * max(w.dim, w.head)))
        for field in (f.SCORES, f.SCORES_2, f.P_ROWS):
            self._room(field, 4 * wave * plan.width)
        self._room(f.QUERY_ROWS, 4 * wave * max(w.dim, w.head))
        self._room(f.TOTALS, 4 * wave)
        self._room(f.CONSTANTS, 8 * wave)
        if w.absorbed:
            self._room(f.FOLDED, 4 * wave * w.dim)
            self._room(f.CONTEXT, 4 * wave * w.dim)
            self._room(f.TURNED, f.TURNED_PAGES * f.PAGE * w.dim * 4)
        if plan.expanded:
            for field, columns in ((f.SCRATCH_Y, w.dim), (f.SCRATCH_ROWS, w.dim), (f.SCRATCH_SPARE, w.dim)):
                self._room(field, 4 * _CHUNK * columns)
            for field in (f.SCRATCH_K, f.SCRATCH_V):
                self._room(field, 4 * _CHUNK * inner)
            self._room(f.SCRATCH_PAGES, -(-plan.expanded // f.PAGE) * self._kv_bytes)
        vocab = int(m[f.VOCAB])
        return self._room(f.LOGITS, 4 * wanted * vocab).view(np.float32).reshape(wanted, vocab)

    def rotate(self, positions: NDArray[np.int64]) -> None:
        """Cosines and sines of rotary positions, as ``positions.Rope`` has them."""
        half = self._weights.architecture.head_dim // 2
        frequency = 10_000.0 ** (-torch.arange(half) / half)
        angle = torch.from_numpy(positions)[:, None] * frequency
        waves = torch.cat((angle.cos(), angle.sin()), dim=1).float().numpy()
        self._room(f.ROTATIONS, waves.nbytes).view(np.float32)[:] = waves.ravel()

    def _room(self, field: int, size: int) -> NDArray[np.uint8]:
        held = self._held.get(field)
        if held is None or len(held) < size:
            held = self._held[field] = aligned(round_up(size + size // 4))
            self._model[field] = held.ctypes.data
        return held[:size]
