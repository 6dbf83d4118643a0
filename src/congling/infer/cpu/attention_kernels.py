"""Attention of a wave of jobs over pages: scores, positions, talking heads, softmax, context.

Three forms (``WAVE_FORM``): over cached keys and values; over cached layer inputs y, with the key matrix folded into
the query and the value matrix applied to the sum (EL-attention, Yan et al. 2021); and over keys and values made anew
from the layer inputs, which is cheaper for many rows of a prompt.
"""

import numpy as np

from congling.infer.cpu.cache_kernels import (
    head_block,
    head_scales,
    heads_bytes,
    input_bytes,
    input_scales,
    turn_page,
)  # fmt: skip
from congling.infer.cpu.fields import (
    AFTER,
    ALIBI,
    BARRIER,
    BEFORE,
    CACHE,
    CACHE_PRODUCT,
    CONSTANTS,
    CONTEXT,
    DECAY,
    DIM,
    EXPANDED,
    HEAD,
    HEADS,
    IDENTITY,
    JOB_PAGE,
    JOB_PLACE,
    JOB_ROW,
    JOB_ROWS,
    JOB_TABLE,
    JOB_TOKENS,
    LAYER_BYTES,
    LAYER_INPUTS,
    LOG_SCALE_FROM,
    OFFSET,
    P_ROWS,
    PAGE,
    PAGE_BYTES,
    POOL,
    POSITION,
    QK_NORM,
    QUERY_ROWS,
    RATE,
    SCORES,
    SCORES_2,
    SCRATCH_PAGES,
    THREADS,
    TOTALS,
    TRUE_HEAD,
    TURNED,
    TURNED_PAGES,
    WAVE_FIRST,
    WAVE_FORM,
    WAVE_LAST,
    Q,
)  # fmt: skip
from congling.infer.cpu.row_kernels import block_product, clear_row, number_bytes, row_bytes, share, to_row
from congling.infer.cpu.small_kernels import (
    Floats,
    Row,
    Table,
    apart,
    barrier,
    exp,
    floats,
    ints,
    kernel,
    larger,
    scale_32,
)  # fmt: skip
from congling.infer.cpu.tile_kernels import BYTES


@kernel
def page_place(model: Row, number: int, form: int) -> tuple[int, int]:
    """Address of page 0 of layer ``number``, and bytes from page to page."""
    if form == EXPANDED:
        return model[SCRATCH_PAGES], heads_bytes(model[CACHE], model[HEADS], model[HEAD])
    return model[POOL] + number * model[LAYER_BYTES], model[PAGE_BYTES]


@kernel
def pages_of(tokens: int) -> int:
    return (tokens + PAGE - 1) // PAGE


@kernel
def score_pages(thread: int, model: Row, number: int, wave: Row, jobs: Table, width: int) -> None:
    """Raw products of all queries of the wave with all keys, page by page; pages are shared among the threads."""
    apart()
    kind, heads, form = model[CACHE], model[HEADS], wave[WAVE_FORM]
    columns = model[DIM] if form == LAYER_INPUTS else model[HEAD]
    line = row_bytes(kind, columns)
    info = columns
    base, stride = page_place(model, number, form)
    for j in range(wave[WAVE_FIRST], wave[WAVE_LAST]):
        job = jobs[j]
        pages = pages_of(job[JOB_TOKENS])
        table = ints(job[JOB_TABLE], pages)
        first = job[JOB_PLACE] * heads
        for p in range(pages):
            if (job[JOB_PAGE] + p) % model[THREADS] != thread:
                continue
            page = base + table[p] * stride
            out = model[SCORES] + 4 * (first * width + PAGE * p)
            row = model[QUERY_ROWS] + first * line
            if form == LAYER_INPUTS:
                count = job[JOB_ROWS] * heads
                block_product(
                    model[CACHE_PRODUCT],
                    kind,
                    page,
                    model[IDENTITY],
                    0,
                    1,
                    columns,
                    row,
                    line,
                    info,
                    count,
                    out,
                    4 * width,
                    0,
                    0,
                    0,
                )
                continue
            for h in range(heads):
                block_product(
                    model[CACHE_PRODUCT], kind, page + head_block(kind, columns, h), model[IDENTITY], 0, 1, columns,
                    row + h * line, heads * line, info, job[JOB_ROWS], out + 4 * h * width, 4 * heads * width, 0, 0, 0,
                )  # fmt: skip


@kernel
def _scale_pages(
    model: Row, number: int, form: int, table: int, place: int, source: int, target: int, pages: int
) -> None:
    """target = source · the int8 scale of each token's layer inputs, or keys (``place``: head), or values (+ heads)."""
    apart()
    base, stride = page_place(model, number, form)
    if form == LAYER_INPUTS:
        base = input_scales(base, BYTES, model[DIM])
    else:
        base += head_scales(model[HEADS], model[HEAD], place)
    numbers = ints(table, pages)
    for p in range(pages):
        scale_32(source + 4 * PAGE * p, base + numbers[p] * stride, target + 4 * PAGE * p)


