"""Attention on a GPU for models without talking heads: torch's FlexAttention with any position method.

The gradients of q, k and v are FlexAttention's own. Those of the decay's rate and offset are not: it would add them up
with an atomic addition for each score, all to one address a head, which is slow and differs from run to run. So
FlexAttention sees both numbers as constants, and a kernel of ours (``flex_kernels.py``) makes the scores once more and
sums block by block, each block into a slot of its own:

    s' = s·f − c·[d > 0],  f = 1/(1 + r·d),  ds' = p·(dO·v − δ):   dr = −Σ ds'·s·f²·d,   dc = −Σ ds'·[d > 0]

Two products more than the seven of a forward and backward pass.
Letters: B batch, H heads, Q queries (the last Q of T positions), T keys, K head width, G 1 or H, L, M blocks of them.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from congling.model.attend import DocumentMask
from congling.model.positions import Alibi, DistanceDecay, NoPosition

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

_Modifier = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

_BLOCK = 128  # queries and keys of a block of the mask
_SHAPES = 64  # that may be compiled: lengths × batches of a training, and the buckets of prompts
_TILE = 64  # queries and keys of a tile of decay_gradient


def flex_attend(q: Tensor, k: Tensor, v: Tensor, position: NoPosition, documents: DocumentMask | None = None) -> Tensor:
    """The same as ``attend`` without talking heads: [B, H, Q, K] from q [B, H, Q, K] and k, v [B, H, T, K].

    Compiled at the first call of a shape on a GPU; elsewhere FlexAttention's own eager form, which is for tests.
    """
    queries, keys = q.shape[2], k.shape[2]
    rate, offset = _decay(position)
    modifier = _modifier(position, rate, offset, keys - queries)
    if not torch.is_grad_enabled():
        # Prompts come in any length: padded behind their end, where causality hides it, they share a few compilations.
        pad = 0 if documents is not None else max(_BLOCK, 1 << (keys - 1).bit_length()) - keys
        q, k, v = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, v)) if pad else (q, k, v)
        return _flex(q, k, v, modifier, documents)[:, :, :queries]
    out, lse = _flex_with_sums(q, k, v, modifier, documents)
    if rate is None or offset is None or not (rate.requires_grad or offset.requires_grad):
        return out
    number = None if documents is None else documents.keys
    y: Tensor = _DecayGradient.apply(out, rate, offset, *(x.detach() for x in (lse, q, k, v)), number)
    return y


def document_blocks(documents: DocumentMask) -> "BlockMask":
    """The causal mask within documents, for FlexAttention; ``DocumentMask.blocks`` keeps it for all layers."""
    queries, keys = documents.queries, documents.keys
    first = keys.shape[1] - queries.shape[1]

    def within(b: Tensor, h: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (row + first >= key) & (queries[b, row] == keys[b, key])

    low_q, high_q = _extremes(queries)  # [B, L]
    low_k, high_k = _extremes(keys)  # [B, M]
    some, all_ = _causal_blocks(queries.shape[1], keys.shape[1], keys.device)
    some = some & (low_q[:, :, None] <= high_k[:, None]) & (low_k[:, None] <= high_q[:, :, None])
    one = (low_q == high_q)[:, :, None] & (low_k == high_k)[:, None] & (low_q[:, :, None] == low_k[:, None])
    return _blocks(some, all_ & one, within, queries.shape[1], keys.shape[1])


@lru_cache(maxsize=_SHAPES)
def causal_blocks(queries: int, keys: int, device: torch.device) -> "BlockMask":
    """The causal mask for queries that are the last of the keys, for FlexAttention."""
    first = keys - queries

    def causal(b: Tensor, h: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return row + first >= key

    some, all_ = _causal_blocks(queries, keys, device)
    return _blocks(some[None], all_[None], causal, queries, keys)


def _decay(position: NoPosition) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Rate and offset as ``DistanceDecay.scale_and_bias`` uses them, [G]."""
    if not isinstance(position, DistanceDecay):
        return None, None
    return position.rates(), position.offset


def _modifier(position: NoPosition, rate: Tensor | None, offset: Tensor | None, first: int) -> _Modifier | None:
    """What becomes of the scaled score of query ``row`` (at position first + row) and ``key``."""
    if rate is not None and offset is not None:
        r, c, shared = rate.detach(), offset.detach(), len(rate) == 1

        def decayed(score: Tensor, b: Tensor, h: Tensor, row: Tensor, key: Tensor) -> Tensor:
            distance = row + first - key
            head = h * 0 if shared else h
            return score / (1 + r[head] * distance) - torch.where(distance > 0, c[head], 0.0)

        return decayed
    if isinstance(position, Alibi):
        slopes = position.slopes

        def biased(score: Tensor, b: Tensor, h: Tensor, row: Tensor, key: Tensor) -> Tensor:
            return score - slopes[h] * (row + first - key)

        return biased
    return None


