"""One step of the whole model on one thread of several: from ids to logits."""

import numpy as np

from congling.infer.cpu.cache_kernels import input_scales, put_as_output, put_inverse_rms, put_key_value
from congling.infer.cpu.fields import (
    ABSORBED,
    B_DOWN,
    B_GATE,
    B_KEY,
    B_OUT,
    B_QUERY,
    B_UP,
    B_VALUE,
    BARRIER,
    CACHE,
    DIM,
    EMBEDDING,
    EMBEDDING_BIAS,
    EMBEDDING_SCALE,
    FEED,
    FINAL_NORM,
    FIRST_V,
    GATE,
    HEAD,
    HEAD_MATRIX,
    HEADS,
    IDENTITY,
    INNER,
    KEY_BIAS,
    LAYER_BYTES,
    LAYERS,
    LOGIT_BIAS,
    LOGIT_SCALE,
    LOGITS,
    NORM_1,
    NORM_2,
    NUM_NUMBERS,
    NUMBERS,
    PAGE,
    PAGE_BYTES,
    POOL,
    POSITION,
    PRE_NORM,
    QK_NORM,
    QUERY_BIAS,
    RELU_RELU,
    ROPE,
    ROTATIONS,
    ROWS,
    SOFTCAP,
    SWIGLU,
    THREADS,
    TRUE_DIM,
    TRUE_HEAD,
    UP,
    VALUE_MIX,
    VOCAB,
    W_DOWN,
    W_GATE,
    W_KEY,
    W_OUT,
    W_QUERY,
    W_UP,
    W_VALUE,
    WEIGHT_PRODUCT,
    WEIGHTS,
    K,
    Q,
    V,
    X,
    Y,
)  # fmt: skip
from congling.infer.cpu.row_kernels import activate, add_row, copy_row, multiply, normed, row_bytes, share, to_row
from congling.infer.cpu.small_kernels import FloatTable, Row, Table, apart, barrier, entry, exp, floats, kernel
from congling.infer.cpu.wave_kernels import attend, finish_heads


