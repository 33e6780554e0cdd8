"""Bounds of every logit from the int8 copy of the head: proven for the very bits that the full pass would give.

Write a row of the matrix as x = s c + e (``int8_copy``) and the hidden state as h = t q + d
(``hidden_codes``), with whole numbers c and q. Then, exactly,

    x . h = s t (c . q)  +  s (c . d)  +  e . h.

The first term is computed without an error but one rounding: ``c . q`` is a sum of int32. The others are bounded by
Cauchy and Schwarz: ``|s c| |d| + |e| |h|``. The full pass, ``row_product``, does not give
``x . h`` but rounds m = n / 32 + 5 times on the way from each product to the logit, so what it gives is off by at most
``m u / (1 - m u) |x| |h|``, with u = 2**-24, and by 2**-150 for each product that is denormal. The sum of these bounds
holds for the very bits of the full pass; the tests try to break it. ``docs/explanation/exact-head.md`` has the details.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.kernels.head.full import ROWS as CHUNK
from bitnet_numba.backends.cpu.kernels.head.hidden_codes import (
    BASE,
    FLOOR,
    HIDDEN_ERROR,
    HIDDEN_NORM,
    ROUNDINGS,
    STEP_SIZE,
    HiddenCodes,
    new_hidden_codes,
    quantize_hidden,
)
from bitnet_numba.backends.cpu.kernels.head.int8_copy import (
    CORRECTION,
    ERROR,
    HEADER,
    NORM,
    ROUNDING,
    ROWS,
    SCALE,
    WORD,
)
from bitnet_numba.backends.cpu.kernels.jit import HEAD_SCREEN, jit
from bitnet_numba.backends.cpu.simd.memory import (
    AHEAD,
    broadcast_from,
    load_bytes,
    load_f32,
    load_i32,
    prefetch,
    store_f32,
)
from bitnet_numba.backends.cpu.simd.register_tile import add_unsigned_products, store_totals, zero_totals
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier, claim, meet_for, slots_end

BLOCKS = 2  # at once, from distant places: two streams keep memory busier than one
PARTS = 8  # bytes of hidden states' elements at once: of four tokens, or of eight where they have one byte
_SUMS_OF_ONE, _SUMS_OF_ALL = 2 * BLOCKS, PARTS * BLOCKS  # names of constants, which Numba knows by value
AHEAD_WORDS = AHEAD // WORD
LARGEST_LOGIT = np.float32(2.0**126)  # up to here no sum of the full pass can overflow
CENTRE_ROUNDINGS = np.float32(8 * ROUNDING)  # five of the term that is computed, one when the bound is added to it
SLACK = np.float32(1 + 2.0**-19)  # for the roundings of the bound itself, nine at most, and one when it is added

Words = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]
Marks = npt.NDArray[np.uint8]


class ScreenState(NamedTuple):
    """Buffers of a screened head; slots as in the forward pass's other buffers.

    Attributes
    ----------
    fine, coarse : HiddenCodes
        The hidden states in two bytes an element, and in one.
    sums : int32[n_threads, 8, 2, 16]
        Products of the parts of a few hidden states with two blocks.
    lower, upper : float32[n_tokens, 16 * n_blocks]
        Bounds of each logit.
    best, highest : float32[n_tokens, n_blocks]
        The highest lower and the highest upper bound of each block.
    thresholds : float32[slots]
        What a logit must be able to reach.
    rescored : int64[slots]
        How many logits the last call computed exactly; ``vocab_size`` where it was the full pass.
    known : int32[slots, vocab_size]
        The tokens that these belong to, in ascending order: the first ``rescored`` ones.
    logits : float32[n_tokens, vocab_size]
        These logits, in the same order.
    left_out : float32[n_tokens, n_tasks]
        What the logits weigh that were not computed, by chunks of rows; written only where some are to be weighed.
    is_open : bool[slots]
        Whether a token's logits are to be bounded, for the first time or more closely.
    rest : int64[1]
        How many calls do without coarse bounds, which have been of no use.
    """

    fine: HiddenCodes
    coarse: HiddenCodes
    sums: npt.NDArray[np.int32]
    lower: Floats
    upper: Floats
    best: Floats
    highest: Floats
    thresholds: Floats
    rescored: npt.NDArray[np.int64]
    known: npt.NDArray[np.int32]
    logits: Floats
    left_out: Floats
    is_open: npt.NDArray[np.bool_]
    rest: npt.NDArray[np.int64]


def new_screen_state(vocab_size: int, hidden_size: int, n_tokens: int, n_threads: int) -> ScreenState:
    """Allocate the buffers for up to ``n_tokens`` on ``n_threads`` threads."""
    n_blocks = -(-vocab_size // (2 * ROWS)) * 2
    slots = -(-max(n_tokens, n_threads) // PARTS) * PARTS  # what lies behind the last token is multiplied too
    return ScreenState(
        fine=new_hidden_codes(slots, 2, hidden_size),
        coarse=new_hidden_codes(slots, 1, hidden_size),
        sums=np.zeros((n_threads, PARTS, BLOCKS, ROWS), np.int32),
        lower=np.zeros((n_tokens, n_blocks * ROWS), np.float32),
        upper=np.zeros((n_tokens, n_blocks * ROWS), np.float32),
        best=np.zeros((n_tokens, n_blocks), np.float32),
        highest=np.zeros((n_tokens, n_blocks), np.float32),
        thresholds=np.zeros(slots, np.float32),
        rescored=np.zeros(slots, np.int64),
        known=np.zeros((slots, vocab_size), np.int32),  # what is never written takes no memory
        logits=np.zeros((n_tokens, vocab_size), np.float32),
        left_out=np.zeros((n_tokens, -(-vocab_size // CHUNK)), np.float32),
        is_open=np.zeros(slots, np.bool_),
        rest=np.zeros(1, np.int64),
    )


@jit
def begin_worker(ctx: ThreadContext, counts: npt.NDArray[np.int64], hidden: Floats, state: ScreenState) -> None:
    """Write the codes of all hidden states; all of them are open."""
    n_tokens = hidden.shape[0]
    if ctx.thread == 0:
        counts[HEAD_SCREEN] += 1
    for slot in range(ctx.thread, slots_end(ctx, n_tokens), ctx.n_threads):
        quantize_hidden(hidden[min(slot, n_tokens - 1)], slot, state.fine, state.coarse)
        state.is_open[slot] = True
    meet_for(ctx, n_tokens)


@jit
def screen_worker(ctx: ThreadContext, screen: Words, hidden: HiddenCodes, always: Marks, state: ScreenState) -> None:
    """Write the bounds of all logits, where :func:`is_bounded`."""
    n_tokens, half = always.shape[0], screen.shape[0] // BLOCKS
    together = tokens_together(hidden, n_tokens)
    block = claim(ctx, half)
    while block >= 0:
        for first in range(0, n_tokens, together):
            slot, count = first if n_tokens > 1 else ctx.thread, min(together, n_tokens - first)
            if is_bounded(hidden, slot, n_tokens, state):
                multiply_blocks(ctx, screen, block, hidden, slot, n_tokens, state)
                for each in range(count):
                    _bound_both(ctx, screen, block, hidden, slot + each, each, state, first + each)
                    if always.shape[1]:
                        _exempt(always[first + each], block, state, first + each)
                        _exempt(always[first + each], block + half, state, first + each)
        block = claim(ctx, half)


@jit
def approximate_worker(
    ctx: ThreadContext, counts: npt.NDArray[np.int64], screen: Words, hidden: Floats, state: ScreenState, out: Floats
) -> None:
    n_tokens, half = hidden.shape[0], screen.shape[0] // BLOCKS
    begin_worker(ctx, counts, hidden, state)
    together = tokens_together(state.fine, n_tokens)
    block = claim(ctx, half)
    while block >= 0:
        for first in range(0, n_tokens, together):
            slot = first if n_tokens > 1 else ctx.thread
            multiply_blocks(ctx, screen, block, state.fine, slot, n_tokens, state)
            for each in range(min(together, n_tokens - first)):
                for which in range(BLOCKS):
                    number = block + which * half
                    centre, _ = _centre(ctx, screen[number], state.fine, slot + each, each, which, state)
                    store_f32(state.upper[first + each], number * ROWS, centre)
        block = claim(ctx, half)
    barrier(ctx)
    for token in range(ctx.thread, n_tokens, ctx.n_threads):
        for row in range(out.shape[1]):
            out[token, row] = state.upper[token, row]


@jit
def is_bounded(hidden: HiddenCodes, slot: int, n_tokens: int, state: ScreenState) -> Any:
    """Tell whether a token is open, or one of those that are multiplied with it."""
    together = tokens_together(hidden, n_tokens)
    first = slot // together * together
    return n_tokens == 1 or state.is_open[first : min(first + together, n_tokens)].any()


@jit
def tokens_together(hidden: HiddenCodes, n_tokens: int) -> int:
    """Return how many tokens are multiplied at once."""
    return PARTS // hidden.codes.shape[1] if n_tokens > 1 else 1


# ---- products --------------------------------------------------------------------------------------------------------
@jit
def multiply_blocks(
    ctx: ThreadContext, screen: Words, block: int, hidden: HiddenCodes, slot: int, n_tokens: int, state: ScreenState
) -> None:
    """Multiply a block of each half of the matrix with the hidden states from ``slot`` on."""
    sums = state.sums[ctx.thread].reshape(-1)
    if n_tokens > 1:
        _two_blocks(zero_totals(_SUMS_OF_ALL), screen, block, hidden.codes, slot, sums)
    else:
        _two_blocks(zero_totals(_SUMS_OF_ONE), screen, block, hidden.codes, slot, sums)


@jit
def _two_blocks(
    zeros: Any, screen: Words, block: int, codes: npt.NDArray[np.uint8], slot: int, sums: npt.NDArray[np.int32]
) -> None:
    """``zeros`` has two vectors, one for either block, for each part of each hidden state."""
    flat, of_hidden = screen.reshape(-1), codes.reshape(-1)
    n, first_byte = codes.shape[2], slot * codes.shape[1] * codes.shape[2]
    at_1 = (block * screen.shape[1] + HEADER) * ROWS
    at_2 = at_1 + screen.shape[0] // BLOCKS * screen.shape[1] * ROWS
    totals = zeros
    for word in range(n // WORD):
        line_1, line_2 = at_1 + word * ROWS, at_2 + word * ROWS
        prefetch(flat, line_1 + AHEAD_WORDS)
        prefetch(flat, line_2 + AHEAD_WORDS)
        lines = load_bytes(flat, line_1), load_bytes(flat, line_2)
        totals = add_unsigned_products(totals, lines, of_hidden, first_byte + word * WORD, n)
    store_totals(sums, 0, totals)


@jit
def _centre(
    ctx: ThreadContext, lines: Words, hidden: HiddenCodes, slot: int, each: int, which: int, state: ScreenState
) -> Any:
    """Return s t (c . q) of sixteen rows, and the sum of its parts' magnitudes, to which its roundings are relative."""
    unit = v.mul_f32(load_f32(lines[SCALE].view(np.float32), 0), broadcast_from(hidden.measures[slot], STEP_SIZE))
    correction = load_i32(lines[CORRECTION], 0)  # takes off what the bias of the hidden state's bytes has added
    parts = hidden.codes.shape[1]
    total = v.to_f32(v.add_i32(load_i32(state.sums[ctx.thread, each * parts, which], 0), correction))
    size = v.abs_f32(total)
    if parts == 2:
        low = v.to_f32(v.add_i32(load_i32(state.sums[ctx.thread, each * parts + 1, which], 0), correction))
        size = v.fma_f32(size, v.broadcast_f32(BASE), v.abs_f32(low))
        total = v.fma_f32(total, v.broadcast_f32(BASE), low)
    return v.mul_f32(unit, total), v.mul_f32(unit, size)


