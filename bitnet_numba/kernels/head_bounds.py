"""Bounds of every logit from the int8 copy of the head: proven for the very bits that the full pass would give.

Write a row of the matrix as x = s c + e (:mod:`bitnet_numba.kernels.head_rows`) and the hidden state as h = t q + d,
with whole numbers c and q. Then, exactly,

    x . h = s t (c . q)  +  s (c . d)  +  e . h.

The first term is computed without an error but one rounding: ``c . q`` is a sum of int32. The others are bounded by
Cauchy and Schwarz: ``|s c| |d| + |e| |h|``. The full pass, :func:`bitnet_numba.kernels.head.row_product`, does not give
``x . h`` but rounds m = n / 32 + 5 times on the way from each product to the logit, so what it gives is off by at most
``m u / (1 - m u) |x| |h|``, with u = 2**-24, and by 2**-150 for each product that is denormal. The sum of these bounds
holds for the very bits of the full pass; the tests try to break it. ``docs/explanation/exact-head.md`` has the details.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import bitnet_numba.simd.vector as v
from bitnet_numba.kernels.head import STEP
from bitnet_numba.kernels.head_rows import (
    BIAS,
    CORRECTION,
    ERROR,
    HEADER,
    NORM,
    ROUNDING,
    ROWS,
    SCALE,
    SMALLEST_MAXIMUM,
    WORD,
    above,
    largest_magnitude,
    norm_above,
    rounded,
)
from bitnet_numba.kernels.jit import HEAD_SCREEN, jit
from bitnet_numba.simd.memory import (
    broadcast_from,
    load_bytes,
    load_f32,
    load_i32,
    prefetch,
    store_f32,
    store_i32,
)
from bitnet_numba.simd.register_tile import add_unsigned_products, store_totals, zero_totals
from bitnet_numba.simd.team import Crew, barrier, claim, meet_for, slots_end
from bitnet_numba.simd.types import LANES

BASE = np.float32(127)  # a hidden element is 127 * high + low: so both bytes fit the dot product of every CPU
LARGEST_HIDDEN = np.float32(BASE * BIAS + BIAS)
TOKENS = 4  # at once: as many sums as hide the latency of a dot product, while each line is loaded once
_SUMS_OF_ONE, _SUMS_OF_ALL = 4, 4 * TOKENS  # names of constants, which Numba knows by value
AHEAD = 512  # words of prefetch: 2 kB, which hides the latency of memory
LARGEST_LOGIT = np.float32(2.0**126)  # up to here no sum of the full pass can overflow
CENTRE_ROUNDINGS = np.float32(8 * ROUNDING)  # five of the term that is computed, one when the bound is added to it
SLACK = np.float32(1 + 2.0**-19)  # for the roundings of the bound itself, nine at most, and one when it is added
DENORMAL_FLOOR = 2.0**-128  # an element: what products of denormal numbers can be off by

STEP_SIZE, HIDDEN_NORM, HIDDEN_ERROR, ROUNDINGS, FLOOR = range(5)
"""Columns of ``ScreenState.measures``: what one unit of the hidden state stands for; at least its norm; at least the
norm of its error; the roundings of a logit, relative to the norms; and what denormal numbers can be off by."""

Words = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]


class ScreenState(NamedTuple):
    """Buffers of a screened head.

    Attributes
    ----------
    hidden : uint8[slots, 2, hidden_size]
        High and low parts of each hidden state; slots as in the forward pass's other buffers.
    measures : float32[slots, 5]
        Of each hidden state; columns ``STEP_SIZE`` to ``FLOOR``.
    sums : int32[n_threads, 4, 2, 2, 16]
        Products of up to four tokens' high and low parts with two blocks.
    lower, upper : float32[n_tokens, 16 * n_blocks]
        Bounds of each logit.
    best : float32[n_tokens, n_blocks]
        The highest lower bound of each block.
    thresholds : float32[slots]
        What a logit must be able to reach.
    rescored : int64[slots]
        How many logits the last call computed exactly; ``vocab_size`` where it was the full pass.
    """

    hidden: npt.NDArray[np.uint8]
    measures: Floats
    sums: npt.NDArray[np.int32]
    lower: Floats
    upper: Floats
    best: Floats
    thresholds: Floats
    rescored: npt.NDArray[np.int64]


def new_screen_state(vocab_size: int, hidden_size: int, n_tokens: int, n_threads: int) -> ScreenState:
    """Allocate the buffers for up to ``n_tokens`` on ``n_threads`` threads."""
    n_blocks = -(-vocab_size // (2 * ROWS)) * 2
    slots = max(n_tokens, n_threads)
    return ScreenState(
        hidden=np.zeros((slots, 2, hidden_size), np.uint8),
        measures=np.zeros((slots, 5), np.float32),
        sums=np.zeros((n_threads, TOKENS, 2, 2, ROWS), np.int32),
        lower=np.zeros((n_tokens, n_blocks * ROWS), np.float32),
        upper=np.zeros((n_tokens, n_blocks * ROWS), np.float32),
        best=np.zeros((n_tokens, n_blocks), np.float32),
        thresholds=np.zeros(slots, np.float32),
        rescored=np.zeros(slots, np.int64),
    )


@jit
def screen_worker(
    crew: Crew,
    counts: npt.NDArray[np.int64],
    screen: Words,
    hidden: Floats,
    always: npt.NDArray[np.uint8],
    state: ScreenState,
) -> None:
    """Write the bounds of all logits; two distant blocks at once keep memory busier than one."""
    n_tokens, half = hidden.shape[0], screen.shape[0] // 2
    _begin(crew, counts, hidden, state)
    block = claim(crew, half)
    while block >= 0:
        token = 0
        while token < n_tokens:
            taken = _take_blocks(crew, screen, block, n_tokens, token, state)
            for each in range(taken):
                _bound_both(crew, screen, block, n_tokens, token + each, state.sums[crew.thread, each], always, state)
            token += taken
        block = claim(crew, half)


@jit
def _take_blocks(crew: Crew, screen: Words, block: int, n_tokens: int, token: int, state: ScreenState) -> int:
    """Multiply two blocks with four tokens, or with one where there are fewer; return how many."""
    second, sums = screen.shape[0] // 2 + block, state.sums[crew.thread]
    if n_tokens - token >= TOKENS:
        _two_blocks(zero_totals(_SUMS_OF_ALL), screen, block, second, state.hidden, token, sums)
        return TOKENS
    _two_blocks(
        zero_totals(_SUMS_OF_ONE), screen, block, second, state.hidden, token if n_tokens > 1 else crew.thread, sums
    )
    return 1


@jit
def _bound_both(
    crew: Crew,
    screen: Words,
    block: int,
    n_tokens: int,
    token: int,
    sums: npt.NDArray[np.int32],
    always: npt.NDArray[np.uint8],
    state: ScreenState,
) -> None:
    measures = state.measures[token if n_tokens > 1 else crew.thread]
    bounds = state.lower[token], state.upper[token], state.best[token]
    for which in range(2):
        number = block + which * (screen.shape[0] // 2)
        _bound_block(screen[number], number, sums, which, measures, bounds)
        if always.shape[1]:
            _exempt(always[token], number, *bounds)


@jit
def approximate_worker(
    crew: Crew, counts: npt.NDArray[np.int64], screen: Words, hidden: Floats, state: ScreenState, out: Floats
) -> None:
    n_tokens, half = hidden.shape[0], screen.shape[0] // 2
    _begin(crew, counts, hidden, state)
    block = claim(crew, half)
    while block >= 0:
        token = 0
        while token < n_tokens:
            taken = _take_blocks(crew, screen, block, n_tokens, token, state)
            for each in range(taken):
                measures = state.measures[token + each if n_tokens > 1 else crew.thread]
                for which in range(2):
                    number = block + which * half
                    centre, _ = _centre(screen[number], state.sums[crew.thread, each], which, measures)
                    store_f32(state.upper[token + each], number * ROWS, centre)
            token += taken
        block = claim(crew, half)
    barrier(crew)
    for token in range(crew.thread, n_tokens, crew.n_threads):
        for row in range(out.shape[1]):
            out[token, row] = state.upper[token, row]


@jit
def _begin(crew: Crew, counts: npt.NDArray[np.int64], hidden: Floats, state: ScreenState) -> None:
    n_tokens = hidden.shape[0]
    if crew.thread == 0:
        counts[HEAD_SCREEN] += 1
    for slot in range(crew.thread, slots_end(crew, n_tokens), crew.n_threads):
        _quantize_hidden(hidden[min(slot, n_tokens - 1)], state.hidden[slot], state.measures[slot])
    meet_for(crew, n_tokens)


@jit
def _quantize_hidden(values: Floats, out: npt.NDArray[np.uint8], measures: Floats) -> None:
    """Write ``127 * high + low``, the nearest of values / step, as bytes; and the step and the norms."""
    n = values.size
    largest = max(largest_magnitude(values), SMALLEST_MAXIMUM)
    step = largest / LARGEST_HIDDEN
    factor, minus_step = v.broadcast_f32(LARGEST_HIDDEN / largest), v.broadcast_f32(-step)
    base, minus_base = v.broadcast_f32(np.float32(1) / BASE), v.broadcast_f32(-BASE)
    bias = v.broadcast_i32(np.int32(BIAS))
    squares = error_squares = v.zero_f32()
    for i in range(0, n, LANES):
        h = load_f32(values, i)
        q = rounded(v.mul_f32(h, factor), LARGEST_HIDDEN)
        high = v.round_f32(v.mul_f32(q, base))
        low = v.fma_f32(high, minus_base, q)
        store_i32(out[0], i, v.add_i32(v.to_i32(high), bias))
        store_i32(out[1], i, v.add_i32(v.to_i32(low), bias))
        error = v.fma_f32(q, minus_step, h)
        squares, error_squares = v.fma_f32(h, h, squares), v.fma_f32(error, error, error_squares)
    measures[STEP_SIZE] = step
    measures[HIDDEN_NORM] = above(norm_above(v.sum_f32(squares), n))
    measures[HIDDEN_ERROR] = above(norm_above(v.sum_f32(error_squares), n))
    measures[ROUNDINGS] = above((n // STEP + 8) * ROUNDING)
    measures[FLOOR] = above(n * DENORMAL_FLOOR)


@jit
def _two_blocks(
    zeros: Any, screen: Words, first: int, second: int, hidden: npt.NDArray[np.uint8], slot: int, sums: Any
) -> None:
    """Write the products of sixteen rows of each half of the matrix with hidden states from ``slot`` on.

    ``zeros`` has four vectors for each of them: high and low part times either block.
    """
    flat, of_hidden = screen.reshape(-1), hidden.reshape(-1)
    n, first_byte = hidden.shape[2], slot * 2 * hidden.shape[2]
    at_1 = (first * screen.shape[1] + HEADER) * ROWS
    at_2 = (second * screen.shape[1] + HEADER) * ROWS
    totals = zeros
    for word in range(n // WORD):
        line_1, line_2 = at_1 + word * ROWS, at_2 + word * ROWS
        prefetch(flat, line_1 + AHEAD)
        prefetch(flat, line_2 + AHEAD)
        codes = load_bytes(flat, line_1), load_bytes(flat, line_2)
        totals = add_unsigned_products(totals, codes, of_hidden, first_byte + word * WORD, n)
    store_totals(sums.reshape(-1), 0, totals)


@jit
def _centre(lines: Words, sums: npt.NDArray[np.int32], which: int, measures: Floats) -> Any:
    """Return s t (c . q) of sixteen rows, and the sum of its parts' magnitudes, to which its roundings are relative."""
    unit = v.mul_f32(load_f32(lines[SCALE].view(np.float32), 0), broadcast_from(measures, STEP_SIZE))
    correction = load_i32(lines[CORRECTION], 0)  # takes off what the bias of the hidden state's bytes has added
    high = v.to_f32(v.add_i32(load_i32(sums[0, which], 0), correction))
    low = v.to_f32(v.add_i32(load_i32(sums[1, which], 0), correction))
    base = v.broadcast_f32(BASE)
    size = v.mul_f32(unit, v.fma_f32(v.abs_f32(high), base, v.abs_f32(low)))
    return v.mul_f32(unit, v.fma_f32(high, base, low)), size


