"""Attention of one layer for all rows of a step: queries made ready, waves of jobs, absorbed matrices."""

import numpy as np

from congling.infer.cpu.attention_kernels import (
    make_p_rows,
    pages_of,
    score_pages,
    sum_values,
    weigh,
)  # fmt: skip
from congling.infer.cpu.cache_kernels import heads_bytes, put_key_value, read_inputs
from congling.infer.cpu.fields import (
    B_KEY,
    B_VALUE,
    BARRIER,
    CACHE,
    CONSTANTS,
    CONTEXT,
    DIM,
    FOLDED,
    HEAD,
    HEADS,
    IDENTITY,
    JOB_PLACE,
    JOB_ROW,
    JOB_ROWS,
    JOB_SOURCE,
    KEY_BIAS,
    LAYER_BYTES,
    LAYER_INPUTS,
    PAGE,
    PAGE_BYTES,
    POOL,
    QK_NORM,
    QUERY_ROWS,
    ROWS,
    SCRATCH_K,
    SCRATCH_PAGES,
    SCRATCH_ROWS,
    SCRATCH_SPARE,
    SCRATCH_V,
    SCRATCH_Y,
    THREADS,
    TOTALS,
    TRUE_HEAD,
    VALUE_MIX,
    W_FOLDED,
    W_KEY,
    W_VALUE,
    WAVE_EXPAND,
    WAVE_FIRST,
    WAVE_FORM,
    WAVE_LAST,
    WEIGHT_PRODUCT,
    WEIGHTS,
    Q,
)  # fmt: skip
from congling.infer.cpu.row_kernels import (
    add_row,
    block_bytes,
    block_product,
    inverse_rms,
    multiply,
    number_bytes,
    row_bytes,
    share,
    to_row,
)  # fmt: skip
from congling.infer.cpu.small_kernels import Row, Table, apart, barrier, floats, ints, kernel

_CHUNK = 4  # pages whose keys and values are made anew at a time


@kernel
def finish_heads(model: Row, row: int, bias: int) -> None:
    """Norm and bias of one row of queries or keys, in place."""
    apart()
    width, true_width = model[HEAD], model[TRUE_HEAD]
    if model[QK_NORM]:
        for h in range(model[HEADS]):
            x = floats(row + 4 * h * width, width)
            scale = inverse_rms(x, true_width)
            for c in range(width):
                x[c] *= scale
    if bias != 0:
        add_row(row, bias, model[HEADS] * width, 0)


@kernel
def _read_chunk(thread: int, model: Row, number: int, table: int, count: int, factor: np.float32) -> None:
    """Layer inputs of some pages times a factor, as rows."""
    apart()
    kind, dim, base = model[CACHE], model[DIM], model[POOL] + number * model[LAYER_BYTES]
    line = row_bytes(model[WEIGHTS], dim)
    first, last = share(count, thread, model[THREADS])
    for p in range(first, last):
        page = base + ints(table, count)[p] * model[PAGE_BYTES]
        rows = model[SCRATCH_Y] + 4 * PAGE * p * dim
        read_inputs(kind, dim, page, factor, rows, model[SCRATCH_SPARE] + p * PAGE * dim * number_bytes(kind))
        for t in range(PAGE):
            to = model[SCRATCH_ROWS] + (PAGE * p + t) * line
            to_row(model[WEIGHTS], rows + 4 * t * dim, dim, to, dim)
    barrier(model[BARRIER], model[THREADS])


