"""Four queries over one block at once: each key and value is loaded once for all of them.

Every sum has the terms and the order that it has for one query alone.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.kernels.attention.block import store_scores, weigh_scores
from bitnet_numba.kernels.attention.store import HEADER, HeadBlock
from bitnet_numba.kernels.jit import jit, jit_inline
from bitnet_numba.simd.memory import broadcast_from, load_f32, store_f32
from bitnet_numba.simd.types import LANES
from bitnet_numba.simd.vector import fma_f32, zero_f32

FOUR_TILE = 2 * LANES  # positions that four queries score at once: eight sums, which is what registers hold

Floats = npt.NDArray[np.float32]
Four = tuple[Floats, Floats, Floats, Floats]
Counts = tuple[int, int, int, int]


@jit
def attend_block_four_worker(queries: Four, block: HeadBlock, counts: Counts, scores: Floats, partials: Floats) -> None:
    """Write each query's result over its own first positions of the block to its row of ``partials``."""
    first, second, third, fourth = counts
    for tile in range(0, max(first, second, third, fourth), FOUR_TILE):
        _score_tile(queries, block, tile, counts, scores)
    for query, count in enumerate(counts):
        weigh_scores(block, count, scores[query], partials[query])
    for i in range(0, queries[0].size, 2 * LANES):
        _weigh_values(block.values, queries[0].size, i, counts, scores, partials)


@jit
def _score_tile(queries: Four, block: HeadBlock, tile: int, counts: Counts, scores: Floats) -> None:
    query_a, query_b, query_c, query_d = queries
    keys, at, next_sixteen = block.keys, tile * query_a.size, LANES * query_a.size
    a = b = c = d = e = f = g = h = zero_f32()
    for i in range(query_a.size):
        low = load_f32(keys, at + LANES * i)
        high = load_f32(keys, at + LANES * i + next_sixteen)
        q = broadcast_from(query_a, i)
        a, e = fma_f32(low, q, a), fma_f32(high, q, e)
        q = broadcast_from(query_b, i)
        b, f = fma_f32(low, q, b), fma_f32(high, q, f)
        q = broadcast_from(query_c, i)
        c, g = fma_f32(low, q, c), fma_f32(high, q, g)
        q = broadcast_from(query_d, i)
        d, h = fma_f32(low, q, d), fma_f32(high, q, h)
    first, second, third, fourth = counts
    _store_pair(block, a, e, tile, first, scores[0])
    _store_pair(block, b, f, tile, second, scores[1])
    _store_pair(block, c, g, tile, third, scores[2])
    _store_pair(block, d, h, tile, fourth, scores[3])


@jit_inline
def _store_pair(block: HeadBlock, low: Any, high: Any, tile: int, count: int, scores: Floats) -> None:
    store_scores(block, low, tile, count, scores)
    store_scores(block, high, tile + LANES, count, scores)


@jit
def _weigh_values(
    values: npt.NDArray[Any], head_dim: int, i: int, counts: Counts, weights: Floats, partials: Floats
) -> None:
    """Sum elements ``i`` to ``i + 31`` of the values: together where all queries look, then each one's own rest."""
    weights_a, weights_b, weights_c, weights_d = weights[0], weights[1], weights[2], weights[3]
    shared = min(counts[0], counts[1], counts[2], counts[3])
    a = b = c = d = e = f = g = h = zero_f32()
    for position in range(shared):
        low = load_f32(values, position * head_dim + i)
        high = load_f32(values, position * head_dim + i + LANES)
        w = broadcast_from(weights_a, position)
        a, e = fma_f32(low, w, a), fma_f32(high, w, e)
        w = broadcast_from(weights_b, position)
        b, f = fma_f32(low, w, b), fma_f32(high, w, f)
        w = broadcast_from(weights_c, position)
        c, g = fma_f32(low, w, c), fma_f32(high, w, g)
        w = broadcast_from(weights_d, position)
        d, h = fma_f32(low, w, d), fma_f32(high, w, h)
    first, second, third, fourth = counts
    _store_rest(values, head_dim, i, a, e, shared, first, weights_a, partials[0])
    _store_rest(values, head_dim, i, b, f, shared, second, weights_b, partials[1])
    _store_rest(values, head_dim, i, c, g, shared, third, weights_c, partials[2])
    _store_rest(values, head_dim, i, d, h, shared, fourth, weights_d, partials[3])


@jit_inline
def _store_rest(
    values: npt.NDArray[Any],
    head_dim: int,
    i: int,
    low: Any,
    high: Any,
    shared: int,
    count: int,
    weights: Floats,
    partial: Floats,
) -> None:
    """Add to a query's sums what it alone looks at, and store them."""
    for position in range(shared, count):
        w = broadcast_from(weights, position)
        low = fma_f32(load_f32(values, position * head_dim + i), w, low)
        high = fma_f32(load_f32(values, position * head_dim + i + LANES), w, high)
    store_f32(partial, HEADER + i, low)
    store_f32(partial, HEADER + i + LANES, high)
