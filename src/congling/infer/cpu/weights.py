"""A transformer as tables of addresses of packed weights (``fields.py``); affine scalars are folded in."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from congling.infer.cpu import fields as f
from congling.infer.cpu.pack import CACHE_KINDS, KINDS, Arena, aligned, pack, padded, round_up
from congling.model.affine import Affine, ScaledLinear
from congling.model.attention import Attention
from congling.model.positions import Alibi, DistanceDecay, Rope
from congling.model.transformer import FeedForward, Layer, Transformer


class Weights:
    """``model`` [NUM_FIELDS] and ``layers`` [L, NUM_LAYER_FIELDS] int64, and the memory that they point to."""

    def __init__(self, transformer: Transformer, precision: str, absorbed: bool, cache_precision: str) -> None:
        a = transformer.architecture
        self.precision, self.absorbed, self.architecture = precision, absorbed, a
        self.dim, self.head, self.inner = round_up(a.dim), round_up(a.head_dim), round_up(a.ffn_dim)
        self.model = np.zeros(f.NUM_FIELDS, np.int64)
        self.layers = np.zeros((a.num_layers, f.NUM_LAYER_FIELDS), np.int64)
        self._arena = Arena()
        self._kept: list[object] = []  # memory that tables point to
        with torch.no_grad():
            self._fill_model(transformer, cache_precision)
            for row, layer in zip(self.layers, transformer.layers, strict=True):
                assert isinstance(layer, Layer)
                norms = (layer.attention_norm, layer.feed_forward_norm) if a.norm == "pre" else (layer.norm, None)
                for place, norm in zip((f.NORM_1, f.NORM_2), norms, strict=True):
                    row[place] = 0 if norm is None else self._vector(norm.weight, self.dim)
                self._fill_attention(row, layer.attention)
                self._fill_feed_forward(row, layer.feed_forward)

    def _fill_model(self, transformer: Transformer, cache_precision: str) -> None:
        a, m = self.architecture, self.model
        m[f.LAYERS], m[f.HEADS] = a.num_layers, a.num_heads
        m[f.DIM], m[f.TRUE_DIM] = self.dim, a.dim
        m[f.HEAD], m[f.TRUE_HEAD], m[f.INNER] = self.head, a.head_dim, self.inner
        m[f.VOCAB] = round_up(a.vocab_size, 32)
        m[f.WEIGHTS], m[f.CACHE] = KINDS[self.precision], CACHE_KINDS[cache_precision]
        m[f.PRE_NORM], m[f.QK_NORM], m[f.ABSORBED] = a.norm == "pre", a.qk_norm, self.absorbed
        m[f.FEED] = {"relu_relu": f.RELU_RELU, "relu2": f.RELU2, "swiglu": f.SWIGLU}[a.feed_forward]
        m[f.LOG_SCALE_FROM] = a.log_scale_from
        embedding = transformer.embedding.detach().float().contiguous()
        self._kept.append(embedding)
        m[f.EMBEDDING] = embedding.data_ptr()
        numbers = torch.zeros(f.NUM_NUMBERS)
        numbers[f.EMBEDDING_SCALE : f.EMBEDDING_BIAS + 1] = _scalars(transformer.embedding_affine)
        numbers[f.LOGIT_SCALE : f.LOGIT_BIAS + 1] = _scalars(transformer.head_affine)
        numbers[f.SOFTCAP] = a.logit_softcap
        m[f.NUMBERS] = self._vector(numbers, f.NUM_NUMBERS)
        if transformer.norm is not None:
            m[f.FINAL_NORM] = self._vector(transformer.norm.weight, self.dim)
        head = transformer.embedding if transformer.head is None else transformer.head
        m[f.HEAD_MATRIX] = self._matrix(padded(head.detach(), int(m[f.VOCAB]), self.dim))

    def _fill_attention(self, row: NDArray[np.int64], attention: Attention) -> None:
        heads, size = attention.num_heads, self.head * attention.num_heads
        places = (f.W_QUERY, f.B_QUERY), (f.W_KEY, f.B_KEY), (f.W_VALUE, f.B_VALUE)
        for project, (weight_place, bias_place) in zip(
            (attention.query, attention.key, attention.value), places, strict=True
        ):
            weight, bias = _folded(project)
            weight = self._by_head(weight, attention)  # [H, K, D]
            row[weight_place] = self._matrix(weight.flatten(0, 1))
            if bias is not None:
                row[bias_place] = self._head_vector(bias, attention)
            if project is attention.key and self.absorbed:
                row[f.W_FOLDED] = self._matrix(weight.transpose(1, 2).flatten(0, 1))  # [H·D, K]
        weight, bias = _folded(attention.out)
        weight = padded(self._by_head(weight.T.contiguous(), attention).flatten(0, 1).T, self.dim, size)
        row[f.W_OUT], row[f.B_OUT] = self._matrix(weight), self._vector(bias, self.dim)
        if attention.query_bias is not None and attention.key_bias is not None:
            row[f.QUERY_BIAS] = self._head_vector(attention.query_bias, attention)
            row[f.KEY_BIAS] = self._head_vector(attention.key_bias, attention)
        if attention.talking_before is not None and attention.talking_after is not None:
            row[f.BEFORE] = self._vector(attention.talking_before.flatten(), heads * heads)
            row[f.AFTER] = self._vector(attention.talking_after.flatten(), heads * heads)
        row[f.VALUE_MIX] = self._vector(attention.value_mix, 2)
        position = attention.position
        if isinstance(position, DistanceDecay):
            self.model[f.POSITION] = f.DECAY
            row[f.RATE] = self._vector(position.rates().expand(heads), heads)
            row[f.OFFSET] = self._vector(position.offset.expand(heads), heads)
        elif isinstance(position, Alibi):
            self.model[f.POSITION] = f.ALIBI
            row[f.RATE] = self._vector(position.slopes, heads)
        elif isinstance(position, Rope):
            self.model[f.POSITION] = f.ROPE

    def _fill_feed_forward(self, row: NDArray[np.int64], feed: FeedForward) -> None:
        parts = (
            (feed.up, f.W_UP, f.B_UP, self.inner, self.dim),
            (feed.gate, f.W_GATE, f.B_GATE, self.inner, self.dim),
            (feed.down, f.W_DOWN, f.B_DOWN, self.dim, self.inner),
        )
        for linear, weight_place, bias_place, outputs, columns in parts:
            if linear is not None:
                weight, bias = _folded(linear)
                row[weight_place] = self._matrix(padded(weight, outputs, columns))
                row[bias_place] = self._vector(bias, outputs)

    def _by_head(self, weight: Tensor, attention: Attention) -> Tensor:
        """[H·K, D] -> [H, K, D], K and D filled up."""
        heads = weight.unflatten(0, (attention.num_heads, attention.head_dim))
        more = (0, round_up(weight.shape[1]) - weight.shape[1], 0, self.head - attention.head_dim)
        return torch.nn.functional.pad(heads, more)

    def _head_vector(self, vector: Tensor, attention: Attention) -> int:
        wide = padded(vector.detach().view(attention.num_heads, -1), attention.num_heads, self.head)
        return self._vector(wide.flatten(), wide.numel())

    def _matrix(self, matrix: Tensor) -> int:
        """Address of a packed matrix."""
        return pack(matrix.detach(), self.precision, self._arena).ctypes.data

    def _vector(self, vector: Tensor | None, size: int) -> int:
        """Address of float32, filled up with zeros to ``size``; 0 for none."""
        if vector is None:
            return 0
        data = aligned(4 * size)
        data.view(np.float32)[: vector.numel()] = vector.detach().float().flatten().numpy()
        self._kept.append(data)
        return data.ctypes.data


def _scalars(affine: Affine | None) -> Tensor:
    """Factor and summand of A(x)."""
    if affine is None:
        return torch.tensor([1.0, 0.0])
    return torch.cat((100 * affine.value, 100 * affine.bias))


def _folded(linear: ScaledLinear) -> tuple[Tensor, Tensor | None]:
    """The matrix and the bias that do what the matrix and its affine scalars do."""
    weight = linear.weight.detach().float()
    if linear.affine is None:
        return weight, None
    scale, bias = _scalars(linear.affine)
    return weight * scale, bias * (weight.sum(1) if linear._place == "before" else torch.ones(len(weight)))
