"""The attention of one layer inside the forward pass: RoPE, the KV cache, and grouped queries over it."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.engine.forward.arrays import CacheArrays, K, Q, RunState, Shape, V, Weights
from bitnet_numba.kernels.attention import BLOCK, attend_block_worker, merge_worker, store_position_worker
from bitnet_numba.kernels.jit import ATTENTION, KV_CACHE_UPDATE, ROPE, jit_inline
from bitnet_numba.kernels.residual import scale_worker
from bitnet_numba.kernels.rope import rope_worker
from bitnet_numba.simd.team import Crew, barrier, claim

Sums = npt.NDArray[np.int32]


@jit_inline
def attention(
    crew: Crew,
    shape: Shape,
    weights: Weights,
    cache: CacheArrays,
    state: RunState,
    layer: int,
    n_tokens: int,
    position: int,
) -> None:
    """Write each slot's attention output to ``state.attended``; keys and values of the tokens go to the cache."""
    if crew.thread == 0:
        state.counts[ROPE] += 1
        state.counts[KV_CACHE_UPDATE] += 1
        state.counts[ATTENTION] += 1
    if n_tokens == 1:
        _attend_one(crew, shape, weights, cache, state, layer, position)
    else:
        _attend_many(crew, shape, weights, cache, state, layer, n_tokens, position)


@jit_inline
def _attend_one(
    crew: Crew, shape: Shape, weights: Weights, cache: CacheArrays, state: RunState, layer: int, position: int
) -> None:
    """Tasks are blocks of positions; whoever has the last one stores the token's key and value first."""
    slot, sums = crew.thread, state.qkv[0]
    _turn_queries(shape, weights, state, layer, slot, sums, position)
    n_blocks = position // BLOCK + 1
    task = claim(crew, shape.n_kv_heads * n_blocks)
    while task >= 0:
        kv_head, block = task // n_blocks, task % n_blocks
        if block == n_blocks - 1:
            _store(crew, shape, weights, cache, state, layer, slot, sums, kv_head, position)
        count = min(BLOCK, position + 1 - block * BLOCK)
        group = shape.n_heads // shape.n_kv_heads
        for head in range(kv_head * group, (kv_head + 1) * group):
            attend_block_worker(
                state.query[slot, head * shape.head_dim : (head + 1) * shape.head_dim],
                cache.keys[layer, kv_head],
                cache.values[layer, kv_head],
                block * BLOCK,
                count,
                state.scores[crew.thread],
                state.partials[head, block],
            )
        task = claim(crew, shape.n_kv_heads * n_blocks)
    barrier(crew)
    for head in range(shape.n_heads):
        out = state.attended[slot, head * shape.head_dim : (head + 1) * shape.head_dim]
        merge_worker(state.partials[head], n_blocks, out)


@jit_inline
def _attend_many(
    crew: Crew,
    shape: Shape,
    weights: Weights,
    cache: CacheArrays,
    state: RunState,
    layer: int,
    n_tokens: int,
    position: int,
) -> None:
    """Tasks are heads of tokens, after all keys and values are in the cache."""
    for token in range(crew.thread, n_tokens, crew.n_threads):
        sums = state.qkv[token]
        _turn_queries(shape, weights, state, layer, token, sums, position + token)
        for kv_head in range(shape.n_kv_heads):
            _store(crew, shape, weights, cache, state, layer, token, sums, kv_head, position + token)
    barrier(crew)
    group = shape.n_heads // shape.n_kv_heads
    task = claim(crew, n_tokens * shape.n_heads)
    while task >= 0:
        token, head = task // shape.n_heads, task % shape.n_heads
        place = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
        query, keys, values = (
            state.query[token, place],
            cache.keys[layer, head // group],
            cache.values[layer, head // group],
        )
        n_blocks = (position + token) // BLOCK + 1
        partials = state.partials[crew.thread]
        for block in range(n_blocks):
            count = min(BLOCK, position + token + 1 - block * BLOCK)
            attend_block_worker(query, keys, values, block * BLOCK, count, state.scores[crew.thread], partials[block])
        merge_worker(partials, n_blocks, state.attended[token, place])
        task = claim(crew, n_tokens * shape.n_heads)
    barrier(crew)


@jit_inline
def _turn_queries(
    shape: Shape, weights: Weights, state: RunState, layer: int, slot: int, sums: Sums, position: int
) -> None:
    """RoPE on every query head, and the division by the root of the head size."""
    factor = weights.scales[layer, Q] / state.scale[slot] * shape.query_scale
    for head in range(shape.n_heads):
        at = head * shape.head_dim
        end = at + shape.head_dim
        rope_worker(sums[at:end], factor, weights.rope[position], state.query[slot, at:end])


@jit_inline
def _store(
    crew: Crew,
    shape: Shape,
    weights: Weights,
    cache: CacheArrays,
    state: RunState,
    layer: int,
    slot: int,
    sums: Sums,
    kv_head: int,
    position: int,
) -> None:
    """RoPE on a key; key and value into the cache."""
    key, value = state.key[crew.thread], state.value[crew.thread]
    key_at = (shape.n_heads + kv_head) * shape.head_dim
    value_at = key_at + shape.n_kv_heads * shape.head_dim
    key_factor = weights.scales[layer, K] / state.scale[slot]
    rope_worker(sums[key_at : key_at + shape.head_dim], key_factor, weights.rope[position], key)
    value_factor = weights.scales[layer, V] / state.scale[slot]
    scale_worker(sums[value_at : value_at + shape.head_dim], value_factor, value)
    store_position_worker(cache.keys[layer, kv_head], cache.values[layer, kv_head], position, key, value)
