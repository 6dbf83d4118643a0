"""The reference backend: any device, every dial of the architecture, both caches, live weights.

Absorbed cache (EL-attention, Yan et al. 2021): a layer keeps its input y, D numbers a token that all heads share. A
key is W_k·y, so q·k = (W_kᵀq)·y: the query takes the key's matrix in; and Σ w·(W_v·y) = W_v·Σ w·y: the value's matrix
comes after the sum. Biases of affine scalars and the norm of keys stay exact beside it. Prompts are computed in the
wide form, keys and values made again from y, which is less work for many queries.

Letters: N rows, S sequences with one row each, T cached tokens, H heads, K head width, D model width, P pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from congling.infer.backend import PAGE_TOKENS, Batch
from congling.infer.config import CacheKind, CachePrecision
from congling.infer.torch_attention import Cells, Kept, Single, attend_single
from congling.infer.torch_graph import StaticDecode
from congling.model.attend import attend
from congling.model.attention import Attention
from congling.model.config import Architecture
from congling.model.positions import Learned
from congling.model.transformer import Layer, Transformer


@dataclass
class Span:
    """Rows start … stop of one sequence, and the cells of all its tokens up to the last of them."""

    start: int
    stop: int
    cells: Cells


@dataclass
class Step:
    """Where the rows of one step are: the same for all layers."""

    places: Tensor  # [N] in their sequences
    cells: Tensor  # [N] where the rows are kept
    spans: list[Span]
    singles: Tensor | None  # [S] rows that are alone; None: all
    single: Single | None  # what those look at


class TorchBackend:
    """A transformer on its device and in its type, with paged memory. The weights are read at each step, so that a
    model in training can be sampled. Raises ValueError for a cache that the model cannot have."""

    page_tokens = PAGE_TOKENS

    def __init__(
        self, transformer: Transformer, cache: CacheKind = "auto", cache_precision: CachePrecision = "auto"
    ) -> None:
        self.transformer, self.architecture = transformer, transformer.architecture
        a = self.architecture
        self.vocab_size, self.max_len = a.vocab_size, a.max_len
        self.absorbed = choose_cache(a, cache) == "absorbed"
        self._dtype = _cache_type(cache_precision, transformer.embedding.dtype)
        inner = a.num_heads * a.head_dim
        self._width = a.dim if self.absorbed else 2 * inner  # numbers a token and layer
        self._norms = a.num_heads if self.absorbed and a.qk_norm else 0  # float32 numbers beside them
        self.page_bytes = PAGE_TOKENS * a.num_layers * (self._width * self._dtype.itemsize + 4 * self._norms)

    @property
    def device(self) -> torch.device:
        return self.transformer.embedding.device

    def allocate(self, num_pages: int) -> None:
        """One page more than asked for: rows that only fill a static buffer write there."""
        cells = (num_pages + 1) * PAGE_TOKENS
        layers = self.architecture.num_layers
        self.scratch = num_pages
        self.blank = cells - 1  # a cell that stays 0
        self._cells = torch.empty(layers, cells, self._width, dtype=self._dtype, device=self.device)
        self._inverse = torch.empty(layers, cells, self._norms, dtype=torch.float32, device=self.device)
        self.static = StaticDecode(self.decode, self.scratch, self.device) if self.device.type == "cuda" else None
        self._cells[:, -PAGE_TOKENS:], self._inverse[:, -PAGE_TOKENS:] = 0, 0

    def copy_page(self, source: int, target: int) -> None:
        for memory in (self._cells, self._inverse):
            pages = memory.view(len(memory), memory.shape[1] // PAGE_TOKENS, PAGE_TOKENS, memory.shape[2])
            pages[:, target] = pages[:, source]

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Logits [W, V] on the model's device."""
        counts = np.diff(batch.starts)
        only_decodes = batch.prompt is not None and not batch.prompt.any() and (counts == 1).all()
        if self.static is not None and only_decodes and len(batch.wanted) == len(counts):
            return self.static(batch.ids, batch.lengths, batch.tables)
        owner = np.repeat(np.arange(len(counts)), counts)
        places = batch.lengths[owner] + np.arange(len(owner)) - batch.starts[owner]
        cells = batch.tables[owner, places // PAGE_TOKENS] * PAGE_TOKENS + places % PAGE_TOKENS
        prompt = counts > 1 if batch.prompt is None else (batch.prompt | (counts > 1))
        alone = np.flatnonzero(~prompt)
        singles = None if len(alone) == len(counts) else self._tensor(batch.starts[alone])
        step = Step(
            places=self._tensor(places),
            cells=self._tensor(cells),
            spans=[self._span(batch, int(s)) for s in np.flatnonzero(prompt)],
            singles=singles,
            single=self._single(batch.lengths[alone], batch.tables[alone]) if len(alone) else None,
        )
        hidden = self._layers(self._tensor(batch.ids), step)
        return self._logits(hidden[self._tensor(batch.wanted)])

    @torch.inference_mode()
    def decode(self, ids: Tensor, lengths: Tensor, tables: Tensor) -> Tensor:
        """Logits [S, V] of one new token a sequence, from tensors on the device: ids and lengths [S], tables [S, P].

        Nothing depends on a value, only on S and P: this is what a CUDA graph captures (``torch_graph.py``).
        """
        page = tables.gather(1, (lengths // PAGE_TOKENS)[:, None])[:, 0]
        cells = page * PAGE_TOKENS + lengths % PAGE_TOKENS
        step = Step(lengths, cells, [], None, Single.of_tables(lengths, tables, PAGE_TOKENS, self.blank))
        return self._logits(self._layers(ids, step))

    def attention(self, number: int) -> Attention:
        return cast(Layer, self.transformer.layers[number]).attention

    # -- where things are ------------------------------------------------------------------------------------------

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(self.device)

    def _span(self, batch: Batch, s: int) -> Span:
        start, stop = int(batch.starts[s]), int(batch.starts[s + 1])
        return Span(start, stop, self._run(batch.tables[s], int(batch.lengths[s]) + stop - start))

    def _run(self, table: np.ndarray, tokens: int) -> Cells:
        """Cells of the first tokens of a sequence; a slice when its pages are neighbours."""
        pages = table[: -(-tokens // PAGE_TOKENS)].astype(np.int64)
        if (np.diff(pages) == 1).all():
            first = int(pages[0]) * PAGE_TOKENS
            return slice(first, first + tokens)
        return self._tensor((pages[:, None] * PAGE_TOKENS + np.arange(PAGE_TOKENS)).reshape(-1)[:tokens])

    def _single(self, lengths: np.ndarray, tables: np.ndarray) -> Single:
        if self.device.type == "cpu":
            runs = [self._run(table, int(length) + 1) for table, length in zip(tables, lengths, strict=True)]
            return Single.of_runs(self._tensor(lengths), runs)
        used = int(lengths.max()) // PAGE_TOKENS + 1
        tables = np.where(tables < 0, self.scratch, tables)[:, :used]
        return Single.of_tables(self._tensor(lengths), self._tensor(tables), PAGE_TOKENS, self.blank)

    # -- the transformer -------------------------------------------------------------------------------------------

    def _layers(self, ids: Tensor, step: Step) -> Tensor:
        """Hidden states [N, D] behind the last layer."""
        t = self.transformer
        x = F.embedding(ids, t.embedding)
        if t.embedding_affine is not None:
            x = t.embedding_affine(x)
        if isinstance(t.input_position, Learned):  # the engine has checked the places
            x = x + F.embedding(step.places, t.input_position.weight)
        elif t.input_position is not None:
            x = x + t.input_position(step.places).to(x.dtype)
        first = None
        for number, layer in enumerate(cast(Sequence[Layer], t.layers)):
            y = x if layer.attention_norm is None else layer.attention_norm(x)
            attended, values = self._attention(number, y, step, first)
            first = values if first is None else first
            x = x + attended
            y = x if layer.feed_forward_norm is None else layer.feed_forward_norm(x)
            x = x + layer.feed_forward(y)
            x = x if layer.norm is None else layer.norm(x)
        return x

    def _logits(self, hidden: Tensor) -> Tensor:
        t = self.transformer
        return t.logits(hidden if t.norm is None else t.norm(hidden))

    def _attention(self, number: int, y: Tensor, step: Step, first: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """y: [N, D] -> [N, D], and the values of these rows (kv cache)."""
        attention = self.attention(number)
        q = attention.queries(y[None], step.places)[0].transpose(0, 1)  # [N, H, K]
        values = None
        if self.absorbed:
            self._keep_input(number, y, step)
        else:
            values = self._keep_kv(number, y, step, first)
        out = torch.empty_like(q)
        for span in step.spans:
            k, v = self._keys_values(number, span.cells)
            rows = q[span.start : span.stop].transpose(0, 1)[None]  # [1, H, Q, K]
            before, after = attention.talking_before, attention.talking_after
            made = attend(rows, k, v, attention.position, None, before, after)
            out[span.start : span.stop] = made[0].transpose(0, 1)
        if step.single is not None:
            rows = q if step.singles is None else q[step.singles]
            made = attend_single(self, number, rows, step.single)
            if step.singles is None:
                out = made
            else:
                out[step.singles] = made
        return attention.out(out.flatten(1)), values

    def _value(self, attention: Attention, y: Tensor) -> Tensor:
        return attention.value(y).unflatten(-1, (attention.num_heads, attention.head_dim))

    # -- the cache -------------------------------------------------------------------------------------------------

    def _keep_input(self, number: int, y: Tensor, step: Step) -> None:
        self._cells[number].index_copy_(0, step.cells, y.to(self._dtype))
        if self._norms:
            attention = self.attention(number)
            k = attention.key(y).unflatten(-1, (attention.num_heads, attention.head_dim)).float()
            self._inverse[number].index_copy_(0, step.cells, (k.square().mean(-1) + 1e-6).rsqrt())

    def _keep_kv(self, number: int, y: Tensor, step: Step, first: Tensor | None) -> Tensor:
        """Returns the values of the rows before any mixing, for the layers above."""
        attention = self.attention(number)
        v = own = self._value(attention, y)
        if attention.value_mix is not None and first is not None:
            mine, share = attention.value_mix.to(v.dtype)
            v = mine * v + share * first
        k = attention.keys(y[None], step.places)[0].transpose(0, 1)  # [N, H, K]
        both = torch.cat((k.flatten(1), v.flatten(1)), dim=1)
        self._cells[number].index_copy_(0, step.cells, both.to(self._dtype))
        return own

    def _keys_values(self, number: int, cells: Cells) -> tuple[Tensor, Tensor]:
        """[1, H, T, K] each, of the tokens in ``cells``."""
        a, kept = self.architecture, self._cells[number][cells].to(self.transformer.embedding.dtype)
        if not self.absorbed:
            k, v = kept.unflatten(-1, (2, a.num_heads, a.head_dim)).unbind(1)
            return k.transpose(0, 1)[None], v.transpose(0, 1)[None]
        attention = self.attention(number)
        k = attention.keys(kept[None], torch.arange(len(kept), device=kept.device))
        v = self._value(attention, kept)
        if attention.value_mix is not None:
            mine, share = attention.value_mix.to(v.dtype)
            below = self._cells[0][cells].to(kept.dtype)
            v = mine * v + share * self._value(self.attention(0), below)
        return k, v.transpose(0, 1)[None]

    def kept(self, number: int, cells: Tensor | list[Cells]) -> tuple[Kept, Tensor | None]:
        """What the cells hold, in the model's type, and the norms of keys [S, T, H] (0 behind the last)."""
        dtype, memory, norms = self.transformer.embedding.dtype, self._cells[number], self._inverse[number]
        if isinstance(cells, Tensor):
            return memory[cells].to(dtype), norms[cells] if self._norms else None
        inverse = pad_sequence([norms[own] for own in cells], batch_first=True) if self._norms else None
        return [memory[own].to(dtype) for own in cells], inverse


def choose_cache(architecture: Architecture, cache: CacheKind) -> CacheKind:
    """The cache to use; auto: absorbed where it is possible and smaller. Raises ValueError for rope, absorbed."""
    possible = architecture.position != "rope"
    if cache == "absorbed" and not possible:
        raise ValueError("engine.cache = absorbed: rope turns each key by its place; use cache=kv or auto")
    if cache != "auto":
        return cache
    return "absorbed" if possible and architecture.dim < architecture.num_heads * architecture.head_dim else "kv"


def _cache_type(precision: CachePrecision, own: torch.dtype) -> torch.dtype:
    if precision == "int8":
        raise ValueError("engine.cache_precision = int8: needs the CPU kernels (numba); use auto, fp32 or bf16")
    return {"auto": own, "fp32": torch.float32, "bf16": torch.bfloat16}[precision]