@cache
def _compiled() -> Callable[..., Any]:
    """Each shape is compiled for itself (a handful in a training), and never falls back to the slow form silently."""
    from torch.nn.attention.flex_attention import flex_attention

    options: dict[str, Any] = {"dynamic": False, "fullgraph": True}
    if torch.__version__ >= "2.13":
        options["recompile_limit"] = _SHAPES
    compiled: Callable[..., Any] = torch.compile(flex_attention, **options)
    return compiled


def _flex(
    q: Tensor, k: Tensor, v: Tensor, modifier: _Modifier | None, documents: DocumentMask | None, **options: Any
) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    blocks = causal_blocks(q.shape[2], k.shape[2], q.device) if documents is None else documents.blocks
    if q.device.type != "cuda":
        return flex_attention(q, k, v, modifier, blocks, **options)
    with torch.compiler.set_stance("default"):  # validation runs the layers eagerly, but this must stay fused
        return _compiled()(q, k, v, modifier, blocks, **options)


def _flex_with_sums(
    q: Tensor, k: Tensor, v: Tensor, modifier: _Modifier | None, documents: DocumentMask | None
) -> tuple[Tensor, Tensor]:
    """The output, and the logarithms of the sums of exponentials [B, H, Q]."""
    from torch.nn.attention.flex_attention import AuxRequest

    out, sums = _flex(q, k, v, modifier, documents, return_aux=AuxRequest(lse=True))
    return out, sums.lse


def _causal_blocks(queries: int, keys: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[L, M]: blocks with some open place, blocks with all places open."""
    start_q = torch.arange(0, queries, _BLOCK, device=device) + keys - queries
    start_k = torch.arange(0, keys, _BLOCK, device=device)
    end_q = (start_q + _BLOCK).clamp(max=keys) - 1
    end_k = (start_k + _BLOCK).clamp(max=keys) - 1
    return start_k <= end_q[:, None], end_k <= start_q[:, None]


def _extremes(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """[B, T] -> lowest and highest of each block, [B, M]."""
    missing = -numbers.shape[1] % _BLOCK
    last = numbers[:, -1:].expand(-1, missing)
    blocks = torch.cat((numbers, last), dim=1).unflatten(1, (-1, _BLOCK))
    return blocks.amin(-1), blocks.amax(-1)


def _blocks(some: Tensor, all_: Tensor, mask: Callable[..., Tensor], queries: int, keys: int) -> "BlockMask":
    """some, all_ [B, L, M] -> what FlexAttention walks along: numbers and places of the partial and the full blocks."""
    from torch.nn.attention.flex_attention import BlockMask

    partial, full = (
        (
            kind.sum(-1, dtype=torch.int32)[:, None].contiguous(),
            kind.int().argsort(dim=-1, descending=True, stable=True).int()[:, None].contiguous(),
        )
        for kind in (some & ~all_, all_)
    )
    return BlockMask.from_kv_blocks(*partial, *full, BLOCK_SIZE=_BLOCK, mask_mod=mask, seq_lengths=(queries, keys))


class _DecayGradient(torch.autograd.Function):
    """Hands the output on; on the way back takes the gradients of rate and offset aside."""

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, rate: Tensor, offset: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor,
        documents: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(out, rate, offset, lse, q, k, v, documents)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from congling.model.flex_kernels import decay_gradient

        out, rate, offset, lse, q, k, v, documents = ctx.saved_tensors
        batch, heads, queries, width = q.shape
        delta = (out.float() * grad.float()).sum(-1)  # [B, H, Q]
        exact = q.dtype == torch.float32
        count = -(-queries // _TILE)
        partial = delta.new_empty(batch, heads, count, 2)
        decay_gradient[(count, batch * heads)](
            *(x.contiguous() for x in (q, k, v, grad.to(q.dtype), lse, delta)),
            None if documents is None else documents.to(torch.int32).contiguous(),
            rate.float().contiguous(), offset.float().contiguous(), partial, queries, k.shape[2], width**-0.5,
            H=heads, K=width, KP=max(16, 1 << (width - 1).bit_length()), BQ=_TILE, BK=32 if exact else _TILE,
            PER_HEAD=len(rate) > 1, DOCUMENTS=documents is not None, PRECISION="tf32x3" if exact else "tf32",
            num_warps=4, num_stages=1 if exact else 2,
        )  # fmt: skip
        sums = partial.sum((0, 2))  # [H, 2]
        sums = sums if len(rate) > 1 else sums.sum(0, keepdim=True)
        return grad, sums[:, 0].to(rate.dtype), sums[:, 1].to(offset.dtype), None, None, None, None, None
