"""The one kernel under everything: some rows of numbers times a block of 32 outputs, as LLVM vector code.

A block has its 32 outputs side by side and columns (what is summed over) below one another, so that a 64-byte load
meets one broadcast number (or two bf16, four int8) of a row, and nothing is summed across a vector. Weights, cached
keys (outputs: the tokens of a page), cached values (columns: the tokens) and layer inputs are all such blocks.

Every row has the same order of sums, whatever stands beside it: bits never depend on the batch. On machines without
AVX-512 the same code is made of general vector operations, which LLVM fits to any processor.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

FP32, BF16, INT8, INT4, BYTES = range(5)  # BYTES: int8 without scales of the block (caches)
LANES, GROUP = 32, 32  # outputs of a block; columns that share a scale in rows of int8
# By kind: columns a turn of the loop, bytes of a block's columns in it, bytes of a row's numbers in it
COLUMNS = (8, 16, 64, 64, 32)
BLOCK_BYTES = (1024, 1024, 2176, 1152, 1024)
ROW_BYTES = (32, 32, 64, 64, 32)
# By kind: rows done together. Measured: integers keep a second set of sums, for which 8 rows leave no registers.
TILES = ((8, 4, 1), (8, 4, 1), (4, 1), (4, 1), (4, 1))
_OFFSET = (0, 0, 128, 8, 128)  # integers of a block are unsigned: stored + offset

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_VI, _VF = ir.VectorType(_I32, 16), ir.VectorType(_F32, 16)


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_VB = ir.VectorType(_BFloat(), 32)


def host_features() -> frozenset[str]:
    """Instruction sets of this processor, in LLVM's names."""
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)


GENERIC = int(not {"avx512f", "avx512bw", "avx512vnni", "avx512bf16"} <= host_features())


