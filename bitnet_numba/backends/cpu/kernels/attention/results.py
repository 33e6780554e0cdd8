"""What queries found in a block of positions, and the merging of blocks."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.jit import jit, jit_inline
from bitnet_numba.backends.cpu.kernels.softmax import exp_to_1
from bitnet_numba.backends.cpu.simd.memory import broadcast_from, load_f32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import add_f32, broadcast_f32, fma_f32, max_f32, mul_f32, sub_f32

MASKED = np.float32(-1e30)

Floats = npt.NDArray[np.float32]


class Results(NamedTuple):
    """Sums of exponentials of scores, and of values times these, for ``n`` queries; or for several such sets.

    Attributes
    ----------
    maxima : float32[..., n + 16]
        The largest score, by which all exponentials were divided. What comes after the last query has no meaning.
    totals : float32[..., n + 16]
        The sums of exponentials.
    values : float32[..., n * head_dim]
        The weighted sums of values.
    """

    maxima: Floats
    totals: Floats
    values: Floats


def new_results(n_sets: int, n_queries: int, head_dim: int) -> Results:
    """Allocate several sets of results."""
    maxima, totals = np.zeros((2, n_sets, n_queries + LANES), np.float32)
    return Results(maxima, totals, np.zeros((n_sets, n_queries * head_dim), np.float32))


@jit_inline
def results_of(sets: Results, number: int) -> Results:
    """View one of several sets of results."""
    return Results(sets.maxima[number], sets.totals[number], sets.values[number])


@jit
def copy_results(found: Results, n_queries: int, head_dim: int, out: Results, query: int) -> None:
    """Copy results to those from number ``query`` on."""
    for each in range(n_queries):
        out.maxima[query + each], out.totals[query + each] = found.maxima[each], found.totals[each]
    for i in range(0, n_queries * head_dim, LANES):
        store_f32(out.values, query * head_dim + i, load_f32(found.values, i))


@jit
def begin_merge(merged: Results, n_queries: int, head_dim: int) -> None:
    """Make the first results those of no positions: whatever is merged into them replaces them."""
    merged.maxima[: n_queries + LANES], merged.totals[: n_queries + LANES] = MASKED, 0
    merged.values[: n_queries * head_dim] = 0


@jit
def merge_block(merged: Results, found: Results, first: int, end: int, head_dim: int, factors: Floats) -> None:
    """Add a block's results to those of the blocks before it, for queries from ``first`` to ``end``.

    ``factors`` is float32[2, n + 16]: by what the two are multiplied.
    """
    of_merged, of_found = factors[0], factors[1]
    for query in range(first, end, LANES):  # a lane is a query
        before, added = load_f32(merged.maxima, query), load_f32(found.maxima, query)
        maxima = max_f32(before, added)
        before, added = exp_to_1(sub_f32(before, maxima)), exp_to_1(sub_f32(added, maxima))
        before_total = mul_f32(before, load_f32(merged.totals, query))
        added_total = mul_f32(added, load_f32(found.totals, query))
        store_f32(merged.maxima, query, maxima)
        store_f32(merged.totals, query, add_f32(before_total, added_total))
        store_f32(of_merged, query, before)
        store_f32(of_found, query, added)
    for query in range(first, end):
        before, added = broadcast_from(of_merged, query), broadcast_from(of_found, query)
        for i in range(query * head_dim, (query + 1) * head_dim, LANES):
            of_both = fma_f32(load_f32(found.values, i), added, mul_f32(load_f32(merged.values, i), before))
            store_f32(merged.values, i, of_both)


@jit
def end_merge(merged: Results, query: int, out: Floats) -> None:
    """Write the weighted mean of all values, the attention output of a head."""
    share = broadcast_f32(np.float32(1) / merged.totals[query])
    for i in range(0, out.size, LANES):
        store_f32(out, i, mul_f32(load_f32(merged.values, query * out.size + i), share))