@kernel
def _scale_scores(model: Row, number: int, form: int, job: Row, place: int, head: int, s: Floats, at: int) -> None:
    """What the cache and constants ask of raw products ``s``, at ``at``: scales of int8, (s + q·b)/rms + q·key bias."""
    apart()
    kind, width, pages = model[CACHE], model[DIM], pages_of(len(s))
    if kind == BYTES:
        _scale_pages(model, number, form, job[JOB_TABLE], head, at, at, pages)
    if form != LAYER_INPUTS:
        return
    constants = floats(model[CONSTANTS] + 8 * (place * model[HEADS] + head), 2)
    first, second = constants[0], constants[1]
    if not model[QK_NORM]:
        for t in range(len(s)):
            s[t] += first + second
        return
    base, stride = page_place(model, number, form)
    table = ints(job[JOB_TABLE], pages)
    for p in range(pages):
        rms = floats(base + table[p] * stride + input_bytes(kind, width, head), PAGE)
        for t in range(PAGE * p, min(PAGE * (p + 1), len(s))):
            s[t] = (s[t] + first) * rms[t - PAGE * p] + second


@kernel
def _place_scores(model: Row, layer: Row, head: int, s: Floats) -> None:
    """1/√K, positions and the growing factor; the last of ``s`` is the query's own place."""
    apart()
    factor, count = np.float32(1), len(s)
    if model[LOG_SCALE_FROM] > 0 and count > model[LOG_SCALE_FROM]:
        factor = np.float32(np.log(np.float32(count)) / np.log(np.float32(model[LOG_SCALE_FROM])))
    scale = factor / np.sqrt(np.float32(model[TRUE_HEAD]))
    if model[POSITION] == DECAY:
        rate = floats(layer[RATE], model[HEADS])[head]
        offset = floats(layer[OFFSET], model[HEADS])[head] * factor
        for t in range(count - 1):
            s[t] = s[t] * scale / (np.float32(1) + rate * np.float32(np.int32(count - 1 - t))) - offset
        s[count - 1] *= scale
    elif model[POSITION] == ALIBI:
        slope = floats(layer[RATE], model[HEADS])[head] * factor
        for t in range(count):
            s[t] = s[t] * scale - slope * np.float32(np.int32(count - 1 - t))
    else:
        for t in range(count):
            s[t] *= scale


@kernel
def _softmax(s: Floats) -> None:
    apart()
    largest = np.float32(-3e38)
    for t in range(len(s)):
        largest = larger(largest, s[t])
    total = np.float32(0)
    for t in range(len(s)):
        s[t] = exp(s[t] - largest)
        total += s[t]
    scale = np.float32(1) / total
    for t in range(len(s)):
        s[t] *= scale


@kernel
def _mix(weights: Floats, source: int, gap: int, out: Floats) -> np.float32:
    """out = Σ_h weights[h]·(row h at ``source``, rows ``gap`` bytes apart); returns the sum of out."""
    apart()
    heads, count = len(weights), len(out)
    for t in range(count):
        out[t] = 0
    h = 0
    while h + 4 <= heads:
        a, b = floats(source + h * gap, count), floats(source + (h + 1) * gap, count)
        c, d = floats(source + (h + 2) * gap, count), floats(source + (h + 3) * gap, count)
        wa, wb, wc, wd = weights[h], weights[h + 1], weights[h + 2], weights[h + 3]
        for t in range(count):
            out[t] += wa * a[t] + wb * b[t] + wc * c[t] + wd * d[t]
        h += 4
    while h < heads:
        a, wa = floats(source + h * gap, count), weights[h]
        for t in range(count):
            out[t] += wa * a[t]
        h += 1
    total = np.float32(0)
    for t in range(count):
        total += out[t]
    return total


@kernel
def _weigh_one(
    model: Row, layer: Row, number: int, form: int, job: Row, row: int, head: int, width: int,
    stage: int, talking: bool,
) -> None:  # fmt: skip
    apart()
    heads, place, count = model[HEADS], job[JOB_PLACE] + row, job[JOB_TOKENS] - job[JOB_ROWS] + 1 + row
    rows, line = 4 * place * heads * width, 4 * (place * heads + head) * width
    s, other = floats(model[SCORES] + line, count), floats(model[SCORES_2] + line, count)
    total = np.float32(1)
    if stage == 0:
        _scale_scores(model, number, form, job, place, head, s, model[SCORES] + line)
        _place_scores(model, layer, head, s)
        if not talking:
            _softmax(s)
    elif stage == 1:
        _mix(floats(layer[BEFORE] + 4 * head * heads, heads), model[SCORES] + rows, 4 * width, other)
        _softmax(other)
    else:
        total = _mix(floats(layer[AFTER] + 4 * head * heads, heads), model[SCORES_2] + rows, 4 * width, s)
    if stage == 2 or not talking:
        floats(model[TOTALS], place * heads + head + 1)[place * heads + head] = total