@kernel
def _multiply_chunk(thread: int, model: Row, matrix: int, bias: int, count: int, out: int, add: int) -> None:
    apart()
    inner = model[HEADS] * model[HEAD]
    first, last = share(inner // 32, thread, model[THREADS])
    multiply(
        model[WEIGHT_PRODUCT], model[WEIGHTS], matrix, model[DIM], model[SCRATCH_ROWS], PAGE * count, model[IDENTITY],
        out, 4 * inner, bias, add, first, last,
    )  # fmt: skip


@kernel
def _add_biases(layers: Table, number: int, value: int, inner: int) -> None:
    """The affine biases of both layers' values, each with its share."""
    apart()
    shares, y = floats(layers[number, VALUE_MIX], 2), floats(value, inner)
    for place in range(2):
        bias = layers[number if place == 0 else 0, B_VALUE]
        if bias != 0:
            b = floats(bias, inner)
            for c in range(inner):
                y[c] += shares[place] * b[c]


@kernel
def _expand(thread: int, model: Row, layers: Table, number: int, wave: Row, jobs: Table) -> None:
    """Keys and values of a whole sequence from its cached layer inputs, into scratch pages.

    They come from what is cached, not from what was just computed: so they are the same however a prompt is cut.
    """
    apart()
    threads, state = model[THREADS], model[BARRIER]
    source, pages = jobs[wave[WAVE_FIRST], JOB_SOURCE], pages_of(wave[WAVE_EXPAND])
    inner = model[HEADS] * model[HEAD]
    mix = layers[number, VALUE_MIX]
    one = np.float32(1)
    for start in range(0, pages, _CHUNK):
        count = min(_CHUNK, pages - start)
        table = source + 4 * start
        _read_chunk(thread, model, number, table, count, one)
        _multiply_chunk(thread, model, layers[number, W_KEY], layers[number, B_KEY], count, model[SCRATCH_K], 0)
        if mix == 0:
            _multiply_chunk(thread, model, layers[number, W_VALUE], layers[number, B_VALUE], count, model[SCRATCH_V], 0)
        else:
            barrier(state, threads)
            _read_chunk(thread, model, number, table, count, floats(mix, 2)[0])
            _multiply_chunk(thread, model, layers[number, W_VALUE], 0, count, model[SCRATCH_V], 0)
            barrier(state, threads)
            _read_chunk(thread, model, 0, table, count, floats(mix, 2)[1])
            _multiply_chunk(thread, model, layers[0, W_VALUE], 0, count, model[SCRATCH_V], 1)
        barrier(state, threads)
        first, last = share(PAGE * count, thread, threads)
        for r in range(first, last):
            key, value = model[SCRATCH_K] + 4 * r * inner, model[SCRATCH_V] + 4 * r * inner
            finish_heads(model, key, layers[number, KEY_BIAS])
            if mix != 0:
                _add_biases(layers, number, value, inner)
            page = model[SCRATCH_PAGES] + (start + r // PAGE) * heads_bytes(model[CACHE], model[HEADS], model[HEAD])
            put_key_value(model, model[CACHE], page, r % PAGE, key, value)
        barrier(state, threads)


@kernel
def _wave_rows(wave: Row, jobs: Table) -> tuple[int, int]:
    """First row in the batch of a wave, and how many."""
    last = jobs[wave[WAVE_LAST] - 1]
    return jobs[wave[WAVE_FIRST], JOB_ROW], last[JOB_PLACE] + last[JOB_ROWS]


@kernel
def _dot(query: int, vector: int, head: int, width: int) -> np.float32:
    """A head's query · its part of a vector of all heads; 0 where there is none."""
    apart()
    if vector == 0:
        return np.float32(0)
    a, b, total = floats(query, width), floats(vector + 4 * head * width, width), np.float32(0)
    for c in range(width):
        total += a[c] * b[c]
    return total


@kernel
def _fold_queries(thread: int, model: Row, layer: Row, wave: Row, jobs: Table) -> None:
    """Queries times the key matrix, a head each: what layer inputs are multiplied with; and the constants of scores."""
    apart()
    row, rows = _wave_rows(wave, jobs)
    kind, cache, heads, width, dim = model[WEIGHTS], model[CACHE], model[HEADS], model[HEAD], model[DIM]
    threads, state = model[THREADS], model[BARRIER]
    line, size = row_bytes(kind, width), block_bytes(kind, width)
    first, last = share(rows * heads, thread, threads)
    for one in range(first, last):
        query = model[Q] + 4 * (row * heads + one) * width
        to_row(kind, query, width, model[ROWS] + one * line, width)
        constants = floats(model[CONSTANTS] + 8 * one, 2)
        constants[0] = _dot(query, layer[B_KEY], one % heads, width)
        constants[1] = _dot(query, layer[KEY_BIAS], one % heads, width)
    barrier(state, threads)
    blocks = dim // 32
    first, last = share(heads * blocks, thread, threads)
    for one in range(first, last):
        h, b = one // blocks, one % blocks
        # rows of one head lie ``heads`` lines apart
        block_product(
            model[WEIGHT_PRODUCT], kind, layer[W_FOLDED] + one * size, model[IDENTITY], 0, 1, width,
            model[ROWS] + h * line, heads * line, width, rows, model[FOLDED] + 4 * h * dim + 128 * b, 4 * heads * dim,
            0, 0, size,
        )  # fmt: skip
    barrier(state, threads)
    line = row_bytes(cache, dim)
    first, last = share(rows * heads, thread, threads)
    for one in range(first, last):
        to_row(cache, model[FOLDED] + 4 * one * dim, dim, model[QUERY_ROWS] + one * line, dim)


@kernel
def _ready_queries(thread: int, model: Row, wave: Row, jobs: Table) -> None:
    """Queries in the form that cached keys are multiplied with."""
    apart()
    row, rows = _wave_rows(wave, jobs)
    kind, width = model[CACHE], model[HEAD]
    line = row_bytes(kind, width)
    first, last = share(rows * model[HEADS], thread, model[THREADS])
    for one in range(first, last):
        source = model[Q] + 4 * (row * model[HEADS] + one) * width
        to_row(kind, source, width, model[QUERY_ROWS] + one * line, width)


@kernel
def _apply_matrix(thread: int, model: Row, layer: Row, wave: Row, jobs: Table, factor: np.float32, add: int) -> None:
    """Rows of Q (+)= factor·(W·context + bias·sum of weights), a head each."""
    apart()
    row, rows = _wave_rows(wave, jobs)
    kind, heads, width, dim = model[WEIGHTS], model[HEADS], model[HEAD], model[DIM]
    line, size = row_bytes(kind, dim), block_bytes(kind, dim)
    first, last = share(rows * heads, thread, model[THREADS])
    for one in range(first, last):
        x = floats(model[CONTEXT] + 4 * one * dim, dim)
        if factor != 1:
            for c in range(dim):
                x[c] *= factor
        to_row(kind, model[CONTEXT] + 4 * one * dim, dim, model[ROWS] + one * line, dim)
    barrier(model[BARRIER], model[THREADS])
    blocks = width // 32
    first, last = share(heads * blocks, thread, model[THREADS])
    for one in range(first, last):
        out = model[Q] + 4 * row * heads * width + 128 * one
        block_product(
            model[WEIGHT_PRODUCT], kind, layer[W_VALUE] + one * size, model[IDENTITY], 0, 1, dim,
            model[ROWS] + one // blocks * line, heads * line, dim, rows, out, 4 * heads * width, 0, add, size,
        )  # fmt: skip
        if layer[B_VALUE] != 0:
            bias = floats(layer[B_VALUE] + 128 * one, 32)
            totals = floats(model[TOTALS], rows * heads)
            for r in range(rows):
                y = floats(out + 4 * r * heads * width, 32)
                for c in range(32):
                    y[c] += factor * totals[r * heads + one // blocks] * bias[c]
    barrier(model[BARRIER], model[THREADS])


@kernel
def _apply_values(thread: int, model: Row, layers: Table, number: int, wave: Row, jobs: Table, width: int) -> None:
    """The value matrix on weighted sums of layer inputs: this layer's and, with value residual, the first layer's."""
    apart()
    mix = layers[number, VALUE_MIX]
    own = floats(mix, 2)[0] if mix != 0 else np.float32(1)
    _apply_matrix(thread, model, layers[number], wave, jobs, own, 0)
    if mix == 0:
        return
    make_p_rows(thread, model, 0, wave, jobs, width)
    barrier(model[BARRIER], model[THREADS])
    sum_values(thread, model, 0, wave, jobs, width)
    barrier(model[BARRIER], model[THREADS])
    _apply_matrix(thread, model, layers[0], wave, jobs, floats(mix, 2)[1], 1)


@kernel
def attend(thread: int, model: Row, layers: Table, number: int, waves: Table, jobs: Table, width: int) -> None:
    """Rows of Q become rows of attention's result. width: tokens that a row of scores has room for."""
    apart()
    layer = layers[number]
    threads, state = model[THREADS], model[BARRIER]
    for w in range(len(waves)):
        wave = waves[w]
        if wave[WAVE_EXPAND] > 0:
            _expand(thread, model, layers, number, wave, jobs)
        if wave[WAVE_FORM] == LAYER_INPUTS:
            _fold_queries(thread, model, layer, wave, jobs)
        else:
            _ready_queries(thread, model, wave, jobs)
        barrier(state, threads)
        score_pages(thread, model, number, wave, jobs, width)
        barrier(state, threads)
        weigh(thread, model, layer, number, wave, jobs, width)
        barrier(state, threads)
        make_p_rows(thread, model, number, wave, jobs, width)
        barrier(state, threads)
        sum_values(thread, model, number, wave, jobs, width)
        barrier(state, threads)
        if wave[WAVE_FORM] == LAYER_INPUTS:
            _apply_values(thread, model, layers, number, wave, jobs, width)
