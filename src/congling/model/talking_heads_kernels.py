"""The Triton kernels of ``talking_heads.py``: heads mixed, softmax, heads mixed again, and the way back.

One program is one query row of one sequence with all its heads: a tile [HP, BK] of scores, HP the heads rounded up to a
power of two (the surplus reads zeros and stores nothing), BK keys at a time. Formulas: ``talking_heads.py``.
Imported only by functions that are about to launch a kernel: triton exists where CUDA builds of torch are.
"""

import triton
import triton.language as tl


@triton.jit
def _matrix(pointer, H: tl.constexpr, HP: tl.constexpr, TRANSPOSED: tl.constexpr):
    """[HP, HP] of a contiguous H×H matrix, zeros around it."""
    row = tl.arange(0, HP)[:, None]
    column = tl.arange(0, HP)[None, :]
    place = column * H + row if TRANSPOSED else row * H + column
    return tl.load(pointer + place, mask=(row < H) & (column < H), other=0.0)


@triton.jit
def _decay(pointer, H: tl.constexpr, HP: tl.constexpr, DECAY: tl.constexpr, PER_HEAD: tl.constexpr):
    """[HP, 1] of a learned number, one for all heads or one a head; zeros without decay."""
    head = tl.arange(0, HP)[:, None]
    if DECAY:
        number = tl.load(pointer + (head if PER_HEAD else head * 0), mask=head < H, other=0.0)
    else:
        number = tl.zeros([HP, 1], tl.float32)
    return number


@triton.jit
def _open(documents, sequence, position, start, total_keys, BK: tl.constexpr, DOCUMENTS: tl.constexpr):
    """[1, BK]: which keys from ``start`` on the query at ``position`` may look at."""
    key = start + tl.arange(0, BK)[None, :]
    allowed = key <= position
    if DOCUMENTS:
        own = tl.load(documents + sequence * total_keys + position)
        theirs = tl.load(documents + sequence * total_keys + key, mask=allowed, other=-1)
        allowed = allowed & (theirs == own)
    return allowed


@triton.jit
def _decayed(score, position, key, r, c, DECAY: tl.constexpr):
    """Scaled scores with their distances, (s, d, 1/(1 + r·d)); without decay s is the score itself."""
    distance = tl.maximum(position - key, 0).to(tl.float32)
    factor = 1 / (1 + r * distance)
    return (score * factor - tl.where(distance > 0, c, 0.0) if DECAY else score), distance, factor


@triton.jit
def _add(pointer, value):
    """To a place that belongs to this program alone."""
    tl.store(pointer, tl.load(pointer) + value)


