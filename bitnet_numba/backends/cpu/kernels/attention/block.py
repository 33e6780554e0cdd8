"""The queries of a few neighbouring tokens over one block of positions, four at a time.

Every sum has the terms and the order that it has for one query alone: a query's scores run over its elements, its
values over the positions that it sees, both from the first to the last.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.attention.results import MASKED, Results, new_results, results_of
from bitnet_numba.backends.cpu.kernels.attention.store import BLOCK, TILE, HeadBlock
from bitnet_numba.backends.cpu.kernels.jit import jit, jit_inline
from bitnet_numba.backends.cpu.kernels.softmax import exp_to_1
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.float_tile import add_to_rows, load_rows, load_vectors, store_rows, zero_rows
from bitnet_numba.backends.cpu.simd.memory import broadcast_from, load_f32, prefetch, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import (
    add_f32,
    keep_first,
    largest_f32,
    max_f32,
    mul_f32,
    sub_f32,
    sum_f32,
    zero_f32,
)

ROWS = 4  # queries of a register tile
VECTORS = 4 if cpu.vector_isa() == "avx512_vnni" else 1  # of each query: sixteen sums fill the registers elsewhere
WIDTH = VECTORS * LANES
FEW_POSITIONS = WIDTH // 2  # of a tile: up to so many are scored sixteen by sixteen, and the others not read
UNPACKED_QUERIES = 8  # for more than so many, a tile of keys or values becomes float32 once, not for every four

Floats = npt.NDArray[np.float32]


class Seen(NamedTuple):
    """How far the queries of neighbouring tokens see into a block.

    Attributes
    ----------
    n_queries : int
    first : int
        How many positions the first token sees; each next one sees one more. None where that is 0 or less, and all of
        the block at most.
    group : int
        Queries of a token.
    """

    n_queries: int
    first: int
    group: int


class Scratch(NamedTuple):
    """Memory for the attention of up to ``n`` queries, a multiple of four; or of several threads.

    Attributes
    ----------
    unpacked : float32[..., 64 * head_dim]
        A tile of keys or values.
    scores : float32[..., n * 256]
    found, merged : Results
        Of the block at hand, and of all until then.
    factors : float32[..., 2, n + 16]
        For the merging of both.
    """

    unpacked: Floats
    scores: Floats
    found: Results
    merged: Results
    factors: Floats


def attention_scratch(n_threads: int, n_queries: int, head_dim: int) -> Scratch:
    """Allocate scratch memory of so many threads, for at least so many queries."""
    rows = (n_queries + ROWS - 1) // ROWS * ROWS
    return Scratch(
        unpacked=np.zeros((n_threads, TILE * head_dim), np.float32),
        scores=np.zeros((n_threads, rows * BLOCK), np.float32),
        found=new_results(n_threads, rows, head_dim),
        merged=new_results(n_threads, rows, head_dim),
        factors=np.zeros((n_threads, 2, rows + LANES), np.float32),
    )


@jit_inline
def scratch_of(scratch: Scratch, thread: int) -> Scratch:
    """View a thread's share."""
    return Scratch(
        scratch.unpacked[thread],
        scratch.scores[thread],
        results_of(scratch.found, thread),
        results_of(scratch.merged, thread),
        scratch.factors[thread],
    )


class Tile(NamedTuple):
    """The keys or values of 64 positions.

    Attributes
    ----------
    numbers : float32, uint16 or int8 [n]
        Them, or all of the block's.
    at : int
        Where they begin there.
    ahead : int or None
        How many elements behind what is read memory is asked for more; ``None`` where it lies in a cache.
    first : int
        The first position's number in the block.
    head_dim : int
    """

    numbers: npt.NDArray[Any]
    at: int
    ahead: int | None
    first: int
    head_dim: int


