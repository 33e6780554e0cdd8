"""The exact head at half the traffic: bounds of all logits come from an int8 copy, and only those that can matter from
the head itself.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.checks import check_array, check_rank
from bitnet_numba.backends.cpu.kernels.head.bounds import (
    ScreenState,
    approximate_worker,
    begin_worker,
    is_bounded,
    screen_worker,
)
from bitnet_numba.backends.cpu.kernels.head.hidden_codes import HiddenCodes
from bitnet_numba.backends.cpu.kernels.head.int8_copy import ROWS, below, check_screen
from bitnet_numba.backends.cpu.kernels.head.rescore import compute_worker
from bitnet_numba.backends.cpu.kernels.jit import HEAD_RESCORE, jit, new_counts
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier, meet_for, slots_end

MOST = 0.5  # of the rows: when more survive, reading all of them in order is as fast
COARSE_MOST = 1 / 64  # of the rows: where more survive one byte of the hidden state, the other one is multiplied too
COARSE_MOST_TOGETHER = 1 / 8  # but not where all tokens' are fewer: reading these takes less than all once more
REST = 15  # calls without coarse bounds, after one in which they were of no use: it would most likely be so again
FEW_TOKENS = 8  # up to here memory is the bound, and multiplying both bytes costs nothing

Matrix = npt.NDArray[Any]
Words = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]


class HeadRequest(NamedTuple):
    """Which logits of each token must be exact; all others may be left out.

    Among the tokens of the vocabulary that are not ``always`` exact, those are needed that are both among the
    ``n_best`` highest and at most ``margin`` below the highest one; ties included.

    Attributes
    ----------
    n_best : int64[n_tokens]
        0 sets no limit.
    margin : float64[n_tokens]
        Infinity sets no limit.
    always : uint8[n_tokens, vocab_size or 0]
        Not 0 for tokens whose logits are needed whatever they are: those that a penalty or a bias will change.
    coldness : float32[n_tokens]
        How the logits that are left out are weighed: with the exponential of so many times what they are below the
        threshold, at most. Below 0, they are not.
    """

    n_best: npt.NDArray[np.int64]
    margin: npt.NDArray[np.float64]
    always: npt.NDArray[np.uint8]
    coldness: Floats


def screened_head(
    ctx: ThreadContext,
    matrix: Matrix,
    screen: Words,
    hidden: Floats,
    request: HeadRequest,
    state: ScreenState,
    out: Floats,
) -> None:
    """Write the logits that are asked for to ``out``, with the bits of the full pass, and minus infinity for others.

    Every thread of a thread pool calls it; the rows are shared among them.

    Parameters
    ----------
    ctx : ThreadContext
        This thread's place in the thread pool.
    matrix : float32, uint16 (float16 bits) or int16 (bfloat16 bits) [vocab_size, hidden_size]
    screen : uint32[n_blocks, 4 + hidden_size // 4, 16]
        Its int8 copy, from ``quantize_rows``.
    hidden : float32[n_tokens, hidden_size]
    request : HeadRequest
    state : ScreenState
        Afterwards, what was left out is below ``thresholds``, ``rescored`` logits were computed, and the sum of
        ``left_out`` is, but for 1 in 10,000, at least the weight of all others.
    out : float32[n_tokens, vocab_size]
        What is not a finite number in the full pass is none here: minus infinity is NaN, since it means left out.

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    _check(ctx, matrix, screen, hidden, state, out)
    n_tokens, vocab_size = out.shape
    check_array("n_best", request.n_best, np.int64, (n_tokens,))
    check_array("margin", request.margin, np.float64, (n_tokens,))
    check_rank("always", request.always, 2)
    check_array("always", request.always, np.uint8, (n_tokens, vocab_size if request.always.shape[1] else 0))
    check_array("coldness", request.coldness, np.float32, (n_tokens,))
    _screened_head(ctx, new_counts(), matrix, screen, hidden, request, state, out)


def approximate_head(
    ctx: ThreadContext, matrix: Matrix, screen: Words, hidden: Floats, state: ScreenState, out: Floats
) -> None:
    """Write logits that come from the int8 copy alone to ``out``; takes and raises what :func:`screened_head` does."""
    _check(ctx, matrix, screen, hidden, state, out)
    _approximate_head(ctx, new_counts(), screen, hidden, state, out)


def _check(ctx: ThreadContext, matrix: Matrix, screen: Words, hidden: Floats, state: ScreenState, out: Floats) -> None:
    check_screen(matrix, screen)
    check_rank("hidden", hidden, 2)
    n_tokens, (vocab_size, hidden_size) = hidden.shape[0], matrix.shape
    check_array("hidden", hidden, np.float32, (n_tokens, hidden_size))
    check_array("out", out, np.float32, (n_tokens, vocab_size), written=True)
    if state.best.shape[0] < n_tokens or state.best.shape[1:] + state.fine.codes.shape[2:] != (
        screen.shape[0],
        hidden_size,
    ):
        raise ValueError(f"state: made for other sizes than {n_tokens} tokens and a matrix of {matrix.shape}")
    if state.sums.shape[0] < ctx.n_threads:
        raise ValueError(f"state: made for {state.sums.shape[0]} threads, not {ctx.n_threads}")


@jit
def _screened_head(
    ctx: ThreadContext,
    counts: npt.NDArray[np.int64],
    matrix: Matrix,
    screen: Words,
    hidden: Floats,
    request: HeadRequest,
    state: ScreenState,
    out: Floats,
) -> None:
    screened_head_worker(ctx, counts, matrix, screen, hidden, request, state)
    barrier(ctx)
    for token in range(ctx.thread, out.shape[0], ctx.n_threads):
        out[token] = -np.inf
        for place in range(state.rescored[token]):
            logit = state.logits[token, place]
            out[token, state.known[token, place]] = logit if logit > -np.inf else np.nan
    barrier(ctx)


@jit
def _approximate_head(
    ctx: ThreadContext, counts: npt.NDArray[np.int64], screen: Words, hidden: Floats, state: ScreenState, out: Floats
) -> None:
    approximate_worker(ctx, counts, screen, hidden, state, out)
    barrier(ctx)


@jit
def screened_head_worker(
    ctx: ThreadContext,
    counts: npt.NDArray[np.int64],
    matrix: Matrix,
    screen: Words,
    hidden: Floats,
    request: HeadRequest,
    state: ScreenState,
) -> None:
    """Leave the logits that are asked for in ``state``; another phase of tasks must follow."""
    vocab_size, n_tokens = matrix.shape[0], hidden.shape[0]
    if ctx.thread == 0:
        counts[HEAD_RESCORE] += 1
    is_coarse = n_tokens > FEW_TOKENS and state.rest[0] == 0
    begin_worker(ctx, counts, hidden, state)
    if is_coarse:
        screen_worker(ctx, screen, state.coarse, request.always, state)
        barrier(ctx)
        _choose(ctx, vocab_size, state.coarse, request, state)
        barrier(ctx)
        _close(ctx, n_tokens, vocab_size, state)
        barrier(ctx)
    if ctx.thread == 0 and n_tokens > FEW_TOKENS:
        _plan_rest(is_coarse, n_tokens, state)
    if not is_coarse or state.is_open[:n_tokens].any():
        screen_worker(ctx, screen, state.fine, request.always, state)
        barrier(ctx)
        _choose(ctx, vocab_size, state.fine, request, state)
        meet_for(ctx, n_tokens)
    compute_worker(ctx, matrix, hidden, request.coldness, state)


# ---- what survives ---------------------------------------------------------------------------------------------------
@jit
def _choose(ctx: ThreadContext, vocab_size: int, hidden: HiddenCodes, request: HeadRequest, state: ScreenState) -> None:
    """Set the thresholds of the tokens whose bounds are new, and count what survives."""
    n_tokens = request.n_best.size
    for slot in range(ctx.thread, slots_end(ctx, n_tokens), ctx.n_threads):
        if is_bounded(hidden, slot, n_tokens, state):
            token = min(slot, n_tokens - 1)
            threshold = _threshold(state.best[token], request.n_best[token], request.margin[token])
            survivors = _note_survivors(state, token, threshold, state.known[slot])
            if survivors > MOST * vocab_size:
                threshold = np.float32(-np.inf)
                survivors = _note_survivors(state, token, threshold, state.known[slot])
            state.thresholds[slot], state.rescored[slot] = threshold, survivors


@jit
def _close(ctx: ThreadContext, n_tokens: int, vocab_size: int, state: ScreenState) -> None:
    """Let only those tokens stay open that coarse bounds leave with too many logits to compute."""
    together = 0
    for token in range(n_tokens):
        together += state.rescored[token]
    for token in range(ctx.thread, n_tokens, ctx.n_threads):
        many = state.rescored[token] > COARSE_MOST * vocab_size
        state.is_open[token] = many and together > COARSE_MOST_TOGETHER * vocab_size


@jit
def _plan_rest(is_coarse: bool, n_tokens: int, state: ScreenState) -> None:
    """Let the next calls go without coarse bounds where these have closed few tokens."""
    if not is_coarse:
        state.rest[0] -= 1
    elif 2 * state.is_open[:n_tokens].sum() > n_tokens:
        state.rest[0] = REST


@jit
def _threshold(best: Floats, n_best: int, margin: float) -> Any:
    """Return what a logit must be able to reach, or minus infinity."""
    highest = np.float32(-np.inf)
    for lower in best:
        highest = max(highest, lower)
    if highest == -np.inf:
        return highest
    by_margin = below(np.float64(highest) - margin)
    return max(by_margin, _nth_best(best, n_best)) if n_best else by_margin


@jit
def _nth_best(best: Floats, n: int) -> Any:
    """Return a number that at least n elements reach, and few more do: bisected, where n is not 1."""
    low, high, n_finite = np.float64(np.inf), np.float64(-np.inf), 0
    for lower in best:
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
        for lower in best:
            reached += lower >= middle
        if reached >= n:
            low = middle
        else:
            high = middle
    return below(low)


@jit
def _note_survivors(state: ScreenState, token: int, threshold: Any, known: npt.NDArray[np.int32]) -> Any:
    """Note the rows whose logits may reach the threshold, and return how many; what cannot be compared may."""
    count = 0
    for block in range(state.highest.shape[1]):
        if not state.highest[token, block] < threshold:
            for row in range(block * ROWS, min((block + 1) * ROWS, known.size)):
                if not state.upper[token, row] < threshold:
                    known[count] = row
                    count += 1
    return count
