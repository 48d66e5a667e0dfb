"""Made-up values by which a wrongly cut slice shows.

Every element is random but for its lowest bit, which is a checkerboard of row + column: so it always differs from its
neighbours, and no shifted slice is equal by chance. Floating kinds have the highest bit of their exponent cleared: all
values are finite and below 2 in size. A tensor's values depend on the seed and its name only, not on how many layers the
checkpoint has nor on how it is split into files."""

import hashlib
from collections.abc import Iterator
from math import prod

import numpy as np

from .tensors import DTYPE_BITS, Tensor

BLOCK_BYTES = 4 << 20

# Highest exponent bit of each kind that has NaN or infinity.
_EXPONENT_TOP = {"F64": 62, "F32": 30, "BF16": 14, "F16": 14, "F8_E4M3": 6, "F8_E5M2": 6, "F8_E8M0": 7}
_UNSIGNED = {64: np.uint64, 32: np.uint32, 16: np.uint16, 8: np.uint8}


def rows_and_columns(tensor: Tensor) -> tuple[int, int]:
    """The tensor as a matrix: its last dim makes the columns."""
    if not tensor.shape:
        return 1, 1
    return prod(tensor.shape[:-1]), tensor.shape[-1]


def blocks(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Cut the tensor into blocks (first row, row count) of an even number of rows and about BLOCK_BYTES."""
    rows, columns = rows_and_columns(tensor)
    row_bytes = columns * DTYPE_BITS[tensor.dtype] // 8
    step = max(2, BLOCK_BYTES // max(1, row_bytes) // 2 * 2)
    for first in range(0, rows, step):
        yield first, min(step, rows - first)


def block_values(tensor: Tensor, seed: int, first: int, count: int) -> np.ndarray:
    """The values of one of blocks(tensor) as unsigned integers of the element's width, shape [count, columns]."""
    _, columns = rows_and_columns(tensor)
    bits = DTYPE_BITS[tensor.dtype]
    kind = _UNSIGNED[bits]
    size = count * columns * bits // 8
    name = np.frombuffer(hashlib.sha256(tensor.name.encode()).digest()[:16], np.uint32)
    generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, first, *name.tolist()])))
    words = generator.integers(0, 1 << 64, -(-size // 8), np.uint64)
    values = words.view(np.uint8)[:size].view(kind).reshape(count, columns)

    mask = (1 << bits) - 2
    if tensor.dtype in _EXPONENT_TOP:
        mask &= ~(1 << _EXPONENT_TOP[tensor.dtype])
    np.bitwise_and(values, kind(mask), out=values)
    even = (np.arange(columns) & 1).astype(kind)  # the lowest bits of an even row; blocks begin at even rows
    pairs = values[: count // 2 * 2].reshape(-1, 2 * columns)
    np.bitwise_or(pairs, np.concatenate([even, even ^ kind(1)]), out=pairs)
    if count % 2:
        np.bitwise_or(values[-1], even, out=values[-1])
    return values
