"""The attention of one layer inside the forward pass: RoPE, the KV cache, and grouped queries over it."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.engine.forward.arrays import K, Q, Step, V
from bitnet_numba.kernels.attention.block import attend_block_worker, begin_merge, end_merge, merge_block
from bitnet_numba.kernels.attention.four import attend_block_four_worker
from bitnet_numba.kernels.attention.store import BLOCK, HeadBlock, head_block_at, store_position_worker
from bitnet_numba.kernels.jit import ATTENTION, KV_CACHE_UPDATE, ROPE, jit, jit_inline
from bitnet_numba.kernels.residual import scale_worker
from bitnet_numba.kernels.rope import rope_worker
from bitnet_numba.simd.team import Crew, barrier, claim

Sums = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@jit_inline
def attention(crew: Crew, step: Step, layer: int) -> None:
    """Write each slot's attention output to ``state.attended``; keys and values of the tokens go to the cache."""
    counts = step.state.counts
    if crew.thread == 0:
        counts[ROPE] += 1
        counts[KV_CACHE_UPDATE] += 1
        counts[ATTENTION] += 1
    if step.tokens.size == 1:
        attend_one(crew, step, layer)
    else:
        attend_many(crew, step, layer)


# ---- one token -------------------------------------------------------------------------------------------------------
@jit_inline
def attend_one(crew: Crew, step: Step, layer: int) -> None:
    """Tasks are blocks of positions; whoever has the last one stores the token's key and value first."""
    shape, state, slot, position = step.shape, step.state, crew.thread, step.positions[0]
    turn_queries(step, layer, slot, state.qkv[0], position)
    n_blocks = position // BLOCK + 1
    n_tasks = shape.n_kv_heads * n_blocks
    task = claim(crew, n_tasks)
    while task >= 0:
        kv_head, index = task // n_blocks, task % n_blocks
        block = head_block(step, layer, kv_head, 0, index)
        if index == n_blocks - 1:
            store(crew, step, layer, slot, state.qkv[0], kv_head, block, position)
        attend_group(crew, step, kv_head, index, block)
        task = claim(crew, n_tasks)
    barrier(crew)
    merged = state.merged[crew.thread, 0]
    for head in range(shape.n_heads):
        begin_merge(merged)
        for index in range(n_blocks):
            merge_block(merged, state.partials[head, index])
        end_merge(merged, state.attended[slot, head * shape.head_dim : (head + 1) * shape.head_dim])