# ---- bounds ----------------------------------------------------------------------------------------------------------
@jit
def _bound_both(
    ctx: ThreadContext,
    screen: Words,
    block: int,
    hidden: HiddenCodes,
    slot: int,
    each: int,
    state: ScreenState,
    token: int,
) -> None:
    """Write the bounds of the logits of two blocks, and the highest ones."""
    for which in range(BLOCKS):
        number = block + which * (screen.shape[0] // BLOCKS)
        centre, size = _centre(ctx, screen[number], hidden, slot, each, which, state)
        width = _width(screen[number].view(np.float32), size, hidden.measures[slot])
        lower, upper = v.sub_f32(centre, width), v.add_f32(centre, width)
        lower = v.max_f32(lower, v.broadcast_f32(np.float32(-np.inf)))  # NaN is no bound at all
        upper = v.min_f32(upper, v.broadcast_f32(np.float32(np.inf)))
        store_f32(state.lower[token], number * ROWS, lower)
        store_f32(state.upper[token], number * ROWS, upper)
        state.best[token, number] = v.largest_f32(lower)
        state.highest[token, number] = v.largest_f32(upper)


@jit
def _width(notes: Floats, size: Any, measures: Floats) -> Any:
    """Return how far sixteen logits can be from their centres."""
    norm, error = load_f32(notes[NORM], 0), load_f32(notes[ERROR], 0)
    hidden_norm, infinity = broadcast_from(measures, HIDDEN_NORM), v.broadcast_f32(np.float32(np.inf))
    most = v.mul_f32(v.add_f32(norm, error), hidden_norm)
    width = v.fma_f32(size, v.broadcast_f32(CENTRE_ROUNDINGS), broadcast_from(measures, FLOOR))
    width = v.fma_f32(error, hidden_norm, width)
    width = v.fma_f32(norm, broadcast_from(measures, HIDDEN_ERROR), width)
    width = v.fma_f32(most, broadcast_from(measures, ROUNDINGS), width)
    width = v.mul_f32(width, v.broadcast_f32(SLACK))
    return v.where_greater(most, v.broadcast_f32(LARGEST_LOGIT), infinity, width)


@jit
def _exempt(always: Marks, block: int, state: ScreenState, token: int) -> None:
    """Let the tokens that are always exact survive, and take no part in setting the threshold."""
    best, highest = np.float32(-np.inf), state.highest[token, block]
    for row in range(block * ROWS, min((block + 1) * ROWS, always.size)):
        if always[row]:
            state.lower[token, row], state.upper[token, row] = np.float32(-np.inf), np.float32(np.inf)
            highest = np.float32(np.inf)
        best = max(best, state.lower[token, row])
    state.best[token, block], state.highest[token, block] = best, highest
