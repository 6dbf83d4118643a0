"""The decoder: embedding, layers, head. One class for every preset; what differs is in ``Architecture``.

Letters: B batch, T tokens, D model width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congling.model.affine import Affine, ScaledLinear
from congling.model.attend import DocumentMask
from congling.model.attention import Attention
from congling.model.config import Architecture
from congling.model.functional import compute_dtype, dropout, relu_squared, rms_norm
from congling.model.initialise import initialise
from congling.model.loss import LossSum, linear_cross_entropy
from congling.model.positions import make_input_position


class RmsNorm(nn.Module):
    """x / √(mean(x²) + 1e-6) · weight, over the last axis."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


class FeedForward(nn.Module):
    """Two matrices (three for SwiGLU) and an activation; ``relu_relu`` also rectifies the result (SEED §3.6)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.kind = a.feed_forward
        self.up = ScaledLinear(a.dim, a.ffn_dim, a.affine, "before")
        self.gate = ScaledLinear(a.dim, a.ffn_dim, a.affine, "before") if a.feed_forward == "swiglu" else None
        self.down = ScaledLinear(a.ffn_dim, a.dim, a.affine, "before")

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            return self.down(F.silu(self.gate(x)) * self.up(x))
        if self.kind == "relu2":
            return self.down(relu_squared(self.up(x)))
        return F.relu(self.down(F.relu(self.up(x))))


class Layer(nn.Module):
    """Attention and feed-forward on the residual stream, normed before each ("pre") or once after both ("post")."""

    def __init__(self, architecture: Architecture, number: int) -> None:
        super().__init__()
        pre = architecture.norm == "pre"
        self.attention = Attention(architecture, first_layer=number == 0)
        self.feed_forward = FeedForward(architecture)
        self.attention_norm = RmsNorm(architecture.dim) if pre else None
        self.feed_forward_norm = RmsNorm(architecture.dim) if pre else None
        self.norm = None if pre else RmsNorm(architecture.dim)
        self._dropped = architecture.dropout
        # The seed drops out twice around attention (SEED §3.5), which is the same as once with the product of both.
        self._dropped_twice = 1 - (1 - architecture.dropout) ** 2

    def forward(self, x: Tensor, documents: DocumentMask | None, first_values: Tensor | None) -> tuple[Tensor, Tensor]:
        """x: [B, T, D] -> the same, and the values of this layer's attention."""
        dtype = compute_dtype(x)  # the residual stream stays float32; its branches are cast once
        y = (x if self.attention_norm is None else self.attention_norm(x)).to(dtype)
        attended, values = self.attention(y, documents, first_values)
        x = x + self._dropout(attended, self._dropped_twice)
        y = (x if self.feed_forward_norm is None else self.feed_forward_norm(x)).to(dtype)
        x = x + self._dropout(self.feed_forward(y), self._dropped)
        return (x if self.norm is None else self.norm(x)), values

    def _dropout(self, x: Tensor, share: float) -> Tensor:
        return dropout(x, share) if self.training and share else x


class Transformer(nn.Module):
    """Decoder-only transformer. Parameters are float32; run it under autocast for bf16."""

    def __init__(self, architecture: Architecture, seed: int | None = 0) -> None:
        """Parameters get their starting values from ``seed``; None leaves them unset, to be loaded."""
        super().__init__()
        self.architecture = a = architecture
        self.embedding = nn.Parameter(torch.empty(a.vocab_size, a.dim))
        self.embedding_affine = Affine(a.dim**0.5) if a.affine else None
        self.input_position = make_input_position(a)
        self.layers = nn.ModuleList(Layer(a, number) for number in range(a.num_layers))
        self.norm = RmsNorm(a.dim) if a.norm == "pre" else None
        self.head = None if a.tie_embeddings else nn.Parameter(torch.empty(a.vocab_size, a.dim))
        self.head_affine = Affine() if a.affine else None
        if self.head_affine is not None:  # shifts all logits alike: no loss sees it, so it is never trained
            self.head_affine.bias.requires_grad_(False)
        if seed is not None:
            initialise(self, seed)

    def forward(self, ids: Tensor, documents: Tensor | None = None) -> Tensor:
        """Hidden states [B, T, D] of ids [B, T].

        documents: [B, T] numbers; a token attends only to tokens with its own number (packed or padded rows). Decoding
        with a cache is in ``infer/``: the model keeps nothing.
        """
        mask = None if documents is None else DocumentMask(documents, documents)
        x = self.embed(ids, mask)
        first = None
        for layer in self.layers:
            x, values = layer(x, mask, first)
            first = values if first is None else first
        return x if self.norm is None else self.norm(x)

    def embed(self, ids: Tensor, mask: DocumentMask | None = None) -> Tensor:
        """What goes into the first layer, [B, T, D]."""
        x = F.embedding(ids, self.embedding)
        if self.embedding_affine is not None:
            x = self.embedding_affine(x)
        if self.input_position is not None:
            x = x + self.input_position(torch.arange(ids.shape[1], device=ids.device) if mask is None else mask.places)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., V] in float32 of hidden states [..., D]."""
        z = F.linear(hidden, self._head_matrix()).float()
        z = z if self.head_affine is None else self.head_affine(z)
        cap = self.architecture.logit_softcap
        return cap * torch.tanh(z / cap) if cap else z

    def loss(self, ids: Tensor, targets: Tensor, documents: Tensor | None = None, z_loss: float = 0.0) -> LossSum:
        """Sums over the targets that are not IGNORE; ids and targets: [B, T]."""
        hidden = self(ids, documents=documents).flatten(0, 1)  # [B·T, D]
        if self.head_affine is not None:  # without its bias
            hidden = hidden * (100 * self.head_affine.value)
        softcap = self.architecture.logit_softcap
        return linear_cross_entropy(hidden, self._head_matrix(), targets.flatten(), softcap, z_loss)

    def _head_matrix(self) -> Tensor:
        return self.embedding if self.head is None else self.head

    def parameter_roles(self) -> dict[str, str]:
        """For the optimizer, by name: "embedding", "head", "heads" (q/k/v: [H·K, D]), "matrix", or "scalar"."""
        return {name: _role(name) for name, _ in self.named_parameters()}


_SCALARS = (
    ".value", ".bias", "_bias", ".rate", ".log_rate", ".offset", "norm.weight", ".value_mix", ".talking_before",
    ".talking_after",
)  # fmt: skip


def _role(name: str) -> str:
    """By name, never by shape: a new parameter must be placed by whoever adds it."""
    if name in ("embedding", "head"):
        return name
    if name == "input_position.weight":
        return "embedding"
    if name.endswith(("query.weight", "key.weight", "value.weight")):
        return "heads"
    if name.endswith((".out.weight", ".up.weight", ".gate.weight", ".down.weight")):
        return "matrix"
    assert name.endswith(_SCALARS), f"{name} has no role"
    return "scalar"
