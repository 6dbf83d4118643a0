"""The Triton kernel behind ``flex.py``: the gradients of the learned rate and offset of distance decay.

Imported only by functions that are about to launch a kernel: triton exists where CUDA builds of torch are.
"""

import triton
import triton.language as tl


@triton.jit
def decay_gradient(
    q, k, v, grad, lse, delta, documents, rate, offset, partial,
    queries, keys, scale,
    H: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
    PER_HEAD: tl.constexpr, DOCUMENTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head: its share of Σ ds·∂s/∂r and Σ ds·∂s/∂c into partial [B·H, blocks, 2].

    q, grad [B·H, Q, K], k, v [B·H, T, K], lse, delta [B·H, Q], documents [B, T]. Grid (blocks, B·H).
    """
    block = tl.program_id(0)
    line = tl.program_id(1)
    first = keys - queries  # the position of query 0
    row = block * BQ + tl.arange(0, BQ)
    column = tl.arange(0, KP)[None, :]
    own = (line.to(tl.int64) * queries + row[:, None]) * K + column
    valid = (row[:, None] < queries) & (column < K)
    q_tile = tl.load(q + own, mask=valid, other=0.0)
    grad_tile = tl.load(grad + own, mask=valid, other=0.0)
    log_sum = tl.load(lse + line * queries + row, mask=row < queries, other=0.0)[:, None]
    d = tl.load(delta + line * queries + row, mask=row < queries, other=0.0)[:, None]
    r = tl.load(rate + (line % H if PER_HEAD else 0))
    c = tl.load(offset + (line % H if PER_HEAD else 0))
    position = (first + row)[:, None]
    if DOCUMENTS:
        mine = tl.load(documents + (line // H) * keys + position, mask=row[:, None] < queries, other=-1)
    rate_sum = tl.zeros([BQ], tl.float32)
    offset_sum = tl.zeros([BQ], tl.float32)
    for start in range(0, tl.minimum(first + (block + 1) * BQ, keys), BK):
        key = start + tl.arange(0, BK)
        theirs = (line.to(tl.int64) * keys + key[:, None]) * K + column
        there = (key[:, None] < keys) & (column < K)
        s = tl.dot(q_tile, tl.trans(tl.load(k + theirs, mask=there, other=0.0)), input_precision=PRECISION) * scale
        dp = tl.dot(grad_tile, tl.trans(tl.load(v + theirs, mask=there, other=0.0)), input_precision=PRECISION)
        allowed = (key[None, :] <= position) & (row[:, None] < queries)
        if DOCUMENTS:
            other = tl.load(documents + (line // H) * keys + key, mask=key < keys, other=-2)
            allowed = allowed & (other[None, :] == mine)
        distance = tl.maximum(position - key[None, :], 0).to(tl.float32)
        factor = 1 / (1 + r * distance)
        p = tl.where(allowed, tl.exp(s * factor - tl.where(distance > 0, c, 0.0) - log_sum), 0.0)
        ds = p * (dp - d)
        rate_sum -= tl.sum(ds * s * factor * factor * distance, 1)
        offset_sum -= tl.sum(tl.where(distance > 0, ds, 0.0), 1)
    slot = partial + (line * tl.num_programs(0) + block) * 2
    tl.store(slot, tl.sum(rate_sum, 0))
    tl.store(slot + 1, tl.sum(offset_sum, 0))
