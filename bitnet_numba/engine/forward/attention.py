"""The attention of one layer inside the forward pass: RoPE, the KV cache, and grouped queries over it."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.engine.forward.arrays import K, Q, Step, V
from bitnet_numba.kernels.attention import BLOCK, attend_block_worker, merge_worker, store_position_worker
from bitnet_numba.kernels.jit import ATTENTION, KV_CACHE_UPDATE, ROPE, jit_inline
from bitnet_numba.kernels.residual import scale_worker
from bitnet_numba.kernels.rope import rope_worker
from bitnet_numba.simd.team import Crew, barrier, claim

Sums = npt.NDArray[np.int32]


@jit_inline
def attention(crew: Crew, step: Step, layer: int) -> None:
    """Write each slot's attention output to ``state.attended``; keys and values of the tokens go to the cache."""
    counts = step.state.counts
    if crew.thread == 0:
        counts[ROPE] += 1
        counts[KV_CACHE_UPDATE] += 1
        counts[ATTENTION] += 1
    if step.n_tokens == 1:
        attend_one(crew, step, layer)
    else:
        attend_many(crew, step, layer)


@jit_inline
def attend_one(crew: Crew, step: Step, layer: int) -> None:
    """Tasks are blocks of positions; whoever has the last one stores the token's key and value first."""
    shape, state, cache, slot = step.shape, step.state, step.cache, crew.thread
    turn_queries(step, layer, slot, state.qkv[0], step.position)
    n_blocks = step.position // BLOCK + 1
    group = shape.n_heads // shape.n_kv_heads
    task = claim(crew, shape.n_kv_heads * n_blocks)
    while task >= 0:
        kv_head, block = task // n_blocks, task % n_blocks
        if block == n_blocks - 1:
            store(crew, step, layer, slot, state.qkv[0], kv_head, step.position)
        count = min(BLOCK, step.position + 1 - block * BLOCK)
        keys, values = cache.keys[layer, kv_head], cache.values[layer, kv_head]
        for head in range(kv_head * group, (kv_head + 1) * group):
            query = state.query[slot, head * shape.head_dim : (head + 1) * shape.head_dim]
            scores, partial = state.scores[crew.thread], state.partials[head, block]
            attend_block_worker(query, keys, values, block * BLOCK, count, scores, partial)
        task = claim(crew, shape.n_kv_heads * n_blocks)
    barrier(crew)
    for head in range(shape.n_heads):
        out = state.attended[slot, head * shape.head_dim : (head + 1) * shape.head_dim]
        merge_worker(state.partials[head], n_blocks, out)


@jit_inline
def attend_many(crew: Crew, step: Step, layer: int) -> None:
    """Tasks are heads of tokens, after all keys and values are in the cache."""
    shape, state, cache = step.shape, step.state, step.cache
    for token in range(crew.thread, step.n_tokens, crew.n_threads):
        turn_queries(step, layer, token, state.qkv[token], step.position + token)
        for kv_head in range(shape.n_kv_heads):
            store(crew, step, layer, token, state.qkv[token], kv_head, step.position + token)
    barrier(crew)
    group = shape.n_heads // shape.n_kv_heads
    scores, partials = state.scores[crew.thread], state.partials[crew.thread]
    task = claim(crew, step.n_tokens * shape.n_heads)
    while task >= 0:
        token, head = task // shape.n_heads, task % shape.n_heads
        place = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
        query = state.query[token, place]
        keys, values = cache.keys[layer, head // group], cache.values[layer, head // group]
        n_positions = step.position + token + 1
        n_blocks = (n_positions + BLOCK - 1) // BLOCK
        for block in range(n_blocks):
            count = min(BLOCK, n_positions - block * BLOCK)
            attend_block_worker(query, keys, values, block * BLOCK, count, scores, partials[block])
        merge_worker(partials, n_blocks, state.attended[token, place])
        task = claim(crew, step.n_tokens * shape.n_heads)
    barrier(crew)


@jit_inline
def turn_queries(step: Step, layer: int, slot: int, sums: Sums, position: int) -> None:
    """RoPE on every query head, and the division by the root of the head size."""
    shape, weights, state = step.shape, step.weights, step.state
    factor = weights.scales[layer, Q] / state.scale[slot] * shape.query_scale
    for head in range(shape.n_heads):
        place = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
        rope_worker(sums[place], factor, weights.rope[position], state.query[slot, place])


@jit_inline
def store(crew: Crew, step: Step, layer: int, slot: int, sums: Sums, kv_head: int, position: int) -> None:
    """RoPE on a key; key and value into the cache."""
    shape, weights, state, cache = step.shape, step.weights, step.state, step.cache
    key, value = state.key[crew.thread], state.value[crew.thread]
    key_at = (shape.n_heads + kv_head) * shape.head_dim
    value_at = key_at + shape.n_kv_heads * shape.head_dim
    key_factor = weights.scales[layer, K] / state.scale[slot]
    rope_worker(sums[key_at : key_at + shape.head_dim], key_factor, weights.rope[position], key)
    value_factor = weights.scales[layer, V] / state.scale[slot]
    scale_worker(sums[value_at : value_at + shape.head_dim], value_factor, value)
    store_position_worker(cache.keys[layer, kv_head], cache.values[layer, kv_head], position, key, value)
