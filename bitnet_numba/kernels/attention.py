"""Grouped-query attention over a KV cache, in blocks of positions whose results are merged in order.

The order of every sum depends on positions alone, never on how many there are, on threads, or on how many tokens are
computed at once: that is what makes the prefill of a prompt equal its single steps, bit for bit.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.kernels.checks import check_array, check_lanes
from bitnet_numba.kernels.jit import jit
from bitnet_numba.kernels.softmax import exp_f32
from bitnet_numba.simd.memory import broadcast_from, load_f32, store_column, store_f32
from bitnet_numba.simd.types import LANES
from bitnet_numba.simd.vector import (
    add_f32,
    broadcast_f32,
    fma_f32,
    keep_first,
    largest_f32,
    max_f32,
    mul_f32,
    sub_f32,
    sum_f32,
    zero_f32,
)

BLOCK = 256  # positions whose softmax is taken at once
TILE = 64  # positions scored at once; the cache holds a multiple of it
HEADER = LANES  # floats before a partial result's values: its maximum, its sum, padding
_MASKED = np.float32(-1e30)

Floats = npt.NDArray[np.float32]
Cache = npt.NDArray[Any]


def attend(query: Floats, keys: Cache, values: Cache, n_positions: int, out: Floats) -> None:
    """Write one query head's ``softmax(query . keys) . values`` to ``out``.

    Parameters
    ----------
    query : float32[head_dim]
        Turned by its position, and divided by the root of the true head size; ``head_dim`` is a multiple of 16.
    keys : float32 or uint16 (float16 bits) [capacity * head_dim]
        Blocks of 16 positions, each ``[head_dim][16]``; ``capacity`` is a multiple of 64.
    values : as keys
        ``[capacity][head_dim]``.
    n_positions : int
        How many positions the query sees.
    out : float32[head_dim]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.

    References
    ----------
    Ainslie et al., "GQA", 2023; blocks are merged as in Milakov and Gimelshein, "Online normalizer", 2018.
    """
    head_dim = query.size
    check_lanes("query", head_dim)
    _check_cache(keys, values, head_dim)
    if not 0 < n_positions <= keys.size // head_dim:
        raise ValueError(f"n_positions: expected 1 to {keys.size // head_dim}, got {n_positions}")
    check_array("query", query, np.float32, (head_dim,))
    check_array("out", out, np.float32, (head_dim,), written=True)
    n_blocks = -(-n_positions // BLOCK)
    partials = np.zeros((n_blocks, HEADER + head_dim), np.float32)
    for block in range(n_blocks):
        count = min(BLOCK, n_positions - block * BLOCK)
        attend_block_worker(query, keys, values, block * BLOCK, count, np.zeros(BLOCK, np.float32), partials[block])
    merge_worker(partials, n_blocks, out)


def store_position(keys: Cache, values: Cache, position: int, key: Floats, value: Floats) -> None:
    """Write one head's key and value of a position to the cache, in the cache's own number format.

    Parameters
    ----------
    keys, values : float32 or uint16 [capacity * head_dim]
        As for :func:`attend`.
    position : int
        From 0 to ``capacity - 1``.
    key, value : float32[head_dim]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_lanes("key", key.size)
    _check_cache(keys, values, key.size, written=True)
    check_array("key", key, np.float32, (key.size,))
    check_array("value", value, np.float32, (key.size,))
    if not 0 <= position < keys.size // key.size:
        raise ValueError(f"position: expected 0 to {keys.size // key.size - 1}, got {position}")
    store_position_worker(keys, values, position, key, value)


def _check_cache(keys: Cache, values: Cache, head_dim: int, *, written: bool = False) -> None:
    check_lanes("keys", keys.size, TILE * head_dim)
    if keys.dtype not in (np.float32, np.uint16):
        raise ValueError(f"keys: expected float32 or float16 bits (uint16), got {keys.dtype}")
    check_array("keys", keys, keys.dtype, (keys.size,), written=written)
    check_array("values", values, keys.dtype, (keys.size,), written=written)


