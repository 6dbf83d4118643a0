"""Small pieces of the CPU kernels: views of raw memory, exp, atomics, turning a page of the cache."""

import os
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from congling.infer.cpu.tile_kernels import _I32, _VI, BYTES, FP32

# No "nnan", "ninf": they change nothing here; sums may be taken in another order, the same for every row.
FAST = {"reassoc", "contract", "arcp", "nsz"}
OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": FAST, "error_model": "numpy"}
_F32, _I64 = ir.FloatType(), ir.IntType(64)
Row = Annotated[NDArray[np.int64], types.int64[::1]]  # of a table
Table = Annotated[NDArray[np.int64], types.int64[:, ::1]]
Floats = Annotated[NDArray[np.float32], types.float32[::1]]
FloatTable = Annotated[NDArray[np.float32], types.float32[:, ::1]]
_TYPES = {
    int: types.int64, bool: types.boolean, np.float32: types.float32, np.uint8: types.uint8, np.uint16: types.uint16,
    None: types.void, tuple[int, int]: types.UniTuple(types.int64, 2),
}  # fmt: skip


def kernel(function: Callable[..., Any]) -> Any:
    """njit for the types of the annotations: compiled once, where numba would for each constant among the arguments."""
    return njit(_signature(function), no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)


def entry(function: Callable[..., Any]) -> Any:
    """``kernel`` that Python may call."""
    return njit(_signature(function), no_cfunc_wrapper=True, **OPTIONS)(function)


def _signature(function: Callable[..., Any]) -> Any:
    kinds = [
        annotation.__metadata__[0] if hasattr(annotation, "__metadata__") else _TYPES[annotation]
        for annotation in function.__annotations__.values()
    ]
    return kinds[-1](*kinds[:-1])


@intrinsic
def apart(typingctx: Any) -> Any:
    """First line of a function that is not to be compiled again into each of its callers."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """address -> a pointer to numbers of the type of ``like``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return types.CPointer(like)(types.int64, like), codegen


@njit(**OPTIONS)
def floats(address: int, count: int) -> Any:
    """The ``count`` float32 at ``address``."""
    return carray(_pointer(address, np.float32(0)), (count,))


@njit(**OPTIONS)
def ints(address: int, count: int) -> Any:
    return carray(_pointer(address, np.int32(0)), (count,))


@njit(**OPTIONS)
def shorts(address: int, count: int) -> Any:
    return carray(_pointer(address, np.uint16(0)), (count,))