@jit
def _bound_block(
    lines: Words, block: int, sums: npt.NDArray[np.int32], which: int, measures: Floats, bounds: Any
) -> None:
    """Write the bounds of sixteen logits, and the highest lower one."""
    lower, upper, best = bounds
    notes = lines[:HEADER].view(np.float32)
    centre, size = _centre(lines, sums, which, measures)
    norm, error = load_f32(notes[NORM], 0), load_f32(notes[ERROR], 0)
    hidden_norm, infinity = broadcast_from(measures, HIDDEN_NORM), v.broadcast_f32(np.float32(np.inf))
    most = v.mul_f32(v.add_f32(norm, error), hidden_norm)
    bound = v.fma_f32(size, v.broadcast_f32(CENTRE_ROUNDINGS), broadcast_from(measures, FLOOR))
    bound = v.fma_f32(error, hidden_norm, bound)
    bound = v.fma_f32(norm, broadcast_from(measures, HIDDEN_ERROR), bound)
    bound = v.fma_f32(most, broadcast_from(measures, ROUNDINGS), bound)
    bound = v.mul_f32(bound, v.broadcast_f32(SLACK))
    bound = v.where_greater(most, v.broadcast_f32(LARGEST_LOGIT), infinity, bound)
    lowest = v.max_f32(v.sub_f32(centre, bound), v.broadcast_f32(np.float32(-np.inf)))  # NaN is no bound at all
    store_f32(lower, block * ROWS, lowest)
    store_f32(upper, block * ROWS, v.add_f32(centre, bound))
    best[block] = v.largest_f32(lowest)


@jit
def _exempt(always: npt.NDArray[np.uint8], block: int, lower: Floats, upper: Floats, best: Floats) -> None:
    """Let the tokens that are always exact survive, and take no part in setting the threshold."""
    highest = np.float32(-np.inf)
    for row in range(block * ROWS, min((block + 1) * ROWS, always.size)):
        if always[row]:
            lower[row], upper[row] = np.float32(-np.inf), np.float32(np.inf)
        highest = max(highest, lower[row])
    best[block] = highest
