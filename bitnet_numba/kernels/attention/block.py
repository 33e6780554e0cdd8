"""One query over one block of positions, and the merging of blocks."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.kernels.attention.store import HEADER, TILE, HeadBlock
from bitnet_numba.kernels.jit import jit, jit_inline
from bitnet_numba.kernels.softmax import exp_f32
from bitnet_numba.simd.memory import broadcast_from, load_f32, store_f32
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

MASKED = np.float32(-1e30)

Floats = npt.NDArray[np.float32]
Cache = npt.NDArray[Any]


@jit
def attend_block_worker(query: Floats, block: HeadBlock, count: int, scores: Floats, partial: Floats) -> None:
    """Write maximum, sum and weighted values of a block's first ``count`` positions to ``partial``."""
    for tile in range(0, count, TILE):
        _score_tile(query, block, tile, count, scores)
    weigh_scores(block, count, scores, partial)
    _weigh_values(block.values, count, query.size, scores, partial)


@jit
def _score_tile(query: Floats, block: HeadBlock, tile: int, count: int, scores: Floats) -> None:
    """Four times sixteen positions: a lane is a position, so no sum goes across lanes."""
    keys, at, stride = block.keys, tile * query.size, LANES * query.size
    a = b = c = d = zero_f32()
    for i in range(query.size):
        q, key = broadcast_from(query, i), at + LANES * i
        a = fma_f32(load_f32(keys, key), q, a)
        b = fma_f32(load_f32(keys, key + stride), q, b)
        c = fma_f32(load_f32(keys, key + 2 * stride), q, c)
        d = fma_f32(load_f32(keys, key + 3 * stride), q, d)
    store_scores(block, a, tile, count, scores)
    store_scores(block, b, tile + LANES, count, scores)
    store_scores(block, c, tile + 2 * LANES, count, scores)
    store_scores(block, d, tile + 3 * LANES, count, scores)


@jit_inline
def store_scores(block: HeadBlock, sums: Any, place: int, count: int, scores: Floats) -> None:
    """Store sixteen positions' scores, those from ``count`` on as good as minus infinity."""
    if block.key_scales.size:
        sums = mul_f32(sums, load_f32(block.key_scales, place))
    store_f32(scores, place, keep_first(sums, np.int32(count - place), MASKED))


@jit
def weigh_scores(block: HeadBlock, count: int, scores: Floats, partial: Floats) -> None:
    """Turn scores into their exponentials; note their maximum and sum.

    For int8 what is left in ``scores`` is also multiplied by the scale of each position's value.
    """
    padded = (count + LANES - 1) // LANES * LANES
    largest = load_f32(scores, 0)
    for i in range(LANES, padded, LANES):
        largest = max_f32(load_f32(scores, i), largest)
    maximum = largest_f32(largest)
    offset, total = broadcast_f32(maximum), zero_f32()
    for i in range(0, padded, LANES):
        weight = exp_f32(sub_f32(load_f32(scores, i), offset))
        total = add_f32(total, weight)
        if block.value_scales.size:
            weight = mul_f32(weight, load_f32(block.value_scales, i))
        store_f32(scores, i, weight)
    partial[0], partial[1] = maximum, sum_f32(total)


@jit
def _weigh_values(values: Cache, count: int, head_dim: int, weights: Floats, partial: Floats) -> None:
    """Sum the values of ``count`` positions, in their order, each times its weight."""
    wide = head_dim // (4 * LANES) * (4 * LANES)
    for i in range(0, wide, 4 * LANES):
        a = b = c = d = zero_f32()
        for position in range(count):
            w, value = broadcast_from(weights, position), position * head_dim + i
            a = fma_f32(load_f32(values, value), w, a)
            b = fma_f32(load_f32(values, value + LANES), w, b)
            c = fma_f32(load_f32(values, value + 2 * LANES), w, c)
            d = fma_f32(load_f32(values, value + 3 * LANES), w, d)
        store_f32(partial, HEADER + i, a)
        store_f32(partial, HEADER + i + LANES, b)
        store_f32(partial, HEADER + i + 2 * LANES, c)
        store_f32(partial, HEADER + i + 3 * LANES, d)
    for i in range(wide, head_dim, LANES):
        a = zero_f32()
        for position in range(count):
            a = fma_f32(load_f32(values, position * head_dim + i), broadcast_from(weights, position), a)
        store_f32(partial, HEADER + i, a)


# ---- blocks together -------------------------------------------------------------------------------------------------
@jit
def begin_merge(merged: Floats) -> None:
    """Make a result of no positions: whatever is merged into it replaces it."""
    merged[:] = 0
    merged[0] = MASKED


@jit
def merge_block(merged: Floats, partial: Floats) -> None:
    """Add a block's result to those of the blocks before it."""
    maximum = max(merged[0], partial[0])
    before, added = exp_f32(broadcast_f32(merged[0] - maximum)), exp_f32(broadcast_f32(partial[0] - maximum))
    merged[0] = maximum
    merged[1] = largest_f32(before) * merged[1] + largest_f32(added) * partial[1]
    for i in range(HEADER, merged.size, LANES):
        store_f32(merged, i, fma_f32(load_f32(partial, i), added, mul_f32(load_f32(merged, i), before)))


@jit
def end_merge(merged: Floats, out: Floats) -> None:
    """Write the weighted mean of all values, the attention output of a head."""
    share = broadcast_f32(np.float32(1) / merged[1])
    for i in range(0, out.size, LANES):
        store_f32(out, i, mul_f32(load_f32(merged, HEADER + i), share))