class _Tile:
    """Emits the code of one kind for a number of rows."""

    def __init__(self, builder: ir.IRBuilder, kind: int, rows: int, generic: bool) -> None:
        self.b, self.kind, self.rows, self.generic = builder, kind, rows, generic
        self.next: tuple[Any, Any] | None = None  # where to fetch, and cache lines a turn
        self.sums = [[self._new_sum(_VF) for _ in range(2)] for _ in range(rows)]

    def _new_sum(self, kind: ir.Type) -> Any:
        place = cgutils.alloca_once(self.b, kind)
        self.b.store(ir.Constant(kind, None), place)
        return place

    def plan_ahead(self, group: Any, groups: Any, turns: Any, block: Any, ahead: Any) -> None:
        """Group ``group`` of the rows is to fetch its part of what is ``ahead`` of the block.

        All groups but the first fetch a whole block together; the first reads its own, when nobody fetched that before.
        With one group, or with 0 ahead, nothing is fetched.
        """
        b, none = self.b, ir.Constant(_I64, 0)
        one, some = ir.Constant(_I64, 1), BLOCK_BYTES[self.kind] // 64
        earlier, others = b.sub(group, one), b.sub(groups, one)
        useful = b.and_(b.icmp_signed(">", group, none), b.icmp_signed("!=", ahead, none))
        others = b.select(useful, others, one)
        lines = b.sdiv(b.add(others, ir.Constant(_I64, some - 1)), others)
        place = cgutils.alloca_once(b, _I64)
        b.store(b.add(b.add(block, ahead), b.mul(b.mul(earlier, turns), b.mul(lines, ir.Constant(_I64, 64)))), place)
        self.next = place, b.select(useful, lines, none)

    def fetch_next(self) -> None:
        """A turn's cache lines of what is planned."""
        if self.next is None:
            return
        place, lines = self.next
        with cgutils.for_range(self.b, lines):
            at = self.b.load(place)
            self.fetch_line(at)
            self.b.store(self.b.add(at, ir.Constant(_I64, 64)), place)

    def load(self, address: Any, offset: int, kind: ir.Type, align: int = 1) -> Any:
        at = self.b.add(address, ir.Constant(_I64, offset)) if offset else address
        return self.b.load(self.b.inttoptr(at, ir.PointerType(kind)), align=align, typ=kind)

    def splat(self, x: Any) -> Any:
        vector = ir.VectorType(x.type, 16)
        one = self.b.insert_element(ir.Constant(vector, ir.Undefined), x, ir.Constant(_I32, 0))
        return self.b.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(_VI, None))

    def call(self, name: str, result: ir.Type, *args: Any) -> Any:
        signature = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, signature, name), args)

    def turn(self, block: Any, row: Any, stride: Any, info: Any) -> None:
        """One turn of the loop. Addresses: of the block's part, of the row's part, of its scales and sums.

        Its own block is not fetched ahead: that cost 10 % of the bandwidth, the processor does it better.
        """
        rows = [self.b.add(row, self.b.mul(stride, ir.Constant(_I64, r))) for r in range(self.rows)]
        infos = [self.b.add(info, self.b.mul(stride, ir.Constant(_I64, r))) for r in range(self.rows)]
        if self.kind in (FP32, BF16):
            self._steps(8, lambda step: self._float_step(block, rows, step))
            return
        for group in range(COLUMNS[self.kind] // GROUP):
            self._integers(block, group, rows, infos)

    def _steps(self, count: int, body: Callable[[Any], None]) -> None:
        """``count`` steps one after another; in the code of many rows as a loop: it would be long to compile."""
        if self.rows <= 4:
            for step in range(count):
                body(ir.Constant(_I64, step))
        else:
            with cgutils.for_range(self.b, ir.Constant(_I64, count)) as loop:
                body(loop.index)

    def _at(self, address: Any, step: Any, size: int) -> Any:
        return self.b.add(address, self.b.mul(step, ir.Constant(_I64, size)))

    def _float_step(self, block: Any, rows: list[Any], step: Any) -> None:
        line = self._at(block, step, 128)
        blocks = [self.load(line, 64 * half, _VI, 64) for half in range(2)]
        for r in range(self.rows):
            number = self.splat(self.load(self._at(rows[r], step, 4), 0, _I32, 4))
            for half in range(2):
                place = self.sums[r][half]
                self.b.store(self._float_dot(self.b.load(place), blocks[half], number), place)

    def fetch(self, address: Any) -> None:
        """Asks for the part of a block at ``address``: caches come in pieces too short for the processor to foresee."""
        for offset in range(0, BLOCK_BYTES[self.kind], 64):
            self.fetch_line(self.b.add(address, ir.Constant(_I64, offset)))

    def fetch_line(self, address: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(_I8), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0")
        at = self.b.inttoptr(address, ir.PointerType(_I8))
        self.b.call(function, [at, *(ir.Constant(_I32, n) for n in (0, 2, 1))])  # to read, second level, data

    def _float_dot(self, total: Any, block: Any, number: Any) -> Any:
        b = self.b
        if self.kind == FP32:
            return self.call("llvm.fma.v16f32", _VF, b.bitcast(block, _VF), b.bitcast(number, _VF), total)
        if not self.generic:
            pair = b.bitcast(block, _VB), b.bitcast(number, _VB)
            return self.call("llvm.x86.avx512bf16.dpbf16ps.512", _VF, total, *pair)
        sixteen, high = self.splat(ir.Constant(_I32, 16)), self.splat(ir.Constant(_I32, -65536))
        for part in (lambda x: b.shl(x, sixteen), lambda x: b.and_(x, high)):
            total = self.call("llvm.fma.v16f32", _VF, b.bitcast(part(block), _VF), b.bitcast(part(number), _VF), total)
        return total

    def _integers(self, block: Any, group: int, rows: list[Any], infos: list[Any]) -> None:
        """32 columns: integers are summed exactly, from −offset·Σ row on, then scaled into the float sums."""
        b = self.b
        totals = [[self._new_sum(_VI) for _ in range(2)] for _ in range(self.rows)]
        for r in range(self.rows):
            start = b.mul(self.load(infos[r], 8 * group + 4, _I32, 4), ir.Constant(_I32, -_OFFSET[self.kind]))
            for half in range(2):
                b.store(self.splat(start), totals[r][half])
        steps = 4 if self.kind == INT4 else 8
        self._steps(steps, lambda step: self._integer_step(block, group, rows, totals, step))
        scales = [self._scale(block, group, half) for half in range(2)]
        for r in range(self.rows):
            factor = self.splat(self.load(infos[r], 8 * group, _F32, 4))
            for half in range(2):
                place, scale = self.sums[r][half], scales[half]
                both = factor if scale is None else b.fmul(factor, scale)
                total = b.sitofp(b.load(totals[r][half]), _VF)
                b.store(self.call("llvm.fma.v16f32", _VF, total, both, b.load(place)), place)

    def _integer_step(self, block: Any, group: int, rows: list[Any], totals: list[list[Any]], step: Any) -> None:
        """Columns 4·step … of the 32, with int4 also those 16 further on, which share their bytes."""
        for later, blocks in enumerate(self._quads(block, group, step)):
            for r in range(self.rows):
                four = self.splat(self.load(self._at(rows[r], step, 4), GROUP * group + 16 * later, _I32, 4))
                for half in range(2):
                    place = totals[r][half]
                    self.b.store(self._integer_dot(self.b.load(place), blocks[half], four), place)

    def _quads(self, block: Any, group: int, step: Any) -> list[list[Any]]:
        """[part][half] of 16 lanes of four unsigned columns each."""
        b, line = self.b, self._at(block, step, 128)
        start = {INT8: 128 + 1024 * group, INT4: 128 + 512 * group, BYTES: 0}[self.kind]
        loaded = [self.load(line, start + 64 * half, _VI, 64) for half in range(2)]
        if self.kind != INT4:
            return [loaded]
        mask, four = self.splat(ir.Constant(_I32, 0x0F0F0F0F)), self.splat(ir.Constant(_I32, 4))
        return [[b.and_(x, mask) for x in loaded], [b.and_(b.lshr(x, four), mask) for x in loaded]]

    def _scale(self, block: Any, group: int, half: int) -> Any:
        if self.kind == BYTES:
            return None
        short = self.load(block, 64 * group + 32 * half, ir.VectorType(_I16, 16), 32)
        return self.b.bitcast(self.b.shl(self.b.zext(short, _VI), self.splat(ir.Constant(_I32, 16))), _VF)

    def _integer_dot(self, total: Any, block: Any, four: Any) -> Any:
        b = self.b
        if not self.generic:
            return self.call("llvm.x86.avx512.vpdpbusd.512", _VI, total, block, four)
        for place in range(4):
            up, down = self.splat(ir.Constant(_I32, 24 - 8 * place)), self.splat(ir.Constant(_I32, 24))
            unsigned, signed = b.lshr(b.shl(block, up), down), b.ashr(b.shl(four, up), down)
            total = b.add(total, b.mul(unsigned, signed))
        return total


@intrinsic(prefer_literal=True)
def product(
    typingctx: Any, kind: Any, generic: Any, block: Any, table: Any, page_stride: Any, pages: Any, turns: Any, row: Any,
    row_stride: Any, info: Any, rows: Any, out: Any, out_stride: Any, bias: Any, add: Any, ahead: Any,
) -> Any:  # fmt: skip
    """out[r, 32] (+)= row r · block (+ bias) for ``rows`` rows; all places are addresses, strides bytes.

    The block may come in ``pages`` pieces: piece p at block + table[p]·page_stride, each of ``turns`` turns; the row's
    numbers go on from piece to piece. info: from a row to its (float32 scale, int32 sum) of each 32 columns. bias: an
    address or 0. add: 1 adds to what is in ``out``. ahead: bytes from the block to what is wanted after it, which many
    rows leave time to fetch; 0 for nothing.
    """
    kind_value, generic_value = kind.literal_value, bool(generic.literal_value)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        *given, rows, out, out_stride, bias, add, ahead = args[2:]
        done = ir.Constant(_I64, 0)
        for together in TILES[kind_value]:
            times = builder.sdiv(builder.sub(rows, done), ir.Constant(_I64, together))
            with cgutils.for_range(builder, times) as loop:
                first = builder.add(done, builder.mul(loop.index, ir.Constant(_I64, together)))
                block, table, page_stride, pages, turns, row, row_stride, info = given
                row = builder.add(row, builder.mul(first, row_stride))
                tile = _Tile(builder, kind_value, together, generic_value)
                if together == TILES[kind_value][0]:  # nearly all rows
                    tile.plan_ahead(loop.index, times, turns, block, ahead)
                _sum(tile, block, table, page_stride, pages, turns, row, row_stride, info)
                _finish(tile, builder.add(out, builder.mul(first, out_stride)), out_stride, bias, add)
            done = builder.add(done, builder.mul(times, ir.Constant(_I64, together)))
        return context.get_dummy_value()

    return types.void(kind, generic, *[types.int64] * 14), codegen


def _sum(
    t: _Tile, block: Any, table: Any, page_stride: Any, pages: Any, turns: Any, row: Any, row_stride: Any, info: Any
) -> None:
    """The loops over pieces and turns."""
    b = t.b

    def times(x: Any, count: int) -> Any:
        return b.mul(x, ir.Constant(_I64, count))

    with cgutils.for_range(b, pages) as page:
        number = b.sext(t.load(b.add(table, times(page.index, 4)), 0, _I32, 4), _I64)
        base, done = b.add(block, b.mul(number, page_stride)), b.mul(page.index, turns)
        if t.kind in (FP32, BF16, BYTES) and t.rows == 1:
            with b.if_then(b.icmp_signed("!=", page_stride, ir.Constant(_I64, 0))):
                _fetch_piece(t, base, turns)
        with cgutils.for_range(b, turns) as turn:
            count = b.add(done, turn.index)
            scales = b.add(b.add(row, info), times(count, 8 * COLUMNS[t.kind] // GROUP))
            numbers = b.add(row, times(count, ROW_BYTES[t.kind]))
            t.turn(b.add(base, times(turn.index, BLOCK_BYTES[t.kind])), numbers, row_stride, scales)
            t.fetch_next()


def _fetch_piece(t: _Tile, base: Any, turns: Any) -> None:
    """The piece of the fourth block from here, those between being near already: weights have no pieces, caches do."""
    b = t.b
    with cgutils.for_range(b, turns) as turn:
        place = b.add(turn.index, b.mul(turns, ir.Constant(_I64, 4)))
        t.fetch(b.add(base, b.mul(place, ir.Constant(_I64, BLOCK_BYTES[t.kind]))))


def _finish(t: _Tile, out: Any, out_stride: Any, bias: Any, add: Any) -> None:
    b = t.b
    zero = ir.Constant(_I64, 0)
    for r in range(t.rows):
        for half in range(2):
            at = b.add(b.add(out, b.mul(out_stride, ir.Constant(_I64, r))), ir.Constant(_I64, 64 * half))
            place = t.sums[r][half]
            for wanted, source in ((bias, b.add(bias, ir.Constant(_I64, 64 * half))), (add, at)):
                with b.if_then(b.icmp_signed("!=", wanted, zero)):
                    b.store(b.fadd(b.load(place), t.load(source, 0, _VF, 4)), place)
            b.store(b.load(place), b.inttoptr(at, ir.PointerType(_VF)), align=4)


@intrinsic
def call_product(
    typingctx: Any, function: Any, block: Any, table: Any, page_stride: Any, pages: Any, turns: Any, row: Any,
    row_stride: Any, info: Any, rows: Any, out: Any, out_stride: Any, bias: Any, add: Any, ahead: Any,
) -> Any:  # fmt: skip
    """``product`` at an address: its code is large, and numba would compile it again into each of its callers."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64] * 14)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 15), codegen
