"""The pieces: packed weights, the product of each kind, with and without AVX-512, exp, the barrier."""

import threading

import numpy as np
import pytest
import torch

pytest.importorskip("numba")
from numba import njit

from congling.infer.cpu import pack as packing
from congling.infer.cpu.product_kernels import product_address
from congling.infer.cpu.row_kernels import block_bytes, row_bytes
from congling.infer.cpu.small_kernels import OPTIONS, barrier, exp
from congling.infer.cpu.tile_kernels import (
    BF16,
    BLOCK_BYTES,
    BYTES,
    COLUMNS,
    FP32,
    INT4,
    INT8,
    call_product,
    product,
)  # fmt: skip

KINDS = {"fp32": FP32, "bf16": BF16, "int8": INT8, "int4": INT4}


@njit(**OPTIONS)
def _fast(function, block, table, pages, turns, row, gap, info, rows, out, bias, add):
    call_product(function, block, table, 4096, pages, turns, row, gap, info, rows, out, 128, bias, add, 64)


@njit(**OPTIONS)
def _general(kind, block, table, pages, turns, row, gap, info, rows, out, bias, add):
    if kind == 0:
        product(0, 1, block, table, 4096, pages, turns, row, gap, info, rows, out, 128, bias, add, 64)
    elif kind == 1:
        product(1, 1, block, table, 4096, pages, turns, row, gap, info, rows, out, 128, bias, add, 64)
    elif kind == 2:
        product(2, 1, block, table, 4096, pages, turns, row, gap, info, rows, out, 128, bias, add, 64)
    elif kind == 3:
        product(3, 1, block, table, 4096, pages, turns, row, gap, info, rows, out, 128, bias, add, 64)
    else:
        product(4, 1, block, table, 4096, pages, turns, row, gap, info, rows, out, 128, bias, add, 64)


def rows_of(kind, x):
    """Float rows as the kernels' rows: (bytes, the numbers that they stand for)."""
    rows, columns = x.shape
    out = packing.aligned(rows * row_bytes(kind, columns)).reshape(rows, -1)
    if kind == FP32:
        out[:] = x.view(np.uint8)
        return out, x
    if kind == BF16:
        short = torch.from_numpy(x).bfloat16()
        out[:] = short.view(torch.uint8).numpy()
        return out, short.float().numpy()
    groups = x.reshape(rows, -1, 32)
    scales = (np.abs(groups).max(-1) / 127).astype(np.float32)
    numbers = np.rint(groups / scales[..., None]).astype(np.int8)
    out[:, :columns] = numbers.reshape(rows, -1).view(np.uint8)
    info = out[:, columns:].view(np.int32).reshape(rows, -1, 2)
    info[..., 0], info[..., 1] = scales.view(np.int32), numbers.sum(-1, dtype=np.int32)
    return out, (numbers * scales[..., None]).reshape(rows, -1)


