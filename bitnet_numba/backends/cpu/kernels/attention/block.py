"""Attention of the queries of a few neighbouring tokens over one block of positions, four queries at a time.

Each sum has the terms and the order that it has for one query alone: scores are summed over head_dim, values over the
positions up to the causal limit, both in ascending order. So no bit depends on what is computed together.
"""

from typing import Any, NamedTuple

import numpy as np

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Floats, Numbers
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_inline, jit_separate
from bitnet_numba.backends.cpu.kernels.attention.causal import CausalLimits, causal_limit, n_masked
from bitnet_numba.backends.cpu.kernels.attention.results import MASKED, Results, new_results, results_of
from bitnet_numba.backends.cpu.kernels.attention.store import POSITIONS_PER_BLOCK, POSITIONS_PER_TILE, HeadBlock
from bitnet_numba.backends.cpu.kernels.softmax import exp_to_1
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.float_tile import add_to_rows, load_rows, load_vectors, store_rows, zero_rows
from bitnet_numba.backends.cpu.simd.memory import broadcast_from, load_f32, prefetch, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES

QUERIES_PER_TILE = 4  # of a register tile
VECTORS = 4 if cpu.vector_isa() == "avx512_vnni" else 1  # of each query: more accumulators would not fit the registers
WIDTH = VECTORS * LANES
FEW_POSITIONS = WIDTH // 2  # in the last tile: up to this many are scored sixteen at a time, and the others not read
UNPACKED_QUERIES = 8  # for more queries a tile of keys or values is converted to float32 once, not for every four


class Scratch(NamedTuple):
    """Scratch memory for the attention of up to ``n`` queries, a multiple of four; or that of several threads."""

    unpacked: Floats  # [..., 64 * head_dim]: a tile of keys or values
    scores: Floats  # [..., n * 256]
    block: Results  # of the current block
    merged: Results  # of all blocks so far
    factors: Floats  # [..., 2, n + 16]: for merge_block


