"""Attention of one layer: rotate queries and keys, store keys and values in the KV cache, attend over it."""

from bitnet_numba.backends.cpu.array_types import Floats, Int32s
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_inline, jit_separate
from bitnet_numba.backends.cpu.forward.arrays import K, Q, Step, V
from bitnet_numba.backends.cpu.forward.faults import KEYS_AND_VALUES, note_fault
from bitnet_numba.backends.cpu.kernels.attention.block import attend_block, scratch_of
from bitnet_numba.backends.cpu.kernels.attention.causal import CausalLimits, n_masked
from bitnet_numba.backends.cpu.kernels.attention.results import (
    begin_merge,
    copy_results,
    end_merge,
    merge_block,
    results_of,
)
from bitnet_numba.backends.cpu.kernels.attention.store import (
    POSITIONS_PER_BLOCK,
    HeadBlock,
    head_block_at,
    store_position,
)
from bitnet_numba.backends.cpu.kernels.registry import Kernel
from bitnet_numba.backends.cpu.kernels.residual import scale
from bitnet_numba.backends.cpu.kernels.rope import rope
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier, claim


@jit_inline
def attention(ctx: ThreadContext, step: Step, layer: int) -> None:
    """Write each slot's attention output to ``state.attn``, and store the tokens' keys and values."""
    counts = step.state.counts
    if ctx.thread == 0:
        counts[Kernel.ROPE] += 1
        counts[Kernel.KV_CACHE_UPDATE] += 1
        counts[Kernel.ATTENTION] += 1
    if step.inputs.tokens.size == 1:
        attend_one(ctx, step, layer)
    else:
        attend_many(ctx, step, layer)


# ---- one token -------------------------------------------------------------------------------------------------------
@jit_separate
def attend_one(ctx: ThreadContext, step: Step, layer: int) -> None:
    """Attend by tasks of one block of positions; the last block's thread stores the token's key and value first."""
    shape, state, slot, position = step.inputs.shape, step.state, ctx.thread, step.inputs.positions[0]
    rotate_queries(step, layer, slot, state.qkv[0], position)
    n_blocks = position // POSITIONS_PER_BLOCK + 1
    n_tasks = shape.n_kv_heads * n_blocks
    task = claim(ctx, n_tasks)
    while task >= 0:
        index, kv_head = task // shape.n_kv_heads, task % shape.n_kv_heads
        block = head_block(step, layer, kv_head, 0, index)
        if index == n_blocks - 1:
            store_kv(ctx, step, layer, slot, state.qkv[0], kv_head, block, position)
        attend_group(ctx, step, kv_head, index, block)
        task = claim(ctx, n_tasks)
    barrier(ctx)
    scratch = scratch_of(state.attention, ctx.thread)
    begin_merge(scratch.merged, shape.n_heads, shape.head_dim)
    for index in range(n_blocks):
        results = results_of(state.blocks, index)
        merge_block(results, 0, shape.n_heads, shape.head_dim, scratch.factors, scratch.merged)
    for head in range(shape.n_heads):
        end_merge(scratch.merged, head, state.attn[slot, head * shape.head_dim : (head + 1) * shape.head_dim])


@jit
def attend_group(ctx: ThreadContext, step: Step, kv_head: int, index: int, block: HeadBlock) -> None:
    """Attend with the query heads of one key-value head over one block of positions."""
    shape, state, scratch = step.inputs.shape, step.state, scratch_of(step.state.attention, ctx.thread)
    group = shape.n_heads // shape.n_kv_heads
    limits = CausalLimits(group, step.inputs.positions[0] + 1 - index * POSITIONS_PER_BLOCK, group)
    attend_block(queries_of(step, kv_head, ctx.thread), block, limits, scratch)
    copy_results(scratch.block, group, shape.head_dim, kv_head * group, results_of(state.blocks, index))