@jit
def store_position_worker(keys: Cache, values: Cache, position: int, key: Floats, value: Floats) -> None:
    head_dim = key.size
    column = position // LANES * LANES * head_dim + position % LANES
    for i in range(0, head_dim, LANES):
        store_column(keys, column + LANES * i, load_f32(key, i))
        store_f32(values, position * head_dim + i, load_f32(value, i))


@jit
def attend_block_worker(
    query: Floats, keys: Cache, values: Cache, first: int, count: int, scores: Floats, partial: Floats
) -> None:
    """Write maximum, sum and weighted values of ``count`` positions from ``first`` on to ``partial``."""
    head_dim = query.size
    for tile in range(0, count, TILE):
        _score_tile(query, keys, (first + tile) * head_dim, count - tile, scores, tile)
    padded = (count + LANES - 1) // LANES * LANES
    largest = load_f32(scores, 0)
    for i in range(LANES, padded, LANES):
        largest = max_f32(load_f32(scores, i), largest)
    maximum = largest_f32(largest)
    offset, total = broadcast_f32(maximum), zero_f32()
    for i in range(0, padded, LANES):
        weight = exp_f32(sub_f32(load_f32(scores, i), offset))
        store_f32(scores, i, weight)
        total = add_f32(total, weight)
    partial[0], partial[1] = maximum, sum_f32(total)
    _weigh_values(values, first * head_dim, count, head_dim, scores, partial)


@jit
def _score_tile(query: Floats, keys: Cache, at: int, count: int, scores: Floats, place: int) -> None:
    """Four blocks of sixteen positions: a lane is a position, so no sum goes across lanes."""
    stride = LANES * query.size
    a = b = c = d = zero_f32()
    for i in range(query.size):
        q, key = broadcast_from(query, i), at + LANES * i
        a = fma_f32(load_f32(keys, key), q, a)
        b = fma_f32(load_f32(keys, key + stride), q, b)
        c = fma_f32(load_f32(keys, key + 2 * stride), q, c)
        d = fma_f32(load_f32(keys, key + 3 * stride), q, d)
    for block, score in enumerate((a, b, c, d)):
        store_f32(scores, place + LANES * block, keep_first(score, np.int32(count - LANES * block), _MASKED))


@jit
def _weigh_values(values: Cache, at: int, count: int, head_dim: int, weights: Floats, partial: Floats) -> None:
    """Sum the values of ``count`` positions, in their order, each times its weight."""
    wide = head_dim // (4 * LANES) * (4 * LANES)
    for i in range(0, wide, 4 * LANES):
        a = b = c = d = zero_f32()
        for position in range(count):
            w, value = broadcast_from(weights, position), at + position * head_dim + i
            a = fma_f32(load_f32(values, value), w, a)
            b = fma_f32(load_f32(values, value + LANES), w, b)
            c = fma_f32(load_f32(values, value + 2 * LANES), w, c)
            d = fma_f32(load_f32(values, value + 3 * LANES), w, d)
        for vector, weighted in enumerate((a, b, c, d)):
            store_f32(partial, HEADER + i + LANES * vector, weighted)
    for i in range(wide, head_dim, LANES):
        a = zero_f32()
        for position in range(count):
            a = fma_f32(load_f32(values, at + position * head_dim + i), broadcast_from(weights, position), a)
        store_f32(partial, HEADER + i, a)


@jit
def merge_worker(partials: npt.NDArray[np.float32], n_blocks: int, out: Floats) -> None:
    """Combine the partial results of a head's blocks, in their order, to its attention output."""
    maximum = partials[0, 0]
    for block in range(1, n_blocks):
        maximum = max(maximum, partials[block, 0])
    total = np.float32(0)
    for i in range(0, out.size, LANES):
        store_f32(out, i, zero_f32())
    for block in range(n_blocks):
        partial = partials[block]
        share = exp_f32(broadcast_f32(partial[0] - maximum))
        total += largest_f32(share) * partial[1]
        for i in range(0, out.size, LANES):
            store_f32(out, i, fma_f32(load_f32(partial, HEADER + i), share, load_f32(out, i)))
    inverse = broadcast_f32(np.float32(1) / total)
    for i in range(0, out.size, LANES):
        store_f32(out, i, mul_f32(load_f32(out, i), inverse))
