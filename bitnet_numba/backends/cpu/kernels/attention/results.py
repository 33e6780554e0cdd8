"""Partial attention results of one block of positions, and merging those of several blocks (online softmax)."""

from typing import NamedTuple

import numpy as np

from bitnet_numba.backends.cpu.array_types import Floats
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_inline
from bitnet_numba.backends.cpu.kernels.softmax import exp_to_1
from bitnet_numba.backends.cpu.simd.memory import broadcast_from, load_f32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import add_f32, broadcast_f32, fma_f32, max_f32, mul_f32, sub_f32

MASKED = np.float32(-1e30)


class Results(NamedTuple):
    """Partial results of ``n`` queries, or several sets of them; elements after the last query are undefined."""

    maxima: Floats  # [..., n + 16]: largest score, which is subtracted from all before exp
    totals: Floats  # [..., n + 16]: sum of exponentials
    values: Floats  # [..., n * head_dim]: sum of values times exponentials


def new_results(n_sets: int, n_queries: int, head_dim: int) -> Results:
    """Allocate several sets of results."""
    maxima, totals = np.zeros((2, n_sets, n_queries + LANES), np.float32)
    return Results(maxima, totals, np.zeros((n_sets, n_queries * head_dim), np.float32))


@jit_inline
def results_of(sets: Results, number: int) -> Results:
    """View one of several sets of results."""
    return Results(sets.maxima[number], sets.totals[number], sets.values[number])


@jit
def copy_results(block: Results, n_queries: int, head_dim: int, query: int, out: Results) -> None:
    """Copy a block's results to queries ``query`` and following of ``out``."""
    for each in range(n_queries):
        out.maxima[query + each], out.totals[query + each] = block.maxima[each], block.totals[each]
    for i in range(0, n_queries * head_dim, LANES):
        store_f32(out.values, query * head_dim + i, load_f32(block.values, i))


@jit
def begin_merge(merged: Results, n_queries: int, head_dim: int) -> None:
    """Initialize results to those of no positions."""
    merged.maxima[: n_queries + LANES], merged.totals[: n_queries + LANES] = MASKED, 0
    merged.values[: n_queries * head_dim] = 0


@jit
def merge_block(block: Results, first: int, end: int, head_dim: int, factors: Floats, merged: Results) -> None:
    """Merge a block's results for queries ``first`` to ``end`` into those of the blocks before it.

    ``factors`` is scratch, float32[2, n + 16]: what ``merged`` and ``block`` are multiplied by.

    References: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
    """
    merged_factors, block_factors = factors[0], factors[1]
    for query in range(first, end, LANES):  # a lane is a query
        before, added = load_f32(merged.maxima, query), load_f32(block.maxima, query)
        maxima = max_f32(before, added)
        before, added = exp_to_1(sub_f32(before, maxima)), exp_to_1(sub_f32(added, maxima))
        before_total = mul_f32(before, load_f32(merged.totals, query))
        added_total = mul_f32(added, load_f32(block.totals, query))
        store_f32(merged.maxima, query, maxima)
        store_f32(merged.totals, query, add_f32(before_total, added_total))
        store_f32(merged_factors, query, before)
        store_f32(block_factors, query, added)
    for query in range(first, end):
        before, added = broadcast_from(merged_factors, query), broadcast_from(block_factors, query)
        for i in range(query * head_dim, (query + 1) * head_dim, LANES):
            total = fma_f32(load_f32(block.values, i), added, mul_f32(load_f32(merged.values, i), before))
            store_f32(merged.values, i, total)


@jit
def end_merge(merged: Results, query: int, out: Floats) -> None:
    """Write a query's attention output, float32[head_dim]: the weighted mean of all values."""
    share = broadcast_f32(np.float32(1) / merged.totals[query])
    for i in range(0, out.size, LANES):
        store_f32(out, i, mul_f32(load_f32(merged.values, query * out.size + i), share))
