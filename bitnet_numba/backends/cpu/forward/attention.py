"""The attention of one layer inside the forward pass: RoPE, the KV cache, and grouped queries over it."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.forward.arrays import K, Q, Step, V
from bitnet_numba.backends.cpu.kernels.attention.block import Seen, attend_block_worker, scratch_of, unseeing
from bitnet_numba.backends.cpu.kernels.attention.results import (
    begin_merge,
    copy_results,
    end_merge,
    merge_block,
    results_of,
)
from bitnet_numba.backends.cpu.kernels.attention.store import BLOCK, HeadBlock, head_block_at, store_position_worker
from bitnet_numba.backends.cpu.kernels.jit import ATTENTION, KV_CACHE_UPDATE, ROPE, jit, jit_inline
from bitnet_numba.backends.cpu.kernels.residual import scale_worker
from bitnet_numba.backends.cpu.kernels.rope import rope_worker
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier, claim

Sums = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@jit_inline
def attention(ctx: ThreadContext, step: Step, layer: int) -> None:
    """Write each slot's attention output to ``state.attended``; keys and values of the tokens go to the cache."""
    counts = step.state.counts
    if ctx.thread == 0:
        counts[ROPE] += 1
        counts[KV_CACHE_UPDATE] += 1
        counts[ATTENTION] += 1
    if step.inputs.tokens.size == 1:
        attend_one(ctx, step, layer)
    else:
        attend_many(ctx, step, layer)


# ---- one token -------------------------------------------------------------------------------------------------------
@jit_inline
def attend_one(ctx: ThreadContext, step: Step, layer: int) -> None:
    """Tasks are blocks of positions; whoever has the last one stores the token's key and value first."""
    shape, state, slot, position = step.inputs.shape, step.state, ctx.thread, step.inputs.positions[0]
    turn_queries(step, layer, slot, state.qkv[0], position)
    n_blocks = position // BLOCK + 1
    n_tasks = shape.n_kv_heads * n_blocks
    task = claim(ctx, n_tasks)
    while task >= 0:
        index, kv_head = task // shape.n_kv_heads, task % shape.n_kv_heads
        block = head_block(step, layer, kv_head, 0, index)
        if index == n_blocks - 1:
            store(ctx, step, layer, slot, state.qkv[0], kv_head, block, position)
        attend_group(ctx, step, kv_head, index, block)
        task = claim(ctx, n_tasks)
    barrier(ctx)
    scratch = scratch_of(state.attention, ctx.thread)
    begin_merge(scratch.merged, shape.n_heads, shape.head_dim)
    for index in range(n_blocks):
        merge_block(scratch.merged, results_of(state.blocks, index), 0, shape.n_heads, shape.head_dim, scratch.factors)
    for head in range(shape.n_heads):
        end_merge(scratch.merged, head, state.attended[slot, head * shape.head_dim : (head + 1) * shape.head_dim])


@jit
def attend_group(ctx: ThreadContext, step: Step, kv_head: int, index: int, block: HeadBlock) -> None:
    """Take all query heads of a group over one block of positions."""
    shape, state, scratch = step.inputs.shape, step.state, scratch_of(step.state.attention, ctx.thread)
    group = shape.n_heads // shape.n_kv_heads
    seen = Seen(group, step.inputs.positions[0] + 1 - index * BLOCK, group)
    attend_block_worker(queries_of(step, kv_head, ctx.thread), block, seen, scratch)
    copy_results(scratch.found, group, shape.head_dim, results_of(state.blocks, index), kv_head * group)


