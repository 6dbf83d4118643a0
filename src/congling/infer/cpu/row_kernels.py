"""Kernels on rows: a matrix times rows, norms, activations, and rows in the form that blocks are multiplied with."""

import numpy as np

from congling.infer.cpu.fields import RELU2, RELU_RELU
from congling.infer.cpu.small_kernels import Floats, apart, entry, exp, floats, ints, kernel, shorts, to_bytes
from congling.infer.cpu.tile_kernels import BF16, BLOCK_BYTES, COLUMNS, FP32, call_product

_EPS = np.float32(1e-6)
_ROWS_TOGETHER = 128  # rows that stay in the second-level cache while a matrix goes past


@kernel
def share(count: int, thread: int, threads: int) -> tuple[int, int]:
    """First and last + 1 of ``count`` things for a thread."""
    return count * thread // threads, count * (thread + 1) // threads


@entry
def number_bytes(kind: int) -> int:
    """Bytes of a number in a row that meets blocks of this kind."""
    return 4 if kind == FP32 else 2 if kind == BF16 else 1


@entry
def row_bytes(kind: int, columns: int) -> int:
    """Bytes of such a row: its numbers, and for integers a float32 scale and an int32 sum for each 32."""
    return columns * number_bytes(kind) if kind <= BF16 else columns + columns // 32 * 8


@entry
def block_bytes(kind: int, columns: int) -> int:
    """Bytes of a block of 32 outputs."""
    return columns // COLUMNS[kind] * BLOCK_BYTES[kind]


@kernel
def block_product(
    function: int, kind: int, block: int, table: int, stride: int, pages: int, columns: int, row: int, gap: int,
    info: int, rows: int, out: int, out_gap: int, bias: int, add: int, ahead: int,
) -> None:  # fmt: skip
    """out[r, 32] (+)= row r · block (+ bias) for any number of rows; columns: a page's; ahead: as ``product``."""
    turns = columns // COLUMNS[kind]
    call_product(function, block, table, stride, pages, turns, row, gap, info, rows, out, out_gap, bias, add, ahead)


@kernel
def multiply(
    function: int, kind: int, matrix: int, columns: int, row: int, rows: int, zero: int, out: int, out_gap: int,
    bias: int, add: int, first: int, last: int,
) -> None:  # fmt: skip
    """out[r, :] (+)= matrix · row r (+ bias) for the blocks of 32 outputs from ``first`` to ``last``."""
    apart()
    size, gap = block_bytes(kind, columns), row_bytes(kind, columns)
    for start in range(0, rows, _ROWS_TOGETHER):
        count = min(_ROWS_TOGETHER, rows - start)
        for b in range(first, last):
            at = bias + 128 * b if bias != 0 else 0
            to = out + start * out_gap + 128 * b
            block_product(
                function, kind, matrix + b * size, zero, 0, 1, columns, row + start * gap, gap, columns, count, to,
                out_gap, at, add, size,
            )  # fmt: skip


@kernel
def to_row(kind: int, source: int, count: int, target: int, info: int) -> None:
    """``count`` float32 in the form that blocks of ``kind`` are multiplied with; info: from a row to its scales."""
    apart()
    x = floats(source, count)
    if kind == FP32:
        y = floats(target, count)
        for i in range(count):
            y[i] = x[i]
    elif kind == BF16:
        bits, short = ints(source, count), shorts(target, count)
        for i in range(count):
            short[i] = np.uint16((np.int64(bits[i]) + 0x7FFF + ((bits[i] >> 16) & 1)) >> 16)
    else:
        for group in range(count // 32):
            to_bytes(source + 128 * group, target + 32 * group, target + info + 8 * group)


@kernel
def inverse_rms(x: Floats, true_count: int) -> np.float32:
    """1/√(mean(x²) + 1e-6); x may be filled up with zeros behind ``true_count``."""
    apart()
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    return np.float32(1) / np.sqrt(total / np.float32(true_count) + _EPS)


@kernel
def normed(source: int, weight: int, target: int, count: int, true_count: int) -> None:
    """RMSNorm of one row; weight 0: none is applied."""
    apart()
    x, y = floats(source, count), floats(target, count)
    scale = inverse_rms(x, true_count)
    w = floats(weight, count)
    for i in range(count):
        y[i] = x[i] * scale * w[i]


@kernel
def activate(feed: int, up: int, gate: int, count: int) -> None:
    """relu², relu or silu(gate)·up, in place of ``up``."""
    apart()
    x = floats(up, count)
    if feed == RELU2:
        for i in range(count):
            positive = max(x[i], np.float32(0))
            x[i] = positive * positive
    elif feed == RELU_RELU:
        for i in range(count):
            x[i] = max(x[i], np.float32(0))
    else:
        g = floats(gate, count)
        for i in range(count):
            x[i] *= g[i] / (np.float32(1) + exp(-g[i]))


@kernel
def add_row(target: int, source: int, count: int, rectify: int) -> None:
    """target += source, of which with ``rectify`` only what is above 0."""
    apart()
    x, y = floats(target, count), floats(source, count)
    if rectify:
        for i in range(count):
            x[i] += max(y[i], np.float32(0))
    else:
        for i in range(count):
            x[i] += y[i]


@kernel
def copy_row(source: int, target: int, count: int) -> None:
    apart()
    x, y = floats(source, count), floats(target, count)
    for i in range(count):
        y[i] = x[i]


@kernel
def clear_row(target: int, first: int, last: int) -> None:
    """Zeros from number ``first`` to ``last``."""
    apart()
    x = floats(target, last)
    for i in range(first, last):
        x[i] = 0
