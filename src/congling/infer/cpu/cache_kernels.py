"""Kernels on the pages of the cache: where what lies, tokens written and read.

A page of a layer holds 32 tokens. Keys and values: for each head a block in which the tokens are the outputs (keys),
then for each head blocks in which they are the columns (values), and for int8 32 scales of each. Layer inputs: one
block with the tokens as outputs, for int8 32 scales, with normed keys 32 times 1/rms for each head.
"""

import numpy as np

from congling.infer.cpu.fields import DIM, HEAD, HEADS, PAGE, TRUE_HEAD
from congling.infer.cpu.row_kernels import inverse_rms, number_bytes
from congling.infer.cpu.small_kernels import Row, apart, entry, floats, ints, kernel, larger, octets, shorts, turn_chunk
from congling.infer.cpu.tile_kernels import BF16, BYTES, FP32


@entry
def heads_bytes(kind: int, heads: int, width: int) -> int:
    """Bytes of the keys and values of all heads in a page."""
    return 2 * heads * (PAGE * width * number_bytes(kind) + (PAGE * 4 if kind == BYTES else 0))


@kernel
def head_block(kind: int, width: int, place: int) -> int:
    """Bytes from a page to its keys of head ``place``, or its values of head ``place`` − heads."""
    return place * PAGE * width * number_bytes(kind)


@kernel
def head_scales(heads: int, width: int, place: int) -> int:
    """The same for the 32 scales of int8."""
    return 2 * heads * PAGE * width + place * PAGE * 4


@entry
def input_bytes(kind: int, width: int, normed_heads: int) -> int:
    """Bytes of the layer inputs in a page."""
    return PAGE * width * number_bytes(kind) + (PAGE * 4 if kind == BYTES else 0) + 4 * PAGE * normed_heads


@kernel
def input_scales(page: int, kind: int, width: int) -> int:
    """Address of the scales of 32 tokens' layer inputs."""
    return page + PAGE * width * number_bytes(kind)


@kernel
def _byte_factor(source: int, count: int, scale: int) -> np.float32:
    """127/largest of the float32; writes largest/127."""
    apart()
    x, largest = floats(source, count), np.float32(0)
    for c in range(count):
        largest = larger(largest, abs(x[c]))
    floats(scale, 1)[0] = largest / np.float32(127)
    return np.float32(127) / largest if largest > 0 else np.float32(0)


@kernel
def _short(source: int, place: int) -> np.uint16:
    """Number ``place`` of the float32 at ``source``, rounded to bf16."""
    bits = np.int64(ints(source, place + 1)[place])
    return np.uint16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


@kernel
def _byte(x: np.float32, factor: np.float32) -> np.uint8:
    return np.uint8(np.int32(np.floor(x * factor + np.float32(0.5))) + 128)


@kernel
def put_as_output(kind: int, block: int, token: int, source: int, count: int, scale: int) -> None:
    """Writes a token's float32 into a block of which it is an output; scale: address of the block's 32 scales."""
    apart()
    x = floats(source, count)
    if kind == FP32:
        y = floats(block, count * PAGE)
        for c in range(count):
            y[c * PAGE + token] = x[c]
    elif kind == BF16:
        short = shorts(block, count * PAGE)
        for c in range(count):
            short[(c // 2 * PAGE + token) * 2 + c % 2] = _short(source, c)
    else:
        factor = _byte_factor(source, count, scale + 4 * token)
        byte = octets(block, count * PAGE)
        for c in range(count):
            byte[(c // 4 * PAGE + token) * 4 + c % 4] = _byte(x[c], factor)


@kernel
def put_as_column(kind: int, blocks: int, token: int, source: int, count: int, scale: int) -> None:
    """Writes a token's float32 into count/32 blocks of which it is a column."""
    apart()
    x = floats(source, count)
    if kind == FP32:
        y = floats(blocks, count * PAGE)
        for c in range(count):
            y[c // 32 * 1024 + token * 32 + c % 32] = x[c]
    elif kind == BF16:
        short = shorts(blocks, count * PAGE)
        for c in range(count):
            short[c // 32 * 1024 + (token // 2 * 32 + c % 32) * 2 + token % 2] = _short(source, c)
    else:
        factor = _byte_factor(source, count, scale + 4 * token)
        byte = octets(blocks, count * PAGE)
        for c in range(count):
            byte[c // 32 * 1024 + (token // 4 * 32 + c % 32) * 4 + token % 4] = _byte(x[c], factor)


@kernel
def put_key_value(model: Row, kind: int, page: int, token: int, key: int, value: int) -> None:
    """Writes a token's keys and values of all heads into a page of a layer."""
    apart()
    heads, width = model[HEADS], model[HEAD]
    for h in range(heads):
        at, scales = page + head_block(kind, width, h), page + head_scales(heads, width, h)
        put_as_output(kind, at, token, key + 4 * h * width, width, scales)
        at, scales = page + head_block(kind, width, heads + h), page + head_scales(heads, width, heads + h)
        put_as_column(kind, at, token, value + 4 * h * width, width, scales)


@kernel
def put_inverse_rms(model: Row, kind: int, page: int, token: int, key: int) -> None:
    """Writes 1/rms of a token's keys, behind the layer inputs."""
    apart()
    width = model[HEAD]
    rms = floats(page + input_bytes(kind, model[DIM], 0), model[HEADS] * PAGE)
    for h in range(model[HEADS]):
        rms[h * PAGE + token] = inverse_rms(floats(key + 4 * h * width, width), model[TRUE_HEAD])


@kernel
def turn_page(kind: int, page: int, target: int, first: int, last: int) -> None:
    """Layer inputs of a page, from a block with the tokens as outputs into blocks with them as columns.

    first, last: which 64 columns; the blocks are placed as if all were there.
    """
    apart()
    size = number_bytes(kind)
    for half in range(2):
        for chunk in range(first * size, last * size):
            source = page + chunk * 2048 + 64 * half
            if kind == FP32:
                turn_chunk(FP32, 0, source, target + chunk // 2 * 4096 + chunk % 2 * 64 + half * 2048, 128)
            elif kind == BF16:
                turn_chunk(BF16, 0, source, target + chunk * 2048 + half * 1024, 128)
            else:
                turn_chunk(BYTES, 0, source, target + chunk * 2048 + half * 512, 128)


@kernel
def read_inputs(kind: int, width: int, page: int, factor: np.float32, target: int, spare: int) -> None:
    """Layer inputs of a page times ``factor``, as 32 rows of float32; spare: room for as many, 64-aligned."""
    apart()
    line = width * number_bytes(kind)
    for half in range(2):
        for chunk in range(line // 64):
            turn_chunk(FP32, 1, page + chunk * 2048 + 64 * half, spare + half * 16 * line + chunk * 64, line)
    scales = floats(input_scales(page, kind, width), PAGE)
    for token in range(PAGE):
        y = floats(target + 4 * token * width, width)
        if kind == FP32:
            x = floats(spare + token * line, width)
            for c in range(width):
                y[c] = x[c] * factor
        elif kind == BF16:
            short, bits = shorts(spare + token * line, width), ints(target + 4 * token * width, width)
            for c in range(width):
                bits[c] = np.int32(short[c]) << 16
            for c in range(width):
                y[c] *= factor
        else:
            byte, scale = octets(spare + token * line, width), scales[token] * factor
            for c in range(width):
                y[c] = np.float32(np.int32(byte[c]) - 128) * scale
