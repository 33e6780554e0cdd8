"""The int8 candidate filter: the exact head at half the memory traffic.

Bounds of all logits come from an int8 copy of the head; only the candidates that the sampler may need are then computed
from the head itself, with the bits of the full head.
"""

from typing import Any, NamedTuple

import numpy as np

from bitnet_numba.backends.cpu.array_types import Bytes, Doubles, Floats, Int32s, Int64s, Numbers, Words
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_separate
from bitnet_numba.backends.cpu.kernels.head.bounds import (
    FilterState,
    bound_logits,
    needs_bounds,
    quantize_hidden_states,
)
from bitnet_numba.backends.cpu.kernels.head.hidden_codes import HiddenCodes
from bitnet_numba.backends.cpu.kernels.head.int8_copy import below
from bitnet_numba.backends.cpu.kernels.head.rescore import rescore
from bitnet_numba.backends.cpu.kernels.registry import Counts, Kernel
from bitnet_numba.backends.cpu.packed_sizes import ROWS_PER_BLOCK
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier, barrier_if_many, slots_end

MAX_CANDIDATE_SHARE = 0.5  # of the rows: if there are more candidates, reading all rows in order is as fast
MAX_ONE_BYTE_SHARE = 1 / 64  # of the rows: if one byte leaves a token more candidates, both bytes are multiplied
MAX_ONE_BYTE_SHARE_OF_ALL = 1 / 8  # but not if all tokens' candidates are fewer: rescoring takes less time then
BACKOFF_CALLS = 15  # that skip the bounds from one byte, after a call in which these left most tokens pending
MEMORY_BOUND_TOKENS = 8  # up to here memory is the bound, and multiplying both bytes costs nothing


class CandidateQueries(NamedTuple):
    """Which logits of each token are needed: ``CandidateQuery`` of the backend protocol, as arrays over tokens."""

    n_best: Int64s
    margin: Doubles
    always: Bytes  # [n_tokens, vocab_size or 0]
    beta: Floats  # inverse temperature used to bound the softmax mass of the excluded logits; negative: do not


@jit_separate
def candidate_logits(
    ctx: ThreadContext,
    counts: Counts,
    matrix: Numbers,
    int8_copy: Words,
    hidden: Floats,
    queries: CandidateQueries,
    state: FilterState,
) -> None:
    """Write the needed logits to ``state``, with the bits of the full head; a barrier must follow.

    All threads call it and share the rows. Afterwards ``state`` holds ``candidates``, their ``logits``, ``thresholds``,
    and ``tail_mass``, whose sum is an upper bound but for 1 in 10,000.
    """
    vocab_size, n_tokens = matrix.shape[0], hidden.shape[0]
    if ctx.thread == 0:
        counts[Kernel.HEAD_RESCORE] += 1
    tries_one_byte = n_tokens > MEMORY_BOUND_TOKENS and state.backoff[0] == 0
    quantize_hidden_states(ctx, counts, hidden, state)
    if tries_one_byte:
        bound_logits(ctx, int8_copy, state.one_byte, queries.always, state)
        barrier(ctx)
        _select(ctx, vocab_size, state.one_byte, queries, state)
        barrier(ctx)
        _find_pending(ctx, n_tokens, vocab_size, state)
        barrier(ctx)
    if ctx.thread == 0 and n_tokens > MEMORY_BOUND_TOKENS:
        _update_backoff(tries_one_byte, n_tokens, state)
    if not tries_one_byte or state.is_pending[:n_tokens].any():
        bound_logits(ctx, int8_copy, state.two_bytes, queries.always, state)
        barrier(ctx)
        _select(ctx, vocab_size, state.two_bytes, queries, state)
        barrier_if_many(ctx, n_tokens)
    rescore(ctx, matrix, hidden, queries.beta, state)


# ---- the candidates --------------------------------------------------------------------------------------------------
@jit_separate
def _select(
    ctx: ThreadContext, vocab_size: int, hidden: HiddenCodes, queries: CandidateQueries, state: FilterState
) -> None:
    """Set the thresholds of the tokens whose bounds are new, and note their candidates."""
    n_tokens = queries.n_best.size
    for slot in range(ctx.thread, slots_end(ctx, n_tokens), ctx.n_threads):
        if needs_bounds(hidden, slot, n_tokens, state):
            token = min(slot, n_tokens - 1)
            threshold = _threshold(state.highest_lower[token], queries.n_best[token], queries.margin[token])
            count = _note_candidates(state, token, threshold, state.candidates[slot])
            if count > MAX_CANDIDATE_SHARE * vocab_size:
                threshold = np.float32(-np.inf)
                count = _note_candidates(state, token, threshold, state.candidates[slot])
            state.thresholds[slot], state.n_candidates[slot] = threshold, count


@jit
def _find_pending(ctx: ThreadContext, n_tokens: int, vocab_size: int, state: FilterState) -> None:
    """Leave only those tokens pending that bounds from one byte leave with too many candidates."""
    total = 0
    for token in range(n_tokens):
        total += state.n_candidates[token]
    for token in range(ctx.thread, n_tokens, ctx.n_threads):
        too_many = state.n_candidates[token] > MAX_ONE_BYTE_SHARE * vocab_size
        state.is_pending[token] = too_many and total > MAX_ONE_BYTE_SHARE_OF_ALL * vocab_size


@jit
def _update_backoff(tries_one_byte: bool, n_tokens: int, state: FilterState) -> None:
    """Let the next calls skip the bounds from one byte if these left most tokens pending."""
    n_pending = 0
    for token in range(n_tokens):
        n_pending += state.is_pending[token]
    if not tries_one_byte:
        state.backoff[0] -= 1
    elif 2 * n_pending > n_tokens:
        state.backoff[0] = BACKOFF_CALLS


@jit
def _threshold(lower_bounds: Floats, n_best: int, margin: float) -> Any:
    """Return the smallest upper bound of a candidate, or minus infinity."""
    highest = np.float32(-np.inf)
    for lower in lower_bounds:
        highest = max(highest, lower)
    if highest == -np.inf:
        return highest
    by_margin = below(np.float64(highest) - margin)
    return max(by_margin, _nth_best(lower_bounds, n_best)) if n_best else by_margin


@jit
def _nth_best(lower_bounds: Floats, n: int) -> Any:
    """Return a number that at least n elements reach, and few more: by bisection, where n is not 1."""
    low, high, n_finite = np.float64(np.inf), np.float64(-np.inf), 0
    for lower in lower_bounds:
        if lower > -np.inf:
            low, high = min(low, lower), max(high, lower)
            n_finite += 1
    if n_finite < n:
        return np.float32(-np.inf)
    if n == 1:
        return np.float32(high)
    for _ in range(24):
        middle = 0.5 * low + 0.5 * high
        reached = 0
        for lower in lower_bounds:
            reached += lower >= middle
        if reached >= n:
            low = middle
        else:
            high = middle
    return below(low)


@jit
def _note_candidates(state: FilterState, token: int, threshold: Any, out: Int32s) -> Any:
    """Write the rows whose upper bound is not below the threshold (NaN is not), and return their number."""
    count = 0
    for block in range(state.highest_upper.shape[1]):
        if not state.highest_upper[token, block] < threshold:
            for row in range(block * ROWS_PER_BLOCK, min((block + 1) * ROWS_PER_BLOCK, out.size)):
                if not state.upper[token, row] < threshold:
                    out[count] = row
                    count += 1
    return count