# ---- many tokens -----------------------------------------------------------------------------------------------------
@jit_inline
def attend_many(ctx: ThreadContext, step: Step, layer: int) -> None:
    """Tasks are tiles of tokens for a group of heads, after all keys and values are in the cache.

    Sequence after sequence, whose heads lie one behind the other in memory; but all tiles of a head together, which
    read the same.
    """
    shape, state = step.inputs.shape, step.state
    for token in range(ctx.thread, step.inputs.tokens.size, ctx.n_threads):
        position, sums = step.inputs.positions[token], state.qkv[token]
        turn_queries(step, layer, token, sums, position)
        for kv_head in range(shape.n_kv_heads):
            block = head_block(step, layer, kv_head, token, position // BLOCK)
            store(ctx, step, layer, token, sums, kv_head, block, position)
    barrier(ctx)
    n_tasks = step.inputs.tiles.shape[0] * shape.n_kv_heads
    task = claim(ctx, n_tasks)
    while task >= 0:
        _, _, first, n_tiles = step.inputs.tiles[task // shape.n_kv_heads]  # some tile of the task's sequence
        number = task - first * shape.n_kv_heads
        attend_tile(ctx, step, layer, first + number % n_tiles, number // n_tiles)
        task = claim(ctx, n_tasks)
    barrier(ctx)


@jit
def attend_tile(ctx: ThreadContext, step: Step, layer: int, tile: int, kv_head: int) -> None:
    """Take the queries of a tile over one block after the other."""
    shape, state, scratch = step.inputs.shape, step.state, scratch_of(step.state.attention, ctx.thread)
    first, n_tokens, _, _ = step.inputs.tiles[tile]
    group, position = shape.n_heads // shape.n_kv_heads, step.inputs.positions[first]
    n_queries = n_tokens * group
    queries = queries_of(step, kv_head, first)
    begin_merge(scratch.merged, n_queries, shape.head_dim)
    for index in range((position + n_tokens - 1) // BLOCK + 1):
        seen = Seen(n_queries, position + 1 - index * BLOCK, group)
        attend_block_worker(queries, head_block(step, layer, kv_head, first, index), seen, scratch)
        merge_block(scratch.merged, scratch.found, unseeing(seen), n_queries, shape.head_dim, scratch.factors)
    for query in range(n_queries):
        head = kv_head * group + query % group
        out = state.attended[first + query // group, head * shape.head_dim : (head + 1) * shape.head_dim]
        end_merge(scratch.merged, query, out)


# ---- what both are made of -------------------------------------------------------------------------------------------
@jit_inline
def head_block(step: Step, layer: int, kv_head: int, token: int, index: int) -> HeadBlock:
    """View block number ``index`` of the sequence that a token belongs to."""
    shape = step.inputs.shape
    page = step.inputs.pages[step.inputs.sequences[token], index]
    return head_block_at(page, layer * shape.n_kv_heads + kv_head, step.element, shape.head_dim)


@jit_inline
def queries_of(step: Step, kv_head: int, slot: int) -> Floats:
    """View the turned queries of a key-value head, from a slot on."""
    shape = step.inputs.shape
    size = shape.n_heads // shape.n_kv_heads * shape.head_dim
    return step.state.query[(kv_head * step.state.x.shape[0] + slot) * size :]


@jit_inline
def turn_queries(step: Step, layer: int, slot: int, sums: Sums, position: int) -> None:
    """RoPE on every query head, and the division by the root of the head size."""
    shape, weights, state = step.inputs.shape, step.weights, step.state
    factor = weights.scales[layer, Q] / state.scale[slot] * shape.query_scale
    group = shape.n_heads // shape.n_kv_heads
    for head in range(shape.n_heads):
        turned = queries_of(step, head // group, slot)[head % group * shape.head_dim :][: shape.head_dim]
        of_head = sums[head * shape.head_dim : (head + 1) * shape.head_dim]
        rope_worker(of_head, factor, weights.rope[position], turned)


@jit_inline
def store(
    ctx: ThreadContext, step: Step, layer: int, slot: int, sums: Sums, kv_head: int, block: HeadBlock, position: int
) -> None:
    """RoPE on a key; key and value into the cache."""
    shape, weights, state = step.inputs.shape, step.weights, step.state
    key, value = state.key[ctx.thread], state.value[ctx.thread]
    key_at = (shape.n_heads + kv_head) * shape.head_dim
    value_at = key_at + shape.n_kv_heads * shape.head_dim
    key_factor = weights.scales[layer, K] / state.scale[slot]
    rope_worker(sums[key_at : key_at + shape.head_dim], key_factor, weights.rope[position], key)
    value_factor = weights.scales[layer, V] / state.scale[slot]
    scale_worker(sums[value_at : value_at + shape.head_dim], value_factor, value)
    store_position_worker(block, position % BLOCK, key, value)