@kernel
def _linear(thread: int, model: Row, matrix: int, columns: int, outputs: int, rows: int, out: int, bias: int) -> None:
    """This thread's share of a matrix times the ``rows`` of ROWS."""
    apart()
    first, last = share(outputs // 32, thread, model[THREADS])
    multiply(
        model[WEIGHT_PRODUCT],
        model[WEIGHTS],
        matrix,
        columns,
        model[ROWS],
        rows,
        model[IDENTITY],
        out,
        4 * outputs,
        bias,
        0,
        first,
        last,
    )


@kernel
def _row(model: Row, source: int, columns: int, r: int) -> None:
    """Row ``r`` of a float32 buffer -> row ``r`` of ROWS."""
    apart()
    kind = model[WEIGHTS]
    to_row(kind, source + 4 * r * columns, columns, model[ROWS] + r * row_bytes(kind, columns), columns)


@kernel
def _head(thread: int, model: Row, wanted: Row) -> None:
    """Logits of the wanted rows."""
    apart()
    dim, threads, state = model[DIM], model[THREADS], model[BARRIER]
    barrier(state, threads)  # other threads' rows are done, and Y is read no more
    first, last = share(len(wanted), thread, threads)
    for w in range(first, last):
        x, y = model[X] + 4 * wanted[w] * dim, model[Y] + 4 * w * dim
        if model[PRE_NORM]:
            normed(x, model[FINAL_NORM], y, dim, model[TRUE_DIM])
        else:
            copy_row(x, y, dim)
        _row(model, model[Y], dim, w)
    barrier(state, threads)
    vocab, numbers = model[VOCAB], floats(model[NUMBERS], NUM_NUMBERS)
    _linear(thread, model, model[HEAD_MATRIX], dim, vocab, len(wanted), model[LOGITS], 0)
    first, last = share(vocab // 32, thread, threads)
    one, two = np.float32(1), np.float32(2)
    cap, scale, bias = numbers[SOFTCAP], numbers[LOGIT_SCALE], numbers[LOGIT_BIAS]
    for w in range(len(wanted)):
        z = floats(model[LOGITS] + 4 * (w * vocab + 32 * first), 32 * (last - first))
        if scale != 1 or bias != 0:
            for i in range(len(z)):
                z[i] = z[i] * scale + bias
        if cap > 0:
            for i in range(len(z)):
                z[i] = cap - two * cap / (one + exp(two * z[i] / cap))  # cap·tanh(z/cap)
    barrier(state, threads)


@kernel
def _embed(model: Row, r: int, token: int, inputs: FloatTable) -> None:
    apart()
    dim, count, numbers = model[DIM], model[TRUE_DIM], floats(model[NUMBERS], NUM_NUMBERS)
    x, row = floats(model[X] + 4 * r * dim, dim), floats(model[EMBEDDING] + 4 * token * count, count)
    for c in range(count):
        x[c] = row[c] * numbers[EMBEDDING_SCALE] + numbers[EMBEDDING_BIAS]
    for c in range(count, dim):
        x[c] = 0
    if len(inputs) > 0:
        for c in range(count):
            x[c] += inputs[r, c]


@kernel
def _page(model: Row, number: int, place: int) -> int:
    return model[POOL] + place // PAGE * model[PAGE_BYTES] + number * model[LAYER_BYTES]


@kernel
def _rotate(model: Row, row: int, r: int) -> None:
    """Rotary position of a row of queries or keys, halves paired."""
    apart()
    half = model[TRUE_HEAD] // 2
    wave = floats(model[ROTATIONS] + 8 * r * half, 2 * half)  # cosines, sines
    for h in range(model[HEADS]):
        x = floats(row + 4 * h * model[HEAD], 2 * half)
        for c in range(half):
            a, b = x[c], x[half + c]
            x[c] = a * wave[c] - b * wave[half + c]
            x[half + c] = a * wave[half + c] + b * wave[c]


@kernel
def _values(model: Row, number: int) -> int:
    """The buffer of a layer's own values; those of the first layer are kept for the others."""
    return model[FIRST_V] if number == 0 else model[V]


@kernel
def _finish_row(model: Row, layer: Row, number: int, r: int, place: int) -> None:
    """Norms, biases, rotation, shares of values; and into the cache."""
    apart()
    inner, kind, page = model[HEADS] * model[HEAD], model[CACHE], _page(model, number, place)
    query, key = model[Q] + 4 * r * inner, model[K] + 4 * r * inner
    finish_heads(model, query, layer[QUERY_BIAS])
    if model[ABSORBED]:
        if model[QK_NORM]:
            put_inverse_rms(model, kind, page, place % PAGE, key)
        return
    finish_heads(model, key, layer[KEY_BIAS])
    if model[POSITION] == ROPE:
        _rotate(model, query, r)
        _rotate(model, key, r)
    value = _values(model, number) + 4 * r * inner
    if layer[VALUE_MIX] != 0:
        shares, own, other = (
            floats(layer[VALUE_MIX], 2),
            floats(value, inner),
            floats(model[FIRST_V] + 4 * r * inner, inner),
        )
        for c in range(inner):
            own[c] = shares[0] * own[c] + shares[1] * other[c]
    put_key_value(model, kind, page, place % PAGE, key, value)


@kernel
def _attention(
    thread: int, model: Row, layers: Table, number: int, places: Row, waves: Table,
    jobs: Table, width: int,
) -> None:  # fmt: skip
    apart()
    layer, dim, inner, rows = layers[number], model[DIM], model[HEADS] * model[HEAD], len(places)
    threads, state = model[THREADS], model[BARRIER]
    first, last = share(rows, thread, threads)
    for r in range(first, last):
        source = model[X]
        if model[PRE_NORM]:
            source = model[Y]
            normed(model[X] + 4 * r * dim, layer[NORM_1], source + 4 * r * dim, dim, model[TRUE_DIM])
        _row(model, source, dim, r)
        if model[ABSORBED]:
            kind, page = model[CACHE], _page(model, number, places[r])
            put_as_output(
                kind, page, places[r] % PAGE, source + 4 * r * dim, dim, input_scales(page, kind, dim)
            )  # fmt: skip
    barrier(state, threads)
    _linear(thread, model, layer[W_QUERY], dim, inner, rows, model[Q], layer[B_QUERY])
    if not model[ABSORBED] or model[QK_NORM]:
        _linear(thread, model, layer[W_KEY], dim, inner, rows, model[K], layer[B_KEY])
    if not model[ABSORBED]:
        _linear(thread, model, layer[W_VALUE], dim, inner, rows, _values(model, number), layer[B_VALUE])
    barrier(state, threads)
    for r in range(first, last):
        _finish_row(model, layer, number, r, places[r])
    barrier(state, threads)
    attend(thread, model, layers, number, waves, jobs, width)
    for r in range(first, last):
        _row(model, model[Q], inner, r)
    barrier(state, threads)
    _linear(thread, model, layer[W_OUT], inner, dim, rows, model[Y], layer[B_OUT])
    barrier(state, threads)


@kernel
def _feed_forward(thread: int, model: Row, layer: Row, rows: int) -> None:
    apart()
    dim, inner, threads, state = model[DIM], model[INNER], model[THREADS], model[BARRIER]
    first, last = share(rows, thread, threads)
    for r in range(first, last):
        x = model[X] + 4 * r * dim
        add_row(x, model[Y] + 4 * r * dim, dim, 0)
        if model[PRE_NORM]:
            normed(x, layer[NORM_2], model[Y] + 4 * r * dim, dim, model[TRUE_DIM])
            _row(model, model[Y], dim, r)
        else:
            _row(model, model[X], dim, r)
    barrier(state, threads)
    _linear(thread, model, layer[W_UP], dim, inner, rows, model[UP], layer[B_UP])
    if model[FEED] == SWIGLU:
        _linear(thread, model, layer[W_GATE], dim, inner, rows, model[GATE], layer[B_GATE])
    barrier(state, threads)
    for r in range(first, last):
        activate(model[FEED], model[UP] + 4 * r * inner, model[GATE] + 4 * r * inner, inner)
        _row(model, model[UP], inner, r)
    barrier(state, threads)
    _linear(thread, model, layer[W_DOWN], inner, dim, rows, model[Y], layer[B_DOWN])
    barrier(state, threads)
    for r in range(first, last):
        x = model[X] + 4 * r * dim
        add_row(x, model[Y] + 4 * r * dim, dim, model[FEED] == RELU_RELU)
        if not model[PRE_NORM]:
            normed(x, layer[NORM_1], x, dim, model[TRUE_DIM])


@entry
def step(
    thread: int, model: Row, layers: Table, ids: Row, places: Row, waves: Table,
    jobs: Table, width: int, wanted: Row, inputs: FloatTable,
) -> None:  # fmt: skip
    """places: [N] page·32 + place in it of each new token; inputs: [N or 0, true D] added to the embeddings."""
    first, last = share(len(ids), thread, model[THREADS])
    for r in range(first, last):
        _embed(model, r, ids[r], inputs)
    for number in range(model[LAYERS]):
        _attention(thread, model, layers, number, places, waves, jobs, width)
        _feed_forward(thread, model, layers[number], len(ids))
    _head(thread, model, wanted)
