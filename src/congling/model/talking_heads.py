"""Talking-heads attention with distance decay on a GPU, forward and backward, with nothing of size T×T in memory.

    s_h = q_h·kᵀ/√K·1/(1 + r·d) − c·[d > 0],   m = T_before·s,   p = softmax(m),   w = T_after·p,   o_a = w_a·v_a

and back, with g = dO·vᵀ, dp = T_afterᵀ·g, δ = Σ_k p·dp a row and head, dm = p·(dp − δ), ds = T_beforeᵀ·dm:
    dq, dk, dr, dc from ds as without talking heads,   dv_a = w_aᵀ·dO_a,   dT_before = Σ dm·sᵀ,   dT_after = Σ g·pᵀ

A band at a time: some sequences, some query rows, all heads, all keys up to the last of those rows. The library's
batched products make the scores of the band; a Triton kernel (``talking_heads_kernels.py``) mixes, normalises and mixes
again where they lie; another product takes the result to the values. Backward the band is made again.

Why not one kernel, as flash attention is: the second mix needs the scores of all heads before it can add to the output
of any. A program for R query rows would have to hold all outputs, 4·H·K bytes = 6 KiB a row for 12 heads of 128, and
the scores of all heads, 64·R·H bytes a block of 16 keys. The 256 KiB of registers of an H100's multiprocessor end near
R = 16, and with 16 rows the 2·2·1,536 bytes of a key and its value serve 16·2·2·1,536 operations: 16 a byte,
where the L2 cache (some 5 TB/s) wants 150 to keep the tensor cores busy. It would need two passes over q·kᵀ besides
(the normaliser is known only at the end) and more backward: 18.9 million operations a token and layer at length 1,024,
instead of 11.0 here. Here a band passes through the cache about 17 times in 2 bytes, and the float32 sums of dk and
dv with it: near 0.3 MB a token and layer. This is arithmetic; what was measured is in benchmarks/results, if anything.

The gradients of r, c and both maps are sums over the whole batch. Each program adds to a slot of its own and the slots
are added up at the end: no atomics, so that two runs give the same bits.

Letters: B batch, H heads, Q queries (the last Q of T positions), T keys, K head width, N sequences, R rows of a band.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from congling.model.attend import DocumentMask
from congling.model.positions import DistanceDecay, NoPosition

# A band's scores stay in the L2 cache of an H100 (50 MB) together with dO·vᵀ, which is as large.
_BAND_BYTES = 16 << 20
# Query rows of a band. More make the products and the sums of dk and dv cheaper, fewer waste less behind the diagonal.
_BAND_ROWS = 256


def can_talk(position: NoPosition) -> bool:
    """Whether ``talking_attend`` knows this position method: distance decay, or nothing that acts on scores."""
    return isinstance(position, DistanceDecay) or type(position).scale_and_bias is NoPosition.scale_and_bias


def talking_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: NoPosition,
    documents: DocumentMask | None,
    talking_before: Tensor,
    talking_after: Tensor,
) -> Tensor:
    """The same as ``attend``: [B, H, Q, K] from q [B, H, Q, K] and k, v [B, H, T, K], all bf16, fp16 or fp32.

    Scores and weights of a band are stored in that type; what is done with them is float32 (products of the H×H maps
    in TF32, thrice for float32 inputs). Raises ValueError for a position method that it does not know.
    """
    if not can_talk(position):
        raise ValueError(f"talking_attend: no kernel for {type(position).__name__}; attend() knows every position")
    rate = offset = None
    if isinstance(position, DistanceDecay):
        rate = position.rates()
        offset = position.offset
    keys = None if documents is None else documents.keys.to(torch.int32).contiguous()
    y: Tensor = _TalkingHeads.apply(q, k, v, talking_before, talking_after, rate, offset, keys)
    return y


@dataclass
class _Job:
    """What all bands of one call share; the fixed arguments of both kernels."""

    q: Tensor  # [B, H, Q, K], contiguous, as are the others
    k: Tensor
    v: Tensor
    before: Tensor  # [H, H] float32
    after: Tensor
    rate: Tensor | None  # [1] or [H] float32
    offset: Tensor | None
    documents: Tensor | None  # [B, T] int32

    @classmethod
    def make(
        cls, q: Tensor, k: Tensor, v: Tensor, before: Tensor, after: Tensor, rate: Tensor | None,
        offset: Tensor | None, documents: Tensor | None,
    ) -> "_Job":  # fmt: skip
        rate, offset = (None if x is None else x.float().contiguous() for x in (rate, offset))
        return cls(q, k, v, before.float().contiguous(), after.float().contiguous(), rate, offset, documents)

    @property
    def padded_heads(self) -> int:
        return max(16, 1 << (self.q.shape[1] - 1).bit_length())

    def bands(self) -> Iterator[tuple[slice, slice, int]]:
        """Sequences, query rows, and how many keys these rows may look at."""
        batch, heads, queries, _ = self.q.shape
        keys = self.k.shape[2]
        for start in range(0, queries, _BAND_ROWS):
            rows = slice(start, min(start + _BAND_ROWS, queries))
            seen = keys - queries + rows.stop
            size = heads * (rows.stop - start) * seen * self.q.element_size()
            together = max(1, _BAND_BYTES // size)
            for first in range(0, batch, together):
                yield slice(first, min(first + together, batch)), rows, seen

    def launch(self, kernel: Any, sequences: slice, rows: slice, seen: int, tensors: tuple[Tensor | None, ...]) -> None:
        """Runs a kernel on a band. ``tensors``: its arguments up to lse, and those behind the learned numbers."""
        *front, maps, decay = tensors if len(tensors) == 5 else (*tensors, None, None)
        documents = None if self.documents is None else self.documents[sequences]
        behind = () if maps is None else (maps, decay)
        exact = self.q.dtype == torch.float32  # three TF32 products for one, and twice the registers
        block = min(64 if exact else 128, max(16, 1 << (seen - 1).bit_length()))
        kernel[(rows.stop - rows.start, sequences.stop - sequences.start)](
            *front, documents, self.before, self.after, self.rate, self.offset, *behind,
            self.k.shape[2] - self.q.shape[2] + rows.start, seen, self.k.shape[2], self.q.shape[3] ** -0.5,
            H=self.q.shape[1], HP=self.padded_heads, BK=block, DECAY=self.rate is not None,
            PER_HEAD=self.rate is not None and len(self.rate) > 1, DOCUMENTS=documents is not None,
            PRECISION="tf32x3" if exact else "tf32", num_warps=4 if block >= 64 else 1,
        )  # fmt: skip


def _flat(x: Tensor, sequences: slice, rows: slice) -> Tensor:
    """[B, H, T, K] -> [N·H, R, K], a view."""
    return x[sequences].flatten(0, 1)[:, rows]


class _TalkingHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        before: Tensor,
        after: Tensor,
        rate: Tensor | None,
        offset: Tensor | None,
        documents: Tensor | None,
    ) -> Tensor:
        from congling.model.talking_heads_kernels import mix_forward

        job = _Job.make(q.contiguous(), k.contiguous(), v.contiguous(), before, after, rate, offset, documents)
        out = torch.empty_like(job.q)
        statistics = q.new_empty(q.shape[0], job.padded_heads, q.shape[2], dtype=torch.float32)  # ln Σ exp of a row
        for sequences, rows, seen in job.bands():
            scores = torch.bmm(_flat(job.q, sequences, rows), _flat(job.k, sequences, slice(seen)).mT)
            lse = statistics.new_empty(sequences.stop - sequences.start, job.padded_heads, rows.stop - rows.start)
            job.launch(mix_forward, sequences, rows, seen, (scores, lse))
            statistics[sequences, :, rows] = lse
            result = torch.bmm(scores, _flat(job.v, sequences, slice(seen)))
            out[sequences, :, rows] = result.view(-1, q.shape[1], *result.shape[1:])
        ctx.save_for_backward(job.q, job.k, job.v, before, after, rate, offset, documents, statistics)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from congling.model.talking_heads_kernels import mix_backward

        q, k, v, before, after, rate, offset, documents, statistics = ctx.saved_tensors
        job = _Job.make(q, k, v, before, after, rate, offset, documents)
        grad = grad.contiguous()
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        slots = max((s.stop - s.start) * (r.stop - r.start) for s, r, _ in job.bands())
        maps = dk.new_zeros(slots, 2, job.padded_heads, job.padded_heads)
        decay = dk.new_zeros(slots, 2, job.padded_heads)
        for sequences, rows, seen in job.bands():
            q_band, grad_band = _flat(q, sequences, rows), _flat(grad, sequences, rows)
            k_band, v_band = (_flat(x, sequences, slice(seen)) for x in (k, v))
            scores, weights = torch.bmm(q_band, k_band.mT), torch.bmm(grad_band, v_band.mT)
            lse = statistics[sequences, :, rows].contiguous()
            job.launch(mix_backward, sequences, rows, seen, (scores, weights, lse, maps, decay))
            dq_band = torch.bmm(scores, k_band)
            dq[sequences, :, rows] = dq_band.view(-1, q.shape[1], *dq_band.shape[1:])
            _flat(dk, sequences, slice(seen)).add_(torch.bmm(scores.mT, q_band))
            _flat(dv, sequences, slice(seen)).add_(torch.bmm(weights.mT, grad_band))
        heads = q.shape[1]
        d_before, d_after = maps.sum(0)[:, :heads, :heads]
        d_rate, d_offset = decay.sum(0)[:, :heads]
        return (
            dq, dk.to(k.dtype), dv.to(v.dtype), d_before.to(before.dtype), d_after.to(after.dtype),
            _gather(d_rate, rate), _gather(d_offset, offset), None,
        )  # fmt: skip


def _gather(grad: Tensor, parameter: Tensor | None) -> Tensor | None:
    """[H] gradients a head, summed when the heads share one number."""
    if parameter is None:
        return None
    return (grad if len(parameter) > 1 else grad.sum(0, keepdim=True)).to(parameter.dtype)