@njit(**OPTIONS)
def octets(address: int, count: int) -> Any:
    return carray(_pointer(address, np.uint8(0)), (count,))


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """eˣ of a float32 within 2 units of the last place (x < −87: 0 or nearly), in code that LLVM turns into vectors."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        b = builder

        def number(value: float) -> Any:
            return ir.Constant(_F32, float(np.float32(value)))

        def call(name: str, *values: Any) -> Any:
            kind = ir.FunctionType(_F32, [_F32] * len(values))
            return b.call(cgutils.get_or_insert_function(b.module, kind, name), values)

        # comparisons, where minnum and maxnum would cost three operations each for what is not a number
        x = b.select(b.fcmp_ordered(">", args[0], number(-87.3)), args[0], number(-87.3))
        x = b.select(b.fcmp_ordered("<", x, number(88.7)), x, number(88.7))
        power = call("llvm.rint.f32", b.fmul(x, number(1.4426950408889634)))  # x = power·ln 2 + rest
        rest = call("llvm.fma.f32", power, number(-0.693145751953125), x)
        rest = call("llvm.fma.f32", power, number(-1.428606765330187e-06), rest)
        value = number(1 / 720)
        for factor in (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
            value = call("llvm.fma.f32", value, rest, number(factor))
        bits = b.shl(b.add(b.fptosi(power, _I32), ir.Constant(_I32, 127)), ir.Constant(_I32, 23))
        return b.fmul(value, b.bitcast(bits, _F32))

    return types.float32(types.float32), codegen


@intrinsic
def larger(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger of two float32 that are numbers: unlike ``max`` a loop of it becomes vectors."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        call = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_F32, [_F32] * 2), "llvm.maxnum.f32")
        return builder.call(call, args, fastmath=("nnan", "nsz"))

    return types.float32(types.float32, types.float32), codegen


@intrinsic
def to_bytes(typingctx: Any, source: Any, target: Any, info: Any) -> Any:
    """32 float32 as int8, a float32 scale and an int32 sum of them; all three are addresses."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        b, (source, target, info) = builder, args
        wide, integers = ir.VectorType(_F32, 32), ir.VectorType(_I32, 32)

        def call(name: str, result: ir.Type, *values: Any) -> Any:
            kind = ir.FunctionType(result, [v.type for v in values])
            flags = () if result == _I32 else ("nnan", "nsz")
            return b.call(cgutils.get_or_insert_function(b.module, kind, name), values, fastmath=flags)

        def all_of(x: Any) -> Any:
            return b.shuffle_vector(b.insert_element(zero, x, ir.Constant(_I32, 0)), zero, ir.Constant(integers, None))

        def put(x: Any, offset: int, address: Any) -> None:
            b.store(x, b.inttoptr(b.add(address, ir.Constant(_I64, offset)), ir.PointerType(x.type)), align=4)

        zero, most, none = ir.Constant(wide, None), ir.Constant(_F32, 127.0), ir.Constant(_F32, 0.0)
        x = b.load(b.inttoptr(source, ir.PointerType(wide)), align=4, typ=wide)
        largest = call("llvm.vector.reduce.fmax.v32f32", _F32, call("llvm.fabs.v32f32", wide, x))
        inverse = b.select(b.fcmp_ordered(">", largest, none), b.fdiv(most, largest), none)
        shifted = call("llvm.fma.v32f32", wide, x, all_of(inverse), ir.Constant(wide, [0.5] * 32))
        whole = b.fptosi(call("llvm.floor.v32f32", wide, shifted), integers)
        put(b.trunc(whole, ir.VectorType(ir.IntType(8), 32)), 0, target)
        put(b.fdiv(largest, most), 0, info)
        put(call("llvm.vector.reduce.add.v32i32", _I32, whole), 4, info)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def scale_32(typingctx: Any, source: Any, scales: Any, target: Any) -> Any:
    """32 float32 times 32 others; all three are addresses."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        kind = ir.VectorType(_F32, 32)
        places = [builder.inttoptr(address, ir.PointerType(kind)) for address in args]
        a, b = (builder.load(place, align=4, typ=kind) for place in places[:2])
        builder.store(builder.fmul(a, b), places[2], align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def atomic_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Adds to the int64 at ``address``; returns what was there."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.inttoptr(args[0], ir.PointerType(_I64)), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx: Any, address: Any) -> Any:
    """The int64 at ``address`` as the other threads have written it."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], ir.PointerType(_I64)), "seq_cst", 8, typ=_I64)

    return types.int64(types.int64), codegen


