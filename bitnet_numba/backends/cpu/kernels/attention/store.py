"""Keys and values of one head, in blocks of positions: how they lie, and how a position gets there."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.jit import jit, jit_inline
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_column, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import (
    abs_f32,
    broadcast_f32,
    largest_f32,
    max_f32,
    min_f32,
    mul_f32,
    round_f32,
    zero_f32,
)
from bitnet_numba.backends.cpu.simd.view import floats_at, view_at

BLOCK = 256  # positions whose softmax is taken at once
TILE = 64  # positions whose keys or values lie in the nearest cache together: a block's arrays hold a multiple of it
_LARGEST = np.float32(127)
_LEAST = np.float32(1e-30)  # below this all is zero: 127 / it must stay finite

Floats = npt.NDArray[np.float32]


class HeadBlock(NamedTuple):
    """Keys and values of one head at up to 256 neighbouring positions.

    Attributes
    ----------
    keys : float32, uint16 (float16 bits) or int8 [n * head_dim]
        Sixteen positions after the other, each sixteen ``[head_dim][16]``: a lane is a position. ``n`` is a multiple
        of 64.
    values : as keys
        ``[n][head_dim]``.
    key_scales, value_scales : float32[n]
        For int8: what one unit of each position stands for; for the others they are empty.
    """

    keys: npt.NDArray[Any]
    values: npt.NDArray[Any]
    key_scales: Floats
    value_scales: Floats


def head_block_bytes(head_dim: int, dtype: npt.DTypeLike) -> int:
    """Return the bytes of a whole :class:`HeadBlock`, its arrays one after the other."""
    kind = np.dtype(dtype)
    scales = 2 * BLOCK * 4 if kind == np.int8 else 0
    return 2 * BLOCK * head_dim * kind.itemsize + scales


@jit_inline
def head_block_at(page: int, index: int, element: npt.NDArray[Any], head_dim: int) -> HeadBlock:
    """View block number ``index`` of those that lie at the address ``page``.

    ``element`` is an array of their number format. Only int8 has numbers of one byte, and only int8 has scales.
    """
    size = BLOCK * head_dim
    n_bytes = size * element.itemsize
    n_scales = BLOCK if element.itemsize == 1 else 0
    at = page + index * 2 * (n_bytes + 4 * n_scales)
    return HeadBlock(
        view_at(at, element, size),
        view_at(at + n_bytes, element, size),
        floats_at(at + 2 * n_bytes, n_scales),
        floats_at(at + 2 * n_bytes + 4 * n_scales, n_scales),
    )


@jit
def store_position_worker(block: HeadBlock, place: int, key: Floats, value: Floats) -> None:
    """Store a position's key and value; for int8 they are rounded to whole numbers where they stand, too."""
    head_dim = key.size
    if block.key_scales.size:
        block.key_scales[place] = _round_to_int8(key)
        block.value_scales[place] = _round_to_int8(value)
    column = place // LANES * LANES * head_dim + place % LANES
    for i in range(0, head_dim, LANES):
        store_column(block.keys, column + LANES * i, load_f32(key, i))
        store_f32(block.values, place * head_dim + i, load_f32(value, i))


@jit
def _round_to_int8(x: Floats) -> np.float32:
    """Turn numbers into whole ones from -127 to 127, and return what one unit stands for."""
    largest = zero_f32()
    for i in range(0, x.size, LANES):
        largest = max_f32(abs_f32(load_f32(x, i)), largest)
    maximum = largest_f32(largest)
    factor = _LARGEST / maximum if maximum > _LEAST else np.float32(0)
    by, low, high = broadcast_f32(factor), broadcast_f32(-_LARGEST), broadcast_f32(_LARGEST)
    for i in range(0, x.size, LANES):
        # clipped also where the quotient's rounding alone would lead past the end, and where x is not finite
        store_f32(x, i, round_f32(min_f32(max_f32(mul_f32(load_f32(x, i), by), low), high)))
    unit: np.float32 = maximum / _LARGEST
    return unit
