"""Scratch memory of the forward pass, allocated once for the largest step."""

from typing import Any

import numpy as np

from bitnet_numba.backends.cpu.forward.arrays import MAX_CANDIDATE_TOKENS, QUERY_TILE, RunState
from bitnet_numba.backends.cpu.kernels.attention import (
    POSITIONS_PER_BLOCK,
    QUERIES_PER_TILE,
    attention_scratch,
    new_results,
)
from bitnet_numba.backends.cpu.kernels.head.bounds import new_filter_state
from bitnet_numba.backends.cpu.kernels.registry import new_counts
from bitnet_numba.backends.cpu.kernels.ternary import TOKENS, gemm_scratch
from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes, round_up


def allocate_state(sizes: PaddedSizes, n_threads: int, chunk: int, max_context: int) -> RunState:
    """Allocate the buffers of steps of up to ``chunk`` tokens that attend to up to ``max_context`` positions."""
    config = sizes.config
    slots = round_up(max(chunk, n_threads), TOKENS)
    n_blocks = round_up(max_context, POSITIONS_PER_BLOCK) // POSITIONS_PER_BLOCK
    group = config.n_heads // config.n_kv_heads
    return RunState(
        counts=new_counts(),
        faults=np.zeros(n_threads, np.int32),
        x=np.zeros((slots, sizes.hidden), np.float32),
        normed=np.zeros((slots, sizes.hidden), np.float32),
        scale=np.ones(slots, np.float32),
        q_sum=np.zeros(slots, np.int32),
        q_hidden=np.zeros((slots, sizes.hidden), np.int8),
        q_attn=np.zeros((slots, sizes.attn), np.int8),
        q_ffn=np.zeros((slots, sizes.ffn), np.int8),
        qkv=np.zeros((chunk, sizes.qkv_rows), np.int32),
        attn_output=np.zeros((chunk, sizes.hidden), np.int32),
        gate_up=np.zeros((chunk, 2 * sizes.ffn), np.int32),
        down=np.zeros((chunk, sizes.hidden), np.int32),
        query=np.zeros((slots * config.n_heads + QUERIES_PER_TILE) * sizes.head_dim, np.float32),
        attn=np.zeros((slots, sizes.attn), np.float32),
        gated=np.zeros((slots, sizes.ffn), np.float32),
        key=np.zeros((n_threads, sizes.head_dim), np.float32),
        value=np.zeros((n_threads, sizes.head_dim), np.float32),
        attention=attention_scratch(n_threads, max(QUERY_TILE * group, config.n_heads), sizes.head_dim),
        blocks=new_results(n_blocks, config.n_heads, sizes.head_dim),
        gemm=gemm_scratch(n_threads, slots, max(sizes.hidden, sizes.attn, sizes.ffn)),
        head_filter=new_filter_state(config.vocab_size, sizes.hidden, MAX_CANDIDATE_TOKENS, n_threads),
    )


def n_bytes(arrays: Any) -> int:
    """Count the bytes of arrays in nested tuples."""
    return int(arrays.nbytes) if isinstance(arrays, np.ndarray) else sum(map(n_bytes, arrays))