@jit
def attend_group(crew: Crew, step: Step, kv_head: int, index: int, block: HeadBlock) -> None:
    """Take all query heads of a group over one block of positions, while it lies in the nearest cache."""
    shape, state = step.shape, step.state
    count = min(BLOCK, step.positions[0] + 1 - index * BLOCK)
    counts = (count, count, count, count)
    head = kv_head * (shape.n_heads // shape.n_kv_heads)
    end = head + shape.n_heads // shape.n_kv_heads
    queries, scores = state.query[crew.thread], state.scores[crew.thread]
    while head + 4 <= end:
        four = four_queries(queries, head * shape.head_dim, shape.head_dim)
        attend_block_four_worker(four, block, counts, scores, state.partials[head : head + 4, index])
        head += 4
    while head < end:
        query = queries[head * shape.head_dim : (head + 1) * shape.head_dim]
        attend_block_worker(query, block, count, scores[0], state.partials[head, index])
        head += 1


@jit_inline
def four_queries(queries: Floats, at: int, size: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return four neighbouring vectors of an array."""
    return (
        queries[at : at + size],
        queries[at + size : at + 2 * size],
        queries[at + 2 * size : at + 3 * size],
        queries[at + 3 * size : at + 4 * size],
    )


# ---- many tokens -----------------------------------------------------------------------------------------------------
@jit_inline
def attend_many(crew: Crew, step: Step, layer: int) -> None:
    """Tasks are tiles of tokens for a group of heads, after all keys and values are in the cache."""
    shape, state = step.shape, step.state
    for token in range(crew.thread, step.tokens.size, crew.n_threads):
        position, sums = step.positions[token], state.qkv[token]
        turn_queries(step, layer, token, sums, position)
        for kv_head in range(shape.n_kv_heads):
            block = head_block(step, layer, kv_head, token, position // BLOCK)
            store(crew, step, layer, token, sums, kv_head, block, position)
    barrier(crew)
    n_tasks = step.tiles.shape[0] * shape.n_kv_heads
    task = claim(crew, n_tasks)
    while task >= 0:
        attend_tile(crew, step, layer, task // shape.n_kv_heads, task % shape.n_kv_heads)
        task = claim(crew, n_tasks)
    barrier(crew)


@jit
def attend_tile(crew: Crew, step: Step, layer: int, tile: int, kv_head: int) -> None:
    """Take the queries of a tile, token by token and head by head, over one block after the other."""
    shape, state = step.shape, step.state
    first, n_tokens = step.tiles[tile]
    group = shape.n_heads // shape.n_kv_heads
    merged = state.merged[crew.thread]
    for query in range(n_tokens * group):
        begin_merge(merged[query])
    for index in range(step.positions[first + n_tokens - 1] // BLOCK + 1):
        block = head_block(step, layer, kv_head, first, index)
        query = 0
        while query < n_tokens * group:
            query += attend_some(crew, step, block, index, first, kv_head * group, n_tokens * group, query)
    for query in range(n_tokens * group):
        head = kv_head * group + query % group
        out = state.attended[first + query // group, head * shape.head_dim : (head + 1) * shape.head_dim]
        end_merge(merged[query], out)


@jit
def attend_some(
    crew: Crew, step: Step, block: HeadBlock, index: int, first: int, first_head: int, n_queries: int, query: int
) -> int:
    """Take four queries, or one where there are fewer or one does not see the block; return how many."""
    state = step.state
    count = seen(step, index, first, query)
    partial, merged, scores = state.partial[crew.thread], state.merged[crew.thread], state.scores[crew.thread]
    if query + 4 <= n_queries and count > 0:
        counts = (
            count,
            seen(step, index, first, query + 1),
            seen(step, index, first, query + 2),
            seen(step, index, first, query + 3),
        )
        queries = (
            query_of(step, first, first_head, query),
            query_of(step, first, first_head, query + 1),
            query_of(step, first, first_head, query + 2),
            query_of(step, first, first_head, query + 3),
        )
        attend_block_four_worker(queries, block, counts, scores, partial)
        for each in range(4):
            merge_block(merged[query + each], partial[each])
        return 4
    if count > 0:
        attend_block_worker(query_of(step, first, first_head, query), block, count, scores[0], partial[0])
        merge_block(merged[query], partial[0])
    return 1


@jit_inline
def seen(step: Step, index: int, first: int, query: int) -> int:
    """Return how many positions of a block a tile's query looks back on; none where that is 0 or less."""
    token = first + query // (step.shape.n_heads // step.shape.n_kv_heads)
    count: int = min(BLOCK, step.positions[token] + 1 - index * BLOCK)
    return count


@jit_inline
def query_of(step: Step, first: int, first_head: int, query: int) -> Floats:
    group, head_dim = step.shape.n_heads // step.shape.n_kv_heads, step.shape.head_dim
    at = (first_head + query % group) * head_dim
    return step.state.query[first + query // group, at : at + head_dim]


# ---- what both are made of -------------------------------------------------------------------------------------------
@jit_inline
def head_block(step: Step, layer: int, kv_head: int, token: int, index: int) -> HeadBlock:
    """View block number ``index`` of the sequence that a token belongs to."""
    shape, cache = step.shape, step.cache
    page = cache.pages[step.sequences[token], index]
    return head_block_at(page, layer * shape.n_kv_heads + kv_head, cache.element, shape.head_dim)


@jit_inline
def turn_queries(step: Step, layer: int, slot: int, sums: Sums, position: int) -> None:
    """RoPE on every query head, and the division by the root of the head size."""
    shape, weights, state = step.shape, step.weights, step.state
    factor = weights.scales[layer, Q] / state.scale[slot] * shape.query_scale
    for head in range(shape.n_heads):
        place = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
        rope_worker(sums[place], factor, weights.rope[position], state.query[slot, place])


@jit_inline
def store(
    crew: Crew, step: Step, layer: int, slot: int, sums: Sums, kv_head: int, block: HeadBlock, position: int
) -> None:
    """RoPE on a key; key and value into the cache."""
    shape, weights, state = step.shape, step.weights, step.state
    key, value = state.key[crew.thread], state.value[crew.thread]
    key_at = (shape.n_heads + kv_head) * shape.head_dim
    value_at = key_at + shape.n_kv_heads * shape.head_dim
    key_factor = weights.scales[layer, K] / state.scale[slot]
    rope_worker(sums[key_at : key_at + shape.head_dim], key_factor, weights.rope[position], key)
    value_factor = weights.scales[layer, V] / state.scale[slot]
    scale_worker(sums[value_at : value_at + shape.head_dim], value_factor, value)
    store_position_worker(block, position % BLOCK, key, value)
