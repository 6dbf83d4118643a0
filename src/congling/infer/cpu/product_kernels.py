"""``product`` of each kind, compiled when a model needs it, to be called by address."""

from typing import Any

from numba import cfunc, types

from congling.infer.cpu.tile_kernels import BF16, BYTES, FP32, GENERIC, INT4, INT8, product

_SIGNATURE = types.void(*[types.int64] * 14)
_compiled: dict[int, Any] = {}


def _fp32(
    block: int, table: int, stride: int, pages: int, turns: int, row: int, gap: int, info: int, rows: int, out: int,
    out_gap: int, bias: int, add: int, ahead: int,
) -> None:  # fmt: skip
    product(FP32, GENERIC, block, table, stride, pages, turns, row, gap, info, rows, out, out_gap, bias, add, ahead)


def _bf16(
    block: int, table: int, stride: int, pages: int, turns: int, row: int, gap: int, info: int, rows: int, out: int,
    out_gap: int, bias: int, add: int, ahead: int,
) -> None:  # fmt: skip
    product(BF16, GENERIC, block, table, stride, pages, turns, row, gap, info, rows, out, out_gap, bias, add, ahead)


def _int8(
    block: int, table: int, stride: int, pages: int, turns: int, row: int, gap: int, info: int, rows: int, out: int,
    out_gap: int, bias: int, add: int, ahead: int,
) -> None:  # fmt: skip
    product(INT8, GENERIC, block, table, stride, pages, turns, row, gap, info, rows, out, out_gap, bias, add, ahead)


def _int4(
    block: int, table: int, stride: int, pages: int, turns: int, row: int, gap: int, info: int, rows: int, out: int,
    out_gap: int, bias: int, add: int, ahead: int,
) -> None:  # fmt: skip
    product(INT4, GENERIC, block, table, stride, pages, turns, row, gap, info, rows, out, out_gap, bias, add, ahead)


def _bytes(
    block: int, table: int, stride: int, pages: int, turns: int, row: int, gap: int, info: int, rows: int, out: int,
    out_gap: int, bias: int, add: int, ahead: int,
) -> None:  # fmt: skip
    product(BYTES, GENERIC, block, table, stride, pages, turns, row, gap, info, rows, out, out_gap, bias, add, ahead)


def product_address(kind: int) -> int:
    """Address of the machine code; the memory is kept."""
    if kind not in _compiled:
        body = (_fp32, _bf16, _int8, _int4, _bytes)[kind]
        _compiled[kind] = cfunc(_SIGNATURE, cache=True)(body)
    address: int = _compiled[kind].address
    return address