# ---- many tokens -----------------------------------------------------------------------------------------------------
@jit_separate
def attend_many(ctx: ThreadContext, step: Step, layer: int) -> None:
    """Store all keys and values, then attend by tasks of a tile of tokens and one key-value head.

    Tasks are ordered by sequence, then head, then tile, so that those that read the same memory are neighbours.
    """
    shape, state = step.inputs.shape, step.state
    for token in range(ctx.thread, step.inputs.tokens.size, ctx.n_threads):
        position, acc = step.inputs.positions[token], state.qkv[token]
        rotate_queries(step, layer, token, acc, position)
        for kv_head in range(shape.n_kv_heads):
            block = head_block(step, layer, kv_head, token, position // POSITIONS_PER_BLOCK)
            store_kv(ctx, step, layer, token, acc, kv_head, block, position)
    barrier(ctx)
    n_tasks = step.inputs.tiles.shape[0] * shape.n_kv_heads
    task = claim(ctx, n_tasks)
    while task >= 0:
        _, _, first, n_tiles = step.inputs.tiles[task // shape.n_kv_heads]  # some tile of the task's sequence
        offset = task - first * shape.n_kv_heads
        attend_tile(ctx, step, layer, first + offset % n_tiles, offset // n_tiles)
        task = claim(ctx, n_tasks)
    barrier(ctx)


@jit
def attend_tile(ctx: ThreadContext, step: Step, layer: int, tile: int, kv_head: int) -> None:
    """Attend with the queries of a tile over one block after the other."""
    shape, state, scratch = step.inputs.shape, step.state, scratch_of(step.state.attention, ctx.thread)
    first, n_tokens, _, _ = step.inputs.tiles[tile]
    group, position = shape.n_heads // shape.n_kv_heads, step.inputs.positions[first]
    n_queries = n_tokens * group
    queries = queries_of(step, kv_head, first)
    begin_merge(scratch.merged, n_queries, shape.head_dim)
    for index in range((position + n_tokens - 1) // POSITIONS_PER_BLOCK + 1):
        limits = CausalLimits(n_queries, position + 1 - index * POSITIONS_PER_BLOCK, group)
        attend_block(queries, head_block(step, layer, kv_head, first, index), limits, scratch)
        merge_block(scratch.block, n_masked(limits), n_queries, shape.head_dim, scratch.factors, scratch.merged)
    for query in range(n_queries):
        head = kv_head * group + query % group
        out = state.attn[first + query // group, head * shape.head_dim : (head + 1) * shape.head_dim]
        end_merge(scratch.merged, query, out)


# ---- both ------------------------------------------------------------------------------------------------------------
@jit_inline
def head_block(step: Step, layer: int, kv_head: int, token: int, index: int) -> HeadBlock:
    """View block ``index`` of a token's sequence."""
    shape = step.inputs.shape
    page = step.inputs.pages[step.inputs.sequences[token], index]
    return head_block_at(page, layer * shape.n_kv_heads + kv_head, step.element, shape.head_dim)


@jit_inline
def queries_of(step: Step, kv_head: int, slot: int) -> Floats:
    """View the rotated queries of a key-value head, from a slot on."""
    shape = step.inputs.shape
    size = shape.n_heads // shape.n_kv_heads * shape.head_dim
    return step.state.query[(kv_head * step.state.x.shape[0] + slot) * size :]


@jit_inline
def rotate_queries(step: Step, layer: int, slot: int, acc: Int32s, position: int) -> None:
    """Rotate every query head, and divide it by the square root of the head size."""
    shape, weights, state = step.inputs.shape, step.weights, step.state
    factor = weights.scales[layer, Q] / state.scale[slot] * shape.query_scale
    group = shape.n_heads // shape.n_kv_heads
    for head in range(shape.n_heads):
        rotated = queries_of(step, head // group, slot)[head % group * shape.head_dim :][: shape.head_dim]
        head_acc = acc[head * shape.head_dim : (head + 1) * shape.head_dim]
        rope(head_acc, factor, weights.rope[position], rotated)


@jit_inline
def store_kv(
    ctx: ThreadContext,
    step: Step,
    layer: int,
    slot: int,
    acc: Int32s,
    kv_head: int,
    block: HeadBlock,
    position: int,
) -> None:
    """Rotate the key of a head, and store key and value in its block."""
    shape, weights, state = step.inputs.shape, step.weights, step.state
    key, value = state.key[ctx.thread], state.value[ctx.thread]
    key_at = (shape.n_heads + kv_head) * shape.head_dim
    value_at = key_at + shape.n_kv_heads * shape.head_dim
    key_factor = weights.scales[layer, K] / state.scale[slot]
    rope(acc[key_at : key_at + shape.head_dim], key_factor, weights.rope[position], key)
    value_factor = weights.scales[layer, V] / state.scale[slot]
    scale(acc[value_at : value_at + shape.head_dim], value_factor, value)
    is_stored = store_position(key, value, position % POSITIONS_PER_BLOCK, block)
    note_fault(ctx, state.faults, layer, KEYS_AND_VALUES, is_stored)
