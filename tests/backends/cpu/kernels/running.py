"""Run kernels as the forward pass does: on thread pools, and several of them after one another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.compiler.jit import jit, jit_inline
from bitnet_numba.backends.cpu.kernels.attention.block import (
    QUERIES_PER_TILE,
    Scratch,
    attend_block,
    attention_scratch,
    scratch_of,
)
from bitnet_numba.backends.cpu.kernels.attention.causal import CausalLimits, n_masked
from bitnet_numba.backends.cpu.kernels.attention.results import begin_merge, end_merge, merge_block
from bitnet_numba.backends.cpu.kernels.attention.store import POSITIONS_PER_BLOCK, HeadBlock
from bitnet_numba.backends.cpu.kernels.head.bounds import FilterState
from bitnet_numba.backends.cpu.kernels.head.full import head_product
from bitnet_numba.backends.cpu.kernels.head.int8_copy import int8_copy_shape, quantize_rows
from bitnet_numba.backends.cpu.kernels.head.int8_filter import CandidateQueries, candidate_logits
from bitnet_numba.backends.cpu.kernels.registry import Counts, new_counts
from bitnet_numba.backends.cpu.kernels.ternary import GemmScratch, gemm_scratch, ternary_gemm, ternary_gemv
from bitnet_numba.backends.cpu.packed_sizes import packed_size
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, ThreadPool

SIZES = (1, 2, 3)

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@contextmanager
def pool_of(n_threads: int) -> Iterator[ThreadPool]:
    pool = ThreadPool(n_threads)
    try:
        yield pool
    finally:
        pool.close()


def on_threads(n_threads: int, work: Callable[[ThreadContext], None]) -> None:
    """Call a function with the context of each thread of a new pool."""
    with pool_of(n_threads) as pool:
        pool.run(work)


# ---- ternary products ------------------------------------------------------------------------------------------------
def ternary_product(packed: Array, q: Array, n_tokens: int, counts: Counts | None = None, n_threads: int = 1) -> Array:
    """Multiply by one token or many, as the forward pass chooses; return int32[n_tokens, rows]."""
    q_sum = q[:n_tokens].sum(axis=1, dtype=np.int32)
    rows = packed.size // packed_size(1, q.shape[1])
    out, scratch = np.zeros((n_tokens, rows), np.int32), gemm_scratch(n_threads, *q.shape)
    arguments = packed, q, q_sum, scratch, out, new_counts() if counts is None else counts
    on_threads(n_threads, lambda ctx: multiply(ctx, *arguments))
    return out


def multiply(
    ctx: ThreadContext, packed: Array, q: Array, q_sum: Array, scratch: GemmScratch, out: Array, counts: Counts
) -> None:
    if len(out) == 1:
        ternary_gemv(ctx, counts, packed, q[0], q_sum[0], out[0])
    else:
        ternary_gemm(ctx, counts, packed, q, q_sum, scratch, out)


# ---- attention -------------------------------------------------------------------------------------------------------
def attend(query: Floats, cache: HeadBlock, n_positions: int) -> Floats:
    """Return one query head's attention output over the first positions of a cache of any length."""
    return attend_many(query.reshape(1, -1), cache, n_positions, 1)[0]


def attend_many(queries: Floats, cache: HeadBlock, n_positions: int, group: int) -> Floats:
    """Return the attention outputs of neighbouring tokens, of which the first one attends to ``n_positions``.

    Parameters
    ----------
    queries : float32[n_tokens * group, head_dim]
    cache : HeadBlock
        As many positions as there are, also more than 256.
    n_positions, group : int
    """
    n_queries, head_dim = queries.shape
    padded = np.zeros((n_queries + QUERIES_PER_TILE, head_dim), np.float32)
    padded[:n_queries] = queries
    out = np.empty_like(queries)
    scratch = attention_scratch(1, n_queries, head_dim)
    _attend_blocks(padded.reshape(-1), cache, CausalLimits(n_queries, n_positions, group), scratch, out)
    return out


@jit
def _attend_blocks(queries: Floats, cache: HeadBlock, limits: CausalLimits, scratches: Scratch, out: Floats) -> None:
    """Attend over a cache that is one array, block by block; ``limits`` count its positions."""
    head_dim, scratch = out.shape[1], scratch_of(scratches, 0)
    begin_merge(scratch.merged, limits.n_queries, head_dim)
    for first in range(0, limits.first + (limits.n_queries - 1) // limits.group, POSITIONS_PER_BLOCK):
        of_block = CausalLimits(limits.n_queries, limits.first - first, limits.group)
        attend_block(queries, _block_from(cache, first, head_dim), of_block, scratch)
        merge_block(scratch.block, n_masked(of_block), limits.n_queries, head_dim, scratch.factors, scratch.merged)
    for query in range(limits.n_queries):
        end_merge(scratch.merged, query, out[query])


@jit_inline
def _block_from(cache: HeadBlock, first: int, head_dim: int) -> HeadBlock:
    end = first + POSITIONS_PER_BLOCK
    numbers, scales = slice(first * head_dim, end * head_dim), slice(first, end)
    return HeadBlock(cache.keys[numbers], cache.values[numbers], cache.key_scales[scales], cache.value_scales[scales])


# ---- the output head -------------------------------------------------------------------------------------------------
def full_head(matrix: Array, scales: Floats, hidden: Floats, n_threads: int = 1) -> Floats:
    """Return all logits, float32[n_tokens, vocab_size]."""
    out = np.empty((len(hidden), len(matrix)), np.float32)
    on_threads(n_threads, lambda ctx: head_product(ctx, matrix, scales, hidden, out))
    return out


def int8_copy_of(matrix: Array, n_threads: int = 1) -> npt.NDArray[np.uint32]:
    copy = np.zeros(int8_copy_shape(*matrix.shape), np.uint32)
    on_threads(n_threads, lambda ctx: quantize_rows(ctx, matrix, np.zeros((16, matrix.shape[1]), np.int8), copy))
    return copy


def candidate_head(
    matrix: Array, int8_copy: Array, hidden: Floats, queries: CandidateQueries, state: FilterState, n_threads: int = 1
) -> Floats:
    """Return the candidates' logits, float32[n_tokens, vocab_size], and minus infinity for the excluded ones.

    What is minus infinity in the full head is NaN here.
    """
    counts, out = new_counts(), np.full((len(hidden), len(matrix)), -np.inf, np.float32)
    on_threads(n_threads, lambda ctx: candidate_logits(ctx, counts, matrix, int8_copy, hidden, queries, state))
    for token, row in enumerate(out):
        n = state.n_candidates[token]
        logits = state.logits[token, :n]
        row[state.candidates[token, :n]] = np.where(logits == -np.inf, np.float32(np.nan), logits)
    return out