@intrinsic
def yield_core(typingctx: Any) -> Any:
    """Lets another thread run."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if hasattr(os, "sched_yield"):  # not on Windows
            call = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I32, []), "sched_yield")
            builder.call(call, [])
        return context.get_dummy_value()

    return types.void(), codegen


@kernel
def barrier(state: int, threads: int) -> None:
    """All ``threads`` meet here. state: address of two int64, arrived and rounds, a cache line apart."""
    if threads == 1:
        return
    rounds = atomic_load(state + 64)
    if atomic_add(state, 1) == threads - 1:
        atomic_add(state, -threads)
        atomic_add(state + 64, 1)
        return
    tries = 0
    while atomic_load(state + 64) == rounds:
        tries += 1
        if tries > 2000:  # a machine with more to do than cores: do not burn what others need
            yield_core()


@intrinsic(prefer_literal=True)
def turn_chunk(typingctx: Any, kind: Any, rows_only: Any, source: Any, target: Any, target_row: Any) -> Any:
    """16 tokens × 64 bytes of columns from where tokens are the outputs to where they are the columns.

    source: address of 16 vectors of 16 tokens, 128 bytes apart. target: of vectors 64 bytes long, those of the same
    columns ``target_row`` bytes apart. kind: fp32: [token][16 columns]; bf16: two vectors for each two tokens, whose
    columns alternate; bytes: four for each four. With rows_only each token's 64 bytes are left as they are, in order.
    """
    kind_value, rows_value = kind.literal_value, rows_only.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        source, target, target_row = args[2:]
        vectors = _transposed(builder, [_load(builder, source, 128 * i) for i in range(16)])
        together = 1 if rows_value or kind_value == FP32 else 4 if kind_value == BYTES else 2
        for first in range(0, 16, together):
            parts = _alternate(builder, vectors[first : first + together])
            for part, vector in enumerate(parts):
                at = builder.add(target, builder.mul(target_row, ir.Constant(_I64, first // together)))
                at = builder.add(at, ir.Constant(_I64, _place(together, part)))
                builder.store(vector, builder.inttoptr(at, ir.PointerType(_VI)), align=4)
        return context.get_dummy_value()

    return types.void(kind, rows_only, *[types.int64] * 3), codegen


def _place(together: int, part: int) -> int:
    """Bytes from the first vector: two vectors of 16 outputs make a line of a block; the next block is far."""
    return part % 2 * 64 + part // 2 * 1024


def _load(builder: ir.IRBuilder, address: Any, offset: int) -> Any:
    at = builder.add(address, ir.Constant(_I64, offset))
    return builder.load(builder.inttoptr(at, ir.PointerType(_VI)), align=64, typ=_VI)


def _shuffled(builder: ir.IRBuilder, a: Any, b: Any, order: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_I32, len(order)), order)
    return builder.shuffle_vector(a, b, mask)


def _transposed(builder: ir.IRBuilder, vectors: list[Any]) -> list[Any]:
    """16 vectors of 16 -> lane i of vector j becomes lane j of vector i, in four rounds of exchanging halves."""
    for size in (8, 4, 2, 1):
        low = [lane if not lane & size else lane - size + 16 for lane in range(16)]
        high = [lane + size if not lane & size else lane + 16 for lane in range(16)]
        for i in range(16):
            if not i & size:
                a, b = vectors[i], vectors[i + size]
                vectors[i], vectors[i + size] = _shuffled(builder, a, b, low), _shuffled(builder, a, b, high)
    return vectors


def _alternate(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """n vectors of a token each -> n vectors in which the numbers of the tokens alternate, first columns first."""
    n = len(rows)
    if n == 1:
        return rows
    bits = 32 // n
    kind = ir.VectorType(ir.IntType(bits), 16 * n)
    if n == 2:
        return _zipped(builder, [builder.bitcast(r, kind) for r in rows], 16 * n)
    pairs = [_zipped(builder, [builder.bitcast(r, kind) for r in rows[i : i + 2]], 16 * n) for i in (0, 2)]
    wide = ir.VectorType(ir.IntType(16), 32)
    result = []
    for part in range(2):
        halves = [builder.bitcast(pair[part], wide) for pair in pairs]
        result += _zipped(builder, halves, 32)
    return result


def _zipped(builder: ir.IRBuilder, two: list[Any], count: int) -> list[Any]:
    """Two vectors of ``count`` numbers -> two in which theirs alternate, as 32-bit lanes."""
    parts = []
    for start in (0, count // 2):
        order = [start + i // 2 + (count if i % 2 else 0) for i in range(count)]
        parts.append(builder.bitcast(_shuffled(builder, two[0], two[1], order), _VI))
    return parts