@triton.jit
def _row_delta(
    scores, grad_weights, documents, log_sum, mix_in, mix_out_t, r, c, sequence, position, keys, total_keys, scale,
    H: tl.constexpr, HP: tl.constexpr, BK: tl.constexpr, DECAY: tl.constexpr, DOCUMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """δ = Σ p·dp of a row, [HP]; scores and grad_weights [HP, 1] point to where its lines begin."""
    head = tl.arange(0, HP)[:, None]
    delta = tl.zeros([HP], tl.float32)
    for start in range(0, position + 1, BK):
        allowed = _open(documents, sequence, position, start, total_keys, BK, DOCUMENTS)
        key = start + tl.arange(0, BK)[None, :]
        inside = (head < H) & (key < keys)
        raw = tl.load(scores + key, mask=inside, other=0.0).to(tl.float32) * scale
        s, _, _ = _decayed(raw, position, key, r, c, DECAY)
        p = tl.where(allowed, tl.exp(tl.dot(mix_in, s, input_precision=PRECISION) - log_sum), 0.0)
        dw = tl.load(grad_weights + key, mask=inside, other=0.0).to(tl.float32)
        delta += tl.sum(p * tl.dot(mix_out_t, dw, input_precision=PRECISION), 1)
    return delta


@triton.jit
def mix_forward(
    scores, lse, documents, before, after, rate, offset,
    first, keys, total_keys, scale,
    H: tl.constexpr, HP: tl.constexpr, BK: tl.constexpr, DECAY: tl.constexpr, PER_HEAD: tl.constexpr,
    DOCUMENTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """scores [N, H, R, keys] q·k -> the mixed weights, in place; lse [N, HP, R] float32. Grid (R, N)."""
    row = tl.program_id(0)
    sequence = tl.program_id(1)
    rows = tl.num_programs(0)
    position = first + row
    head = tl.arange(0, HP)[:, None]
    line = scores + ((sequence * H + head) * rows + row).to(tl.int64) * keys  # [HP, 1]
    mix_in = _matrix(before, H, HP, False)
    mix_out = _matrix(after, H, HP, False)
    r = _decay(rate, H, HP, DECAY, PER_HEAD)
    c = _decay(offset, H, HP, DECAY, PER_HEAD)
    highest = tl.full([HP], -1e30, tl.float32)  # finite: a block may have no open key
    total = tl.zeros([HP], tl.float32)
    for start in range(0, position + 1, BK):
        allowed = _open(documents, sequence, position, start, total_keys, BK, DOCUMENTS)
        key = start + tl.arange(0, BK)[None, :]
        raw = tl.load(line + key, mask=(head < H) & (key < keys), other=0.0).to(tl.float32) * scale
        s, _, _ = _decayed(raw, position, key, r, c, DECAY)
        mixed = tl.where(allowed, tl.dot(mix_in, s, input_precision=PRECISION), float("-inf"))
        new = tl.maximum(highest, tl.max(mixed, 1))
        total = total * tl.exp(highest - new) + tl.sum(tl.exp(mixed - new[:, None]), 1)
        highest = new
    log_sum = highest + tl.log(total)
    tl.store(lse + (sequence * HP + tl.arange(0, HP)) * rows + row, log_sum)
    for start in range(0, keys, BK):  # up to ``keys``: the product with the values reads the closed places too
        allowed = _open(documents, sequence, position, start, total_keys, BK, DOCUMENTS)
        key = start + tl.arange(0, BK)[None, :]
        inside = (head < H) & (key < keys)
        raw = tl.load(line + key, mask=inside, other=0.0).to(tl.float32) * scale
        tl.debug_barrier()  # every thread has read before any writes
        s, _, _ = _decayed(raw, position, key, r, c, DECAY)
        mixed = tl.dot(mix_in, s, input_precision=PRECISION)
        p = tl.where(allowed, tl.exp(mixed - log_sum[:, None]), 0.0)
        w = tl.dot(mix_out, p, input_precision=PRECISION)
        tl.store(line + key, w.to(scores.dtype.element_ty), mask=inside)


@triton.jit
def mix_backward(
    scores, grad_weights, lse, documents, before, after, rate, offset, grad_maps, grad_decay,
    first, keys, total_keys, scale,
    H: tl.constexpr, HP: tl.constexpr, BK: tl.constexpr, DECAY: tl.constexpr, PER_HEAD: tl.constexpr,
    DOCUMENTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores q·k and grad_weights dO·V [N, H, R, keys] -> gradient of q·k, and the weights, each in place.

    Adds this program's share to its own slot of grad_maps [N·R, 2, HP, HP] (before, after) and grad_decay [N·R, 2, HP]
    (rate, offset): no two programs write to one place. Grid (R, N).
    """
    row = tl.program_id(0)
    sequence = tl.program_id(1)
    rows = tl.num_programs(0)
    position = first + row
    head = tl.arange(0, HP)[:, None]
    line = ((sequence * H + head) * rows + row).to(tl.int64) * keys  # [HP, 1]
    mix_in = _matrix(before, H, HP, False)
    mix_out = _matrix(after, H, HP, False)
    mix_in_t = _matrix(before, H, HP, True)
    mix_out_t = _matrix(after, H, HP, True)
    r = _decay(rate, H, HP, DECAY, PER_HEAD)
    c = _decay(offset, H, HP, DECAY, PER_HEAD)
    log_sum = tl.load(lse + (sequence * HP + tl.arange(0, HP)) * rows + row)[:, None]
    delta = _row_delta(
        scores + line, grad_weights + line, documents, log_sum, mix_in, mix_out_t, r, c, sequence, position, keys,
        total_keys, scale, H, HP, BK, DECAY, DOCUMENTS, PRECISION,
    )  # fmt: skip
    grad_before = tl.zeros([HP, HP], tl.float32)
    grad_after = tl.zeros([HP, HP], tl.float32)
    grad_rate = tl.zeros([HP], tl.float32)
    grad_offset = tl.zeros([HP], tl.float32)
    for start in range(0, keys, BK):
        allowed = _open(documents, sequence, position, start, total_keys, BK, DOCUMENTS)
        key = start + tl.arange(0, BK)[None, :]
        inside = (head < H) & (key < keys)
        raw = tl.load(scores + line + key, mask=inside, other=0.0).to(tl.float32) * scale
        dw = tl.load(grad_weights + line + key, mask=inside, other=0.0).to(tl.float32)
        tl.debug_barrier()  # every thread has read before any writes
        s, distance, factor = _decayed(raw, position, key, r, c, DECAY)
        p = tl.where(allowed, tl.exp(tl.dot(mix_in, s, input_precision=PRECISION) - log_sum), 0.0)
        w = tl.dot(mix_out, p, input_precision=PRECISION)
        tl.store(grad_weights + line + key, w.to(grad_weights.dtype.element_ty), mask=inside)
        grad_after += tl.dot(dw, tl.trans(p), input_precision=PRECISION)
        dmixed = p * (tl.dot(mix_out_t, dw, input_precision=PRECISION) - delta[:, None])
        grad_before += tl.dot(dmixed, tl.trans(s), input_precision=PRECISION)
        ds = tl.dot(mix_in_t, dmixed, input_precision=PRECISION)
        if DECAY:
            grad_offset -= tl.sum(tl.where(distance > 0, ds, 0.0), 1)
            ds = ds * factor
            grad_rate -= tl.sum(ds * raw * factor * distance, 1)
        tl.store(scores + line + key, (ds * scale).to(scores.dtype.element_ty), mask=inside)
    slot = (sequence * rows + row) * 2
    maps_slot = grad_maps + slot * HP * HP + head * HP + tl.arange(0, HP)[None, :]
    _add(maps_slot, grad_before)
    _add(maps_slot + HP * HP, grad_after)
    if DECAY:
        decay_slot = grad_decay + slot * HP + tl.arange(0, HP)
        _add(decay_slot, grad_rate)
        _add(decay_slot + HP, grad_offset)