def unpacked(name, blocks, columns):
    """[32, C] float32 of one packed block."""
    kind = KINDS[name]
    if kind == FP32:
        return blocks.view(np.float32).reshape(columns, 32).T
    if kind == BF16:
        short = torch.from_numpy(blocks.copy()).view(torch.bfloat16).float().numpy()
        return short.reshape(columns // 2, 32, 2).transpose(1, 0, 2).reshape(32, columns)
    parts = blocks.reshape(columns // 64, -1)
    scales = torch.from_numpy(parts[:, :128].copy()).view(torch.bfloat16).float().numpy().reshape(-1, 2, 32)
    if kind == INT8:
        numbers = parts[:, 128:].reshape(-1, 2, 8, 32, 4).astype(np.float32) - 128
    else:
        nibbles = parts[:, 128:].reshape(-1, 2, 1, 4, 32, 4)
        numbers = np.concatenate((nibbles & 15, nibbles >> 4), axis=2).reshape(-1, 2, 8, 32, 4).astype(np.float32) - 8
    return (numbers * scales[:, :, None, :, None]).transpose(3, 0, 1, 2, 4).reshape(32, columns)


@pytest.mark.parametrize(("name", "limit"), [("fp32", 0), ("bf16", 0.002), ("int8", 0.008), ("int4", 0.1)])
def test_packed_weights_are_near_what_was_packed(name, limit):
    matrix = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    matrix[:, 64:96] = 0  # a group of zeros has no scale
    blocks = packing.pack(matrix, name, packing.Arena()).reshape(2, -1)
    found = np.concatenate([unpacked(name, block, 128) for block in blocks])
    error = np.sqrt(np.mean((found - matrix.numpy()) ** 2) / np.mean(matrix.numpy() ** 2))
    assert error <= limit
    assert blocks.shape[1] == block_bytes(KINDS[name], 128)


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("rows", [1, 7, 21])
def test_products_with_and_without_avx512(name, rows):
    kind, rng = KINDS[name], np.random.default_rng(1)
    blocks = packing.pack(torch.from_numpy(rng.standard_normal((32, 128), np.float32)), name, packing.Arena())
    packed, x = rows_of(kind, rng.standard_normal((rows, 128), np.float32))
    bias = rng.standard_normal(32).astype(np.float32)
    wanted = x @ unpacked(name, blocks, 128).T + bias + 1
    zero = np.zeros(1, np.int32)
    results = []
    for run, which in ((_fast, product_address(kind)), (_general, kind)):
        out = np.ones((rows, 32), np.float32)
        run(which, blocks.ctypes.data, zero.ctypes.data, 1, 128 // COLUMNS[kind], packed.ctypes.data, packed.shape[1],
            128, rows, out.ctypes.data, bias.ctypes.data, 1)  # fmt: skip
        np.testing.assert_allclose(out, wanted, atol=2e-5)
        results.append(out)
    if kind >= INT8:  # integers are summed exactly, and scaled in the same order
        np.testing.assert_array_equal(*results)


def test_pages_of_bytes_come_in_the_order_of_the_table():
    rng, pages = np.random.default_rng(1), 3
    memory = packing.aligned(4096 * 4)
    numbers = rng.integers(0, 256, (4, 8, 32, 4), dtype=np.uint8)  # [page, step, output, column]
    memory.reshape(4, 4096)[:, : BLOCK_BYTES[BYTES]] = numbers.reshape(4, -1)
    table = np.array([2, 0, 3], np.int32)
    packed, x = rows_of(BYTES, rng.standard_normal((5, 32 * pages), np.float32))
    matrix = (numbers[table].astype(np.float32) - 128).transpose(2, 0, 1, 3).reshape(32, -1)
    results = []
    for run, which in ((_fast, product_address(BYTES)), (_general, BYTES)):
        out = np.zeros((5, 32), np.float32)
        run(which, memory.ctypes.data, table.ctypes.data, pages, 1, packed.ctypes.data, packed.shape[1], 32 * pages, 5,
            out.ctypes.data, 0, 0)  # fmt: skip
        np.testing.assert_allclose(out, x @ matrix.T, rtol=1e-4, atol=1e-3)
        results.append(out)
    np.testing.assert_array_equal(*results)


@njit(**OPTIONS)
def _exp_all(x):
    for i in range(len(x)):
        x[i] = exp(x[i])


def test_exp():
    x = np.linspace(-87, 88, 10_001, dtype=np.float32)
    y = x.copy()
    _exp_all(y)
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=3e-7)
    low = np.array([-1e30, -200.0], np.float32)
    _exp_all(low)
    assert (low < 1e-37).all()


@njit(**OPTIONS)
def _meet(thread, state, threads, counts, rounds):
    for n in range(rounds):
        counts[thread] += 1
        barrier(state, threads)
        if counts.min() != n + 1:
            counts[thread] = -1_000_000
        barrier(state, threads)


def test_nobody_passes_the_barrier_before_all_are_there():
    state, counts = packing.aligned(128), np.zeros(3, np.int64)
    threads = [threading.Thread(target=_meet, args=(t, state.ctypes.data, 3, counts, 50)) for t in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.tolist() == [50] * 3