@kernel
def weigh(thread: int, model: Row, layer: Row, number: int, wave: Row, jobs: Table, width: int) -> None:
    """Scores -> attention weights; what is done with one head at a time is shared among the threads by row and head."""
    apart()
    talking = layer[BEFORE] != 0
    for stage in range(3 if talking else 1):
        if stage > 0:
            barrier(model[BARRIER], model[THREADS])
        for j in range(wave[WAVE_FIRST], wave[WAVE_LAST]):
            first, last = share(jobs[j, JOB_ROWS] * model[HEADS], thread, model[THREADS])
            for one in range(first, last):
                row, head = one // model[HEADS], one % model[HEADS]
                _weigh_one(model, layer, number, wave[WAVE_FORM], jobs[j], row, head, width, stage, talking)


@kernel
def make_p_rows(thread: int, model: Row, number: int, wave: Row, jobs: Table, width: int) -> None:
    """Attention weights in the form that blocks are multiplied with; for int8 times the scales of layer ``number``."""
    apart()
    kind, heads = model[CACHE], model[HEADS]
    for j in range(wave[WAVE_FIRST], wave[WAVE_LAST]):
        job = jobs[j]
        padded = PAGE * pages_of(job[JOB_TOKENS])
        first, last = share(job[JOB_ROWS] * heads, thread, model[THREADS])
        for one in range(first, last):
            count = job[JOB_TOKENS] - job[JOB_ROWS] + 1 + one // heads
            line = job[JOB_PLACE] * heads + one
            source = model[SCORES] + 4 * line * width
            clear_row(source, count, padded)
            if kind == BYTES:
                scaled, place = model[SCORES_2] + 4 * line * width, heads + one % heads
                _scale_pages(model, number, wave[WAVE_FORM], job[JOB_TABLE], place, source, scaled, padded // PAGE)
                source = scaled
            to_row(kind, source, padded, model[P_ROWS] + line * row_bytes(kind, width), width)


@kernel
def sum_inputs(thread: int, model: Row, number: int, job: Row, width: int) -> None:
    """A job's weighted sums of layer inputs, a head each, into CONTEXT; columns are shared among the threads.

    A few pages at a time are turned around and summed while they are near.
    """
    apart()
    kind, dim = model[CACHE], model[DIM]
    line, block, size = row_bytes(kind, width), PAGE * 32 * number_bytes(kind), PAGE * dim * number_bytes(kind)
    pages, count, heads = pages_of(job[JOB_TOKENS]), job[JOB_ROWS] * model[HEADS], job[JOB_PLACE] * model[HEADS]
    base, stride = page_place(model, number, LAYER_INPUTS)
    table, row, out = ints(job[JOB_TABLE], pages), model[P_ROWS] + heads * line, model[CONTEXT] + 4 * heads * dim
    first, last = share(dim // 64, thread, model[THREADS])
    for start in range(0, pages, TURNED_PAGES):
        near = min(TURNED_PAGES, pages - start)
        for p in range(near):
            turn_page(kind, base + table[start + p] * stride, model[TURNED] + p * size, first, last)
        at = row + start * PAGE * number_bytes(kind)
        info = width + start * (8 - PAGE)
        for b in range(2 * first, 2 * last):
            block_product(
                model[CACHE_PRODUCT], kind, model[TURNED] + b * block, model[IDENTITY], size, near, PAGE, at, line,
                info, count, out + 128 * b, 4 * dim, 0, start, 0,
            )  # fmt: skip


@kernel
def sum_values(thread: int, model: Row, number: int, wave: Row, jobs: Table, width: int) -> None:
    """Weighted sums of the values into the rows of Q, or of the layer inputs, a head each, into CONTEXT."""
    apart()
    kind, heads, form = model[CACHE], model[HEADS], wave[WAVE_FORM]
    line, block, blocks = row_bytes(kind, width), PAGE * 32 * number_bytes(kind), model[HEAD] // 32
    base, stride = page_place(model, number, form)
    first, last = share(heads * blocks, thread, model[THREADS])
    for j in range(wave[WAVE_FIRST], wave[WAVE_LAST]):
        job = jobs[j]
        if form == LAYER_INPUTS:
            sum_inputs(thread, model, number, job, width)
            continue
        row, out = model[P_ROWS] + job[JOB_PLACE] * heads * line, model[Q] + 4 * job[JOB_ROW] * heads * model[HEAD]
        for one in range(first, last):
            values = base + head_block(kind, model[HEAD], heads) + one * block
            block_product(
                model[CACHE_PRODUCT], kind, values, job[JOB_TABLE], stride, pages_of(job[JOB_TOKENS]), PAGE,
                row + one // blocks * line, heads * line, width, job[JOB_ROWS], out + 128 * one,
                4 * heads * model[HEAD], 0, 0, 0,
            )  # fmt: skip
