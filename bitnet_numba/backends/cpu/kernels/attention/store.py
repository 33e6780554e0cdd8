"""The KV cache of one head, in blocks of 256 positions: its memory layout, and storing a position in it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Floats, Numbers
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_inline
from bitnet_numba.backends.cpu.kernels.quantize import absmax
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_column, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.view import floats_at, view_at

POSITIONS_PER_BLOCK = 256  # of one softmax
POSITIONS_PER_TILE = 64  # whose keys or values fit the L1 cache; a block's arrays hold a multiple of it
_LARGEST = np.float32(127)
_LIMIT, _F16_LIMIT = np.float32(np.inf), np.float32(65520)  # from here on float16 rounds to infinity
_SMALLEST_MAXIMUM = np.float32(1e-30)  # smaller ones are stored as zeros: 127 / maximum must stay finite


class HeadBlock(NamedTuple):
    """Keys and values of one head at up to 256 neighbouring positions; ``n`` is a multiple of 64."""

    keys: Numbers  # float32, uint16 (float16 bits) or int8, [n / 16][head_dim][16]: a lane is a position
    values: Numbers  # [n][head_dim]
    key_scales: Floats  # [n]: scale of each position for int8; empty for the others
    value_scales: Floats  # likewise


def head_block_bytes(head_dim: int, dtype: npt.DTypeLike) -> int:
    """Return the bytes of a whole :class:`HeadBlock`, its arrays one after the other."""
    kind = np.dtype(dtype)
    scales = 2 * POSITIONS_PER_BLOCK * 4 if kind == np.int8 else 0
    return 2 * POSITIONS_PER_BLOCK * head_dim * kind.itemsize + scales


@jit_inline
def head_block_at(page: int, index: int, element: Numbers, head_dim: int) -> HeadBlock:
    """View block ``index`` of the page at an address; ``element`` has the dtype of keys and values."""
    size = POSITIONS_PER_BLOCK * head_dim
    n_bytes = size * element.itemsize
    n_scales = POSITIONS_PER_BLOCK if element.itemsize == 1 else 0  # int8 alone has scales
    at = page + index * 2 * (n_bytes + 4 * n_scales)
    return HeadBlock(
        view_at(at, element, size),
        view_at(at + n_bytes, element, size),
        floats_at(at + 2 * n_bytes, n_scales),
        floats_at(at + 2 * n_bytes + 4 * n_scales, n_scales),
    )


@jit
def store_position(key: Floats, value: Floats, index: int, block: HeadBlock) -> bool:
    """Store one position's key and value, float32[head_dim], in the block's number format; return whether it can.

    It cannot if an element is infinite or NaN, or rounds to more than 65,504 in float16. int8 is ``x / scale``, rounded
    half to even, with scale = max|x| / 127 of this position; key and value are overwritten.
    """
    head_dim = key.size
    largest_key, largest_value = absmax(key), absmax(value)
    limit = _F16_LIMIT if block.keys.itemsize == 2 else _LIMIT
    if block.key_scales.size:
        block.key_scales[index] = _round_to_int8(key, largest_key)
        block.value_scales[index] = _round_to_int8(value, largest_value)
    column = index // LANES * LANES * head_dim + index % LANES
    for i in range(0, head_dim, LANES):
        store_column(block.keys, column + LANES * i, load_f32(key, i))
        store_f32(block.values, index * head_dim + i, load_f32(value, i))
    return bool(largest_key < limit and largest_value < limit)


@jit
def _round_to_int8(x: Floats, maximum: np.float32) -> np.float32:
    """Scale and round numbers to integers from -127 to 127, in place, and return the scale to multiply them by."""
    factor = _LARGEST / maximum if maximum > _SMALLEST_MAXIMUM else np.float32(0)
    by, low, high = v.broadcast_f32(factor), v.broadcast_f32(-_LARGEST), v.broadcast_f32(_LARGEST)
    for i in range(0, x.size, LANES):
        # clipped, because rounding the quotient can exceed 127 and x may not be finite
        store_f32(x, i, v.round_f32(v.min_f32(v.max_f32(v.mul_f32(load_f32(x, i), by), low), high)))
    scale: np.float32 = maximum / _LARGEST
    return scale