@jit_inline
def count_of(seen: Seen, query: int) -> int:
    """Return how many positions of the block a query sees; those after the last see what the last one does."""
    count: int = min(BLOCK, seen.first + min(query, seen.n_queries - 1) // seen.group)
    return count


@jit_inline
def unseeing(seen: Seen) -> int:
    """Return how many of the queries, the first ones, see nothing of the block."""
    count: int = max(0, 1 - seen.first) * seen.group
    return count


@jit
def attend_block_worker(queries: Floats, block: HeadBlock, seen: Seen, scratch: Scratch) -> None:
    """Write to ``scratch.found`` each query's results over the positions of the block that it sees.

    ``queries`` are rows of head_dim elements, at least as many as the next multiple of four.
    """
    unpacked, scores, results = scratch.unpacked, scratch.scores, scratch.found
    head_dim = unpacked.size // TILE
    unpacks, most = seen.n_queries > UNPACKED_QUERIES, count_of(seen, seen.n_queries - 1)
    for first in range(0, most, TILE):
        ahead = ahead_of(first, most, head_dim)
        keys = Tile(block.keys, first * head_dim, ahead, first, head_dim)
        if unpacks:
            _score(queries, _unpack(keys, ahead, unpacked), block.key_scales, seen, scores)
        else:
            _score(queries, keys, block.key_scales, seen, scores)
    _find_maxima(seen, scores, results.maxima)
    _weigh_scores(block.value_scales, seen, scores, results)
    results.values[: (seen.n_queries + ROWS - 1) // ROWS * ROWS * head_dim] = 0
    for first in range(0, most, TILE):
        ahead = ahead_of(first, most, head_dim)
        values = Tile(block.values, first * head_dim, ahead, first, head_dim)
        if unpacks:
            _weigh_values(_unpack(values, ahead, unpacked), seen, scores, results.values)
        else:
            _weigh_values(values, seen, scores, results.values)


@jit_inline
def ahead_of(first: int, most: int, head_dim: int) -> int:
    """Return how far ahead of a tile the next one lies: after the last keys come values, then the next head's keys.

    A last tile of few positions, which follows directly, is not asked for.
    """
    places: int = TILE if first + TILE + FEW_POSITIONS < most else BLOCK - first
    return places * head_dim


@jit
def _unpack(stored: Tile, ahead: int, unpacked: Floats) -> Tile:
    """Make a tile of stored numbers float32, and ask for what lies ``ahead``."""
    for i in range(0, unpacked.size, 2 * LANES):
        at = stored.at + i
        prefetch(stored.numbers, at + ahead)
        store_f32(unpacked, i, load_f32(stored.numbers, at))
        store_f32(unpacked, i + LANES, load_f32(stored.numbers, at + LANES))
    return Tile(unpacked, 0, None, stored.first, stored.head_dim)


# ---- scores ----------------------------------------------------------------------------------------------------------
@jit
def _score(queries: Floats, keys: Tile, scales: Floats, seen: Seen, scores: Floats) -> None:
    """Score a tile of positions for all queries that see any of it."""
    n_seen = count_of(seen, seen.n_queries - 1) - keys.first
    for query in range(0, seen.n_queries, ROWS):
        if count_of(seen, query + ROWS - 1) <= keys.first:
            continue
        if n_seen <= FEW_POSITIONS:
            for place in range(0, n_seen, LANES):
                narrow = _products(zero_rows(ROWS, 1), queries, query, keys, place)
                _store_scores(narrow, query, keys.first + place, scales, seen, scores)
        else:
            for place in range(0, TILE, WIDTH):
                if query + 1 < seen.n_queries:
                    sums = _products(zero_rows(ROWS, VECTORS), queries, query, keys, place)
                    _store_scores(sums, query, keys.first + place, scales, seen, scores)
                else:
                    alone = _products(zero_rows(1, VECTORS), queries, query, keys, place)
                    _store_scores(alone, query, keys.first + place, scales, seen, scores)


@jit
def _products(sums: Any, queries: Floats, query: int, keys: Tile, place: int) -> Any:
    """Multiply queries by keys from ``place`` of the tile on: a lane is a position, so no sum crosses lanes."""
    at, head_dim = keys.at + place * keys.head_dim, keys.head_dim
    for i in range(head_dim):
        vectors = load_vectors(sums, keys.numbers, at + LANES * i, LANES * head_dim, keys.ahead)
        sums = add_to_rows(sums, vectors, queries, query * head_dim + i, head_dim)
    return sums


@jit
def _store_scores(sums: Any, first_query: int, first: int, scales: Floats, seen: Seen, scores: Floats) -> None:
    """Store scores of positions from ``first`` on, as good as minus infinity where a query does not see them."""
    query = first_query
    for row in sums:
        place = first
        for total in row:
            if scales.size:
                total = mul_f32(total, load_f32(scales, place))
            kept = keep_first(total, np.int32(count_of(seen, query) - place), MASKED)
            store_f32(scores, query * BLOCK + place, kept)
            place += LANES
        query += 1


@jit
def _find_maxima(seen: Seen, scores: Floats, maxima: Floats) -> None:
    """Note each query's largest score, of those that see anything."""
    for query in range(unseeing(seen), seen.n_queries):
        begin = query * BLOCK
        largest = load_f32(scores, begin)
        for i in range(begin + LANES, begin + count_of(seen, query), LANES):
            largest = max_f32(load_f32(scores, i), largest)
        maxima[query] = largest_f32(largest)


@jit
def _weigh_scores(scales: Floats, seen: Seen, scores: Floats, results: Results) -> None:
    """Turn scores into their exponentials, and note the sums of these.

    For int8 what is left in ``scores`` is also multiplied by the scale of each position's value.
    """
    for query in range(unseeing(seen), seen.n_queries):
        begin = query * BLOCK
        offset, total = broadcast_from(results.maxima, query), zero_f32()
        for i in range(begin, begin + count_of(seen, query), LANES):
            weight = exp_to_1(sub_f32(load_f32(scores, i), offset))
            total = add_f32(total, weight)
            if scales.size:
                weight = mul_f32(weight, load_f32(scales, i - begin))
            store_f32(scores, i, weight)
        results.totals[query] = sum_f32(total)


# ---- values ----------------------------------------------------------------------------------------------------------
@jit
def _weigh_values(values: Tile, seen: Seen, weights: Floats, sums: Floats) -> None:
    """Add a tile of values, each times its weight, to the sums of all queries that see any of it."""
    for query in range(0, seen.n_queries, ROWS):
        last = min(query + ROWS, seen.n_queries) - 1
        together = count_of(seen, query) if query < last else 0
        if together > values.first:
            _add_values(zero_rows(ROWS, VECTORS), zero_rows(ROWS, 1), query, 0, together, values, weights, sums)
        for each in range(query, last + 1):
            count = count_of(seen, each)
            if count > max(together, values.first):
                _add_values(zero_rows(1, VECTORS), zero_rows(1, 1), each, together, count, values, weights, sums)


@jit
def _add_values(
    wide: Any, narrow: Any, query: int, begin: int, count: int, values: Tile, weights: Floats, sums: Floats
) -> None:
    """Add the values of positions from ``begin`` to ``count``, as far as they lie in the tile, in their order.

    As many queries as the tiles of sums ``wide`` and ``narrow`` have rows take part, from ``query`` on.
    """
    head_dim, first = values.head_dim, values.first
    places = range(max(begin - first, 0), min(count - first, TILE))
    weight, place = query * BLOCK + first, query * head_dim
    for i in range(0, head_dim // WIDTH * WIDTH, WIDTH):
        tile = load_rows(wide, sums, place + i, head_dim)
        for position in places:
            vectors = load_vectors(wide, values.numbers, values.at + position * head_dim + i, LANES, values.ahead)
            tile = add_to_rows(tile, vectors, weights, weight + position, BLOCK)
        store_rows(sums, place + i, head_dim, tile)
    for i in range(head_dim // WIDTH * WIDTH, head_dim, LANES):
        column = load_rows(narrow, sums, place + i, head_dim)
        for position in places:
            vector = load_vectors(narrow, values.numbers, values.at + position * head_dim + i, LANES, values.ahead)
            column = add_to_rows(column, vector, weights, weight + position, BLOCK)
        store_rows(sums, place + i, head_dim, column)
