"""The exact logits of the candidates, and an upper bound of the excluded logits' softmax mass."""

from typing import Any

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Floats, Int32s, Numbers
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_separate
from bitnet_numba.backends.cpu.kernels.head.bounds import FilterState
from bitnet_numba.backends.cpu.kernels.head.full import HEAD_ROWS_PER_TASK, row_product
from bitnet_numba.backends.cpu.kernels.softmax import exp_to_1
from bitnet_numba.backends.cpu.simd.memory import load_f32, prefetch
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, claim


@jit_separate
def rescore(ctx: ThreadContext, matrix: Numbers, hidden: Floats, beta: Floats, state: FilterState) -> None:
    """Write the candidates' logits, and the tail mass of tokens whose ``beta`` is not negative."""
    n_tokens = hidden.shape[0]
    first_slot = ctx.thread if n_tokens == 1 else 0
    n_rescoring = n_tails = 0
    for token in range(n_tokens):
        n_rescoring = max(n_rescoring, -(-state.n_candidates[first_slot + token] // HEAD_ROWS_PER_TASK) * n_tokens)
        if beta[token] >= 0:
            n_tails = state.tail_mass.shape[1]
    task = claim(ctx, n_rescoring + n_tails)
    while task >= 0:
        if task < n_rescoring:  # neighbouring tasks take about the same rows for different tokens: some are the same
            first, token = task // n_tokens * HEAD_ROWS_PER_TASK, task % n_tokens
            end = min(first + HEAD_ROWS_PER_TASK, state.n_candidates[first_slot + token])
            rows = state.candidates[first_slot + token, first:end]
            _rescore_rows(matrix, hidden[token], rows, state.logits[token, first:])
        else:
            _bound_tail(task - n_rescoring, first_slot, beta, state)
        task = claim(ctx, n_rescoring + n_tails)


@jit
def _rescore_rows(matrix: Numbers, hidden: Floats, rows: Int32s, out: Floats) -> None:
    """Compute the logits of some rows as the full head does."""
    for index in range(rows.size):
        row, next_row = matrix[rows[index]], matrix[rows[min(index + 1, rows.size - 1)]]
        for i in range(0, hidden.size, LANES):
            prefetch(next_row, i)
        out[index] = row_product(row, hidden)


@jit
def _bound_tail(task: int, first_slot: int, beta: Floats, state: FilterState) -> None:
    """Write each token's tail mass over the rows of a task."""
    first = task * HEAD_ROWS_PER_TASK
    end = min(first + HEAD_ROWS_PER_TASK, state.candidates.shape[1])
    for token in range(beta.size):
        mass = _tail_mass(state.upper[token], state.thresholds[first_slot + token], beta[token], first, end)
        state.tail_mass[token, task] = mass


@jit
def _tail_mass(upper: Floats, threshold: Any, beta: Any, first: int, end: int) -> Any:
    """Return an upper bound of the sum of ``exp(beta * (logit - threshold))`` over the logits below the threshold."""
    total = v.zero_f32()
    if beta < 0:
        return v.sum_f32(total)
    for start in range(first, end, LANES):
        beyond = v.sub_f32(load_f32(upper, start), v.broadcast_f32(threshold))
        mass = exp_to_1(v.mul_f32(beyond, v.broadcast_f32(beta)))
        total = v.add_f32(total, v.where_greater(v.zero_f32(), beyond, mass, v.zero_f32()))
    return v.sum_f32(total)
