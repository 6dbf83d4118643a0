"""Weights in the blocks that the kernels read: 32 outputs side by side, in one of four precisions.

Integers have a scale (bf16) for each 32 columns of an output. int8: the largest number is ±127. int4: the scale with
the least square error of a few; numbers −8 … 7, two a byte.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KINDS = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3}  # the numbers of tile_kernels
CACHE_KINDS = {"fp32": 0, "bf16": 1, "int8": 4}
_PIECE = 64 << 20  # bytes of which what is not used is not taken from the system
_ROWS = 4096  # outputs packed at a time: bounds the memory


def round_up(count: int, unit: int = 64) -> int:
    return -(-count // unit) * unit


def aligned(size: int) -> NDArray[np.uint8]:
    """``size`` bytes of 0 that begin at a cache line."""
    space = np.zeros(size + 64, np.uint8)
    start = -space.ctypes.data % 64
    return space[start : start + size]


class Arena:
    """Memory in large pieces, for which the system has large pages: weights are read 1.4 times as fast from them."""

    def __init__(self) -> None:
        self._pieces = [aligned(0)]
        self._used = 0  # of the last piece

    def take(self, size: int) -> NDArray[np.uint8]:
        if self._used + size > len(self._pieces[-1]):
            self._pieces.append(aligned(max(size, _PIECE)))
            self._used = 0
        start, self._used = self._used, self._used + round_up(size)
        return self._pieces[-1][start : start + size]


def padded(matrix: Tensor, outputs: int, columns: int) -> Tensor:
    """[O, C] -> [outputs, columns], filled up with zeros."""
    if matrix.shape == (outputs, columns):
        return matrix
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, outputs - matrix.shape[0]))


def pack(matrix: Tensor, kind: str, arena: Arena) -> NDArray[np.uint8]:
    """[O, C] float32, O a multiple of 32 and C of 64 -> the bytes of O/32 blocks, in ``arena``."""
    outputs, columns = matrix.shape
    assert (outputs % 32, columns % 64) == (0, 0)
    size = {"fp32": 4 * columns, "bf16": 2 * columns, "int8": columns // 16 * 17, "int4": columns // 16 * 9}[kind]
    result = arena.take(outputs * size).reshape(outputs // 32, 32 * size)
    for start in range(0, outputs, _ROWS):
        part = matrix[start : start + _ROWS].float()
        blocks = part.reshape(len(part) // 32, 32, columns)
        result[start // 32 : (start + len(part)) // 32] = _PACKERS[kind](blocks).reshape(len(blocks), -1)
    return result.reshape(-1)


def _bytes(x: Tensor) -> NDArray[np.uint8]:
    return x.contiguous().view(torch.uint8).numpy()


def _fp32(blocks: Tensor) -> NDArray[np.uint8]:
    return _bytes(blocks.transpose(1, 2))  # [B, 32, C] -> [B, C, 32]


def _bf16(blocks: Tensor) -> NDArray[np.uint8]:
    return _bytes(blocks.bfloat16().unflatten(2, (-1, 2)).transpose(1, 2))  # [B, C/2, 32, 2]


def _int8(blocks: Tensor) -> NDArray[np.uint8]:
    groups = blocks.unflatten(2, (-1, 32))  # [B, 32, G, 32]
    scales = (groups.abs().amax(-1) / 127).bfloat16()  # [B, 32, G]
    numbers = (groups * _inverse(scales)[..., None]).round_().clamp_(-127, 127) + 128
    quads = numbers.to(torch.uint8).flatten(2).unflatten(2, (-1, 16, 4)).permute(0, 2, 3, 1, 4)  # [B, C/64, 16, 32, 4]
    return _with_scales(quads.flatten(2), scales)


def _int4(blocks: Tensor) -> NDArray[np.uint8]:
    groups = blocks.unflatten(2, (-1, 32))  # [B, 32, G, 32]
    scales = _best_scales(groups)
    numbers = _nibbles(groups, scales).add_(8).to(torch.uint8)
    quads = numbers.unflatten(3, (2, 4, 4))  # [B, 32, G, low or high half, 4 steps, 4 columns]
    both = quads[:, :, :, 0] | (quads[:, :, :, 1] << 4)  # [B, 32, G, 4, 4]
    both = both.permute(0, 2, 3, 1, 4).flatten(2).unflatten(1, (-1, 2)).flatten(2)  # [B, C/64, 1024]
    return _with_scales(both, scales)


def _with_scales(numbers: Tensor, scales: Tensor) -> NDArray[np.uint8]:
    """[B, C/64, bytes] and [B, 32, C/32] -> each 64 columns behind their 2 × 32 scales."""
    ahead = scales.transpose(1, 2).unflatten(1, (-1, 2)).flatten(2)  # [B, C/64, 64]
    return np.concatenate((_bytes(ahead), numbers.numpy()), axis=2)


def _inverse(scales: Tensor) -> Tensor:
    values = scales.float()
    return torch.where(values == 0, 0.0, 1 / values)


def _nibbles(groups: Tensor, scales: Tensor) -> Tensor:
    return (groups * _inverse(scales)[..., None]).round_().clamp_(-8, 7)


def _best_scales(groups: Tensor) -> Tensor:
    """[..., 32] -> [...] bf16. The largest number becomes about −8; then the best scale for those integers."""
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))[..., 0]
    best, error = largest.bfloat16(), torch.full_like(largest, torch.inf)
    for divisor in (-8.0, -7.5, -7.0, -8.7, -9.5):
        numbers = _nibbles(groups, largest / divisor)
        square = numbers.square().sum(-1)
        scales = torch.where(square > 0, (groups * numbers).sum(-1) / square, 0.0).bfloat16()
        now = (groups - scales.float()[..., None] * _nibbles(groups, scales)).square_().sum(-1)
        better = now < error
        best, error = torch.where(better, scales, best), torch.where(better, now, error)
    return best


_PACKERS = {"fp32": _fp32, "bf16": _bf16, "int8": _int8, "int4": _int4}