def attention_scratch(n_threads: int, n_queries: int, head_dim: int) -> Scratch:
    """Allocate the scratch memory of a thread pool, for at least ``n_queries``."""
    rows = -(-n_queries // QUERIES_PER_TILE) * QUERIES_PER_TILE
    return Scratch(
        unpacked=np.zeros((n_threads, POSITIONS_PER_TILE * head_dim), np.float32),
        scores=np.zeros((n_threads, rows * POSITIONS_PER_BLOCK), np.float32),
        block=new_results(n_threads, rows, head_dim),
        merged=new_results(n_threads, rows, head_dim),
        factors=np.zeros((n_threads, 2, rows + LANES), np.float32),
    )


@jit_inline
def scratch_of(scratch: Scratch, thread: int) -> Scratch:
    """View one thread's part."""
    return Scratch(
        scratch.unpacked[thread],
        scratch.scores[thread],
        results_of(scratch.block, thread),
        results_of(scratch.merged, thread),
        scratch.factors[thread],
    )


class Tile(NamedTuple):
    """The keys or values of 64 positions."""

    numbers: Numbers  # [n]: the tile, or the whole block
    at: int  # index of the tile's first number
    prefetch_distance: int | None  # in elements; None where the tile is in the L1 cache already
    first: int  # index of its first position in the block
    head_dim: int


@jit_separate
def attend_block(queries: Floats, block: HeadBlock, limits: CausalLimits, scratch: Scratch) -> None:
    """Write each query's partial results over one block to ``scratch.block``; none where the causal limit is 0.

    ``queries`` is float32[n * head_dim], rotated and divided by the square root of the true head size; ``n`` is at
    least ``n_queries`` rounded up to a multiple of four. ``scratch`` is one thread's.

    References: Ainslie et al., "GQA", 2023; Dao et al., "FlashAttention", 2022.
    """
    unpacked, scores, results = scratch.unpacked, scratch.scores, scratch.block
    head_dim = unpacked.size // POSITIONS_PER_TILE
    unpacks, end = limits.n_queries > UNPACKED_QUERIES, causal_limit(limits, limits.n_queries - 1)
    for first in range(0, end, POSITIONS_PER_TILE):
        distance = next_tile_distance(first, end, head_dim)
        keys = Tile(block.keys, first * head_dim, distance, first, head_dim)
        if unpacks:
            _score(queries, _unpack(keys, distance, unpacked), block.key_scales, limits, scores)
        else:
            _score(queries, keys, block.key_scales, limits, scores)
    _find_maxima(limits, scores, results.maxima)
    _exponentiate(block.value_scales, limits, scores, results)
    n_rows = (limits.n_queries + QUERIES_PER_TILE - 1) // QUERIES_PER_TILE * QUERIES_PER_TILE
    results.values[: n_rows * head_dim] = 0
    for first in range(0, end, POSITIONS_PER_TILE):
        distance = next_tile_distance(first, end, head_dim)
        values = Tile(block.values, first * head_dim, distance, first, head_dim)
        if unpacks:
            _weigh_values(_unpack(values, distance, unpacked), limits, scores, results.values)
        else:
            _weigh_values(values, limits, scores, results.values)


@jit_inline
def next_tile_distance(first: int, end: int, head_dim: int) -> int:
    """Return the prefetch distance, in elements, to the next tile: values follow keys, then the next head's keys.

    A last tile of few positions, which follows directly, is not prefetched.
    """
    positions: int = (
        POSITIONS_PER_TILE if first + POSITIONS_PER_TILE + FEW_POSITIONS < end else POSITIONS_PER_BLOCK - first
    )
    return positions * head_dim


@jit
def _unpack(stored: Tile, prefetch_distance: int, unpacked: Floats) -> Tile:
    """Convert a tile to float32, and prefetch the next one."""
    for i in range(0, unpacked.size, 2 * LANES):
        at = stored.at + i
        prefetch(stored.numbers, at + prefetch_distance)
        store_f32(unpacked, i, load_f32(stored.numbers, at))
        store_f32(unpacked, i + LANES, load_f32(stored.numbers, at + LANES))
    return Tile(unpacked, 0, None, stored.first, stored.head_dim)


# ---- scores ----------------------------------------------------------------------------------------------------------
@jit
def _score(queries: Floats, keys: Tile, scales: Floats, limits: CausalLimits, scores: Floats) -> None:
    """Score a tile of positions for all queries that may attend to any of it."""
    n_positions = causal_limit(limits, limits.n_queries - 1) - keys.first
    for query in range(0, limits.n_queries, QUERIES_PER_TILE):
        if causal_limit(limits, query + QUERIES_PER_TILE - 1) <= keys.first:
            continue
        if n_positions <= FEW_POSITIONS:
            for position in range(0, n_positions, LANES):
                narrow = _products(zero_rows(QUERIES_PER_TILE, 1), queries, query, keys, position)
                _store_scores(narrow, query, keys.first + position, scales, limits, scores)
        else:
            for position in range(0, POSITIONS_PER_TILE, WIDTH):
                if query + 1 < limits.n_queries:
                    acc = _products(zero_rows(QUERIES_PER_TILE, VECTORS), queries, query, keys, position)
                    _store_scores(acc, query, keys.first + position, scales, limits, scores)
                else:
                    alone = _products(zero_rows(1, VECTORS), queries, query, keys, position)
                    _store_scores(alone, query, keys.first + position, scales, limits, scores)


@jit
def _products(acc: Any, queries: Floats, query: int, keys: Tile, position: int) -> Any:
    """Add queries times keys from ``position`` of the tile on: a lane is a position, so no sum crosses lanes."""
    at, head_dim = keys.at + position * keys.head_dim, keys.head_dim
    for i in range(head_dim):
        vectors = load_vectors(acc, keys.numbers, at + LANES * i, LANES * head_dim, keys.prefetch_distance)
        acc = add_to_rows(acc, vectors, queries, query * head_dim + i, head_dim)
    return acc


@jit
def _store_scores(acc: Any, first_query: int, first: int, scales: Floats, limits: CausalLimits, scores: Floats) -> None:
    """Store the scores of positions from ``first`` on, masked where a query may not attend to them."""
    query = first_query
    for row in acc:
        position = first
        for total in row:
            if scales.size:
                total = v.mul_f32(total, load_f32(scales, position))
            masked = v.keep_first(total, np.int32(causal_limit(limits, query) - position), MASKED)
            store_f32(scores, query * POSITIONS_PER_BLOCK + position, masked)
            position += LANES
        query += 1


@jit
def _find_maxima(limits: CausalLimits, scores: Floats, maxima: Floats) -> None:
    """Note each query's largest score."""
    for query in range(n_masked(limits), limits.n_queries):
        begin = query * POSITIONS_PER_BLOCK
        largest = load_f32(scores, begin)
        for i in range(begin + LANES, begin + causal_limit(limits, query), LANES):
            largest = v.max_f32(load_f32(scores, i), largest)
        maxima[query] = v.largest_f32(largest)


@jit
def _exponentiate(scales: Floats, limits: CausalLimits, scores: Floats, results: Results) -> None:
    """Replace scores by their exponentials, for int8 times the scale of each position's value; note their sums."""
    for query in range(n_masked(limits), limits.n_queries):
        begin = query * POSITIONS_PER_BLOCK
        offset, total = broadcast_from(results.maxima, query), v.zero_f32()
        for i in range(begin, begin + causal_limit(limits, query), LANES):
            weight = exp_to_1(v.sub_f32(load_f32(scores, i), offset))
            total = v.add_f32(total, weight)
            if scales.size:
                weight = v.mul_f32(weight, load_f32(scales, i - begin))
            store_f32(scores, i, weight)
        results.totals[query] = v.sum_f32(total)


# ---- values ----------------------------------------------------------------------------------------------------------
@jit
def _weigh_values(values: Tile, limits: CausalLimits, weights: Floats, out: Floats) -> None:
    """Add a tile of values, each times its weight, to the results of all queries that may attend to any of it."""
    for query in range(0, limits.n_queries, QUERIES_PER_TILE):
        last = min(query + QUERIES_PER_TILE, limits.n_queries) - 1
        shared = causal_limit(limits, query) if query < last else 0  # positions that all four attend to
        if shared > values.first:
            wide, narrow = zero_rows(QUERIES_PER_TILE, VECTORS), zero_rows(QUERIES_PER_TILE, 1)
            _add_values(wide, narrow, query, 0, shared, values, weights, out)
        for each in range(query, last + 1):
            limit = causal_limit(limits, each)
            if limit > max(shared, values.first):
                _add_values(zero_rows(1, VECTORS), zero_rows(1, 1), each, shared, limit, values, weights, out)


@jit
def _add_values(
    wide: Any, narrow: Any, query: int, begin: int, end: int, values: Tile, weights: Floats, out: Floats
) -> None:
    """Add the values of positions ``begin`` to ``end`` of the block, as far as they are in the tile, in their order.

    The number of rows of the register tiles ``wide`` and ``narrow`` is the number of queries, from ``query`` on.
    """
    head_dim, first = values.head_dim, values.first
    positions = range(max(begin - first, 0), min(end - first, POSITIONS_PER_TILE))
    weight, at = query * POSITIONS_PER_BLOCK + first, query * head_dim
    distance = values.prefetch_distance
    for i in range(0, head_dim // WIDTH * WIDTH, WIDTH):
        tile = load_rows(wide, out, at + i, head_dim)
        for position in positions:
            vectors = load_vectors(wide, values.numbers, values.at + position * head_dim + i, LANES, distance)
            tile = add_to_rows(tile, vectors, weights, weight + position, POSITIONS_PER_BLOCK)
        store_rows(out, at + i, head_dim, tile)
    for i in range(head_dim // WIDTH * WIDTH, head_dim, LANES):
        column = load_rows(narrow, out, at + i, head_dim)
        for position in positions:
            vector = load_vectors(narrow, values.numbers, values.at + position * head_dim + i, LANES, distance)
            column = add_to_rows(column, vector, weights, weight + position, POSITIONS_PER_BLOCK)
        store_rows(out, at + i, head_dim, column)
