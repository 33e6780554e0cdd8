"""Bounds of every logit from the int8 copy of the head: proven for the very bits that the full head would give.

Write a row of the matrix as x = s c + e (``int8_copy``) and the hidden state as h = t q + d (``hidden_codes``), with
integers c and q. Then, exactly,

    x . h = s t (c . q)  +  s (c . d)  +  e . h.

The first term is computed without an error but one rounding: ``c . q`` is a sum of int32. The others are bounded by
Cauchy and Schwarz: ``|s c| |d| + |e| |h|``. The full head (``row_product``) does not give ``x . h`` but rounds
m = n / 32 + 5 times on the way from each product to the logit, so its logit is off by at most
``m u / (1 - m u) |x| |h|``, with u = 2**-24, and by 2**-150 for each product that is denormal. The sum of these bounds
holds for the very bits of the full head; the tests try to break it. ``docs/explanation/exact-head.md`` has the details.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Bytes, Floats, Int32s, Int64s, Words
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_separate
from bitnet_numba.backends.cpu.kernels.head.full import HEAD_ROWS_PER_TASK
from bitnet_numba.backends.cpu.kernels.head.hidden_codes import (
    BASE,
    FLOOR,
    HIDDEN_ERROR,
    HIDDEN_NORM,
    HIDDEN_SCALE,
    ROUNDINGS,
    HiddenCodes,
    new_hidden_codes,
    quantize_hidden,
)
from bitnet_numba.backends.cpu.kernels.head.int8_copy import CORRECTION, ERROR, HEADER_LINES, NORM, ROUNDING, SCALE
from bitnet_numba.backends.cpu.kernels.registry import Counts, Kernel
from bitnet_numba.backends.cpu.packed_sizes import ROWS_PER_BLOCK, WORD
from bitnet_numba.backends.cpu.simd.memory import (
    PREFETCH_BYTES,
    broadcast_from,
    load_bytes,
    load_f32,
    load_i32,
    prefetch,
    store_f32,
)
from bitnet_numba.backends.cpu.simd.register_tile import add_unsigned_products, store_totals, zero_totals
from bitnet_numba.backends.cpu.simd.view import as_float32
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier_if_many, claim, slots_end

STREAMS = 2  # blocks read at once, from distant places: two streams keep memory busier than one
BYTES_PER_PASS = 8  # of hidden states' elements, multiplied at once: of four tokens, or eight at one byte an element
# names of constants, which Numba knows by value
_VECTORS_OF_ONE, _VECTORS_OF_MANY = 2 * STREAMS, BYTES_PER_PASS * STREAMS
PREFETCH_WORDS = PREFETCH_BYTES // WORD
LARGEST_LOGIT = np.float32(2.0**126)  # up to here no sum of the full head can overflow
CENTRE_ROUNDINGS = np.float32(8 * ROUNDING)  # five of the term that is computed, one when the bound is added to it
SLACK = np.float32(1 + 2.0**-19)  # for the roundings of the bound itself, nine at most, and one when it is added


class FilterState(NamedTuple):
    """Buffers of the int8 candidate filter; ``slots`` as in ``RunState``."""

    two_bytes: HiddenCodes  # the hidden states, quantized to two bytes an element
    one_byte: HiddenCodes  # and to one
    acc: Int32s  # [n_threads, 8, 2, 16]: accumulators of a pass: a few bytes times two blocks
    lower: Floats  # [n_tokens, 16 * n_blocks]: bounds of each logit
    upper: Floats
    highest_lower: Floats  # [n_tokens, n_blocks]: the highest bounds of each block
    highest_upper: Floats
    thresholds: Floats  # [slots]: lower limit of the candidates' upper bounds: every excluded logit is below it
    n_candidates: Int64s  # [slots]: of the last call; vocab_size where no threshold excludes enough
    candidates: Int32s  # [slots, vocab_size]: the first n_candidates are their token ids, in ascending order
    logits: Floats  # [n_tokens, vocab_size]: their logits, in the same order: the bits of the full head
    tail_mass: Floats  # [n_tokens, n_tasks]: bound of the excluded logits' sum of exp(beta * (logit - threshold))
    is_pending: npt.NDArray[np.bool_]  # [slots]: a token's logits need bounds, or tighter ones
    backoff: Int64s  # [1]: number of calls left that skip the bounds from one byte


def new_filter_state(vocab_size: int, hidden_size: int, n_tokens: int, n_threads: int) -> FilterState:
    """Allocate the buffers for up to ``n_tokens`` on ``n_threads`` threads."""
    n_blocks = -(-vocab_size // (STREAMS * ROWS_PER_BLOCK)) * STREAMS
    slots = -(-max(n_tokens, n_threads) // BYTES_PER_PASS) * BYTES_PER_PASS  # a pass reads past the last token
    return FilterState(
        two_bytes=new_hidden_codes(slots, 2, hidden_size),
        one_byte=new_hidden_codes(slots, 1, hidden_size),
        acc=np.zeros((n_threads, BYTES_PER_PASS, STREAMS, ROWS_PER_BLOCK), np.int32),
        lower=np.zeros((n_tokens, n_blocks * ROWS_PER_BLOCK), np.float32),
        upper=np.zeros((n_tokens, n_blocks * ROWS_PER_BLOCK), np.float32),
        highest_lower=np.zeros((n_tokens, n_blocks), np.float32),
        highest_upper=np.zeros((n_tokens, n_blocks), np.float32),
        thresholds=np.zeros(slots, np.float32),
        n_candidates=np.zeros(slots, np.int64),
        candidates=np.zeros((slots, vocab_size), np.int32),  # what is never written takes no memory
        logits=np.zeros((n_tokens, vocab_size), np.float32),
        tail_mass=np.zeros((n_tokens, -(-vocab_size // HEAD_ROWS_PER_TASK)), np.float32),
        is_pending=np.zeros(slots, np.bool_),
        backoff=np.zeros(1, np.int64),
    )


@jit_separate
def quantize_hidden_states(ctx: ThreadContext, counts: Counts, hidden: Floats, state: FilterState) -> None:
    """Quantize float32[n_tokens, hidden_size] hidden states into ``state``; all tokens are pending."""
    n_tokens = hidden.shape[0]
    if ctx.thread == 0:
        counts[Kernel.HEAD_FILTER] += 1
    for slot in range(ctx.thread, slots_end(ctx, n_tokens), ctx.n_threads):
        quantize_hidden(hidden[min(slot, n_tokens - 1)], slot, state.two_bytes, state.one_byte)
        state.is_pending[slot] = True
    barrier_if_many(ctx, n_tokens)


@jit_separate
def bound_logits(ctx: ThreadContext, int8_copy: Words, hidden: HiddenCodes, always: Bytes, state: FilterState) -> None:
    """Write the bounds of all logits of the tokens for which :func:`needs_bounds` holds; a barrier must follow.

    ``hidden`` is one of the two in ``state``. ``always``, [n_tokens, vocab_size or 0], is not 0 for tokens that are
    candidates whatever their bounds.
    """
    n_tokens, half = always.shape[0], int8_copy.shape[0] // STREAMS
    pass_tokens = tokens_per_pass(hidden, n_tokens)
    block = claim(ctx, half)
    while block >= 0:
        for first in range(0, n_tokens, pass_tokens):
            slot, count = first if n_tokens > 1 else ctx.thread, min(pass_tokens, n_tokens - first)
            if needs_bounds(hidden, slot, n_tokens, state):
                multiply_blocks(ctx, int8_copy, block, hidden, slot, n_tokens, state)
                for index in range(count):
                    _bound_both(ctx, int8_copy, block, hidden, slot + index, index, state, first + index)
                    if always.shape[1]:
                        _include(always[first + index], block, state, first + index)
                        _include(always[first + index], block + half, state, first + index)
        block = claim(ctx, half)


@jit
def needs_bounds(hidden: HiddenCodes, slot: int, n_tokens: int, state: FilterState) -> Any:
    """Tell whether a token is pending, or another one of its pass."""
    pass_tokens = tokens_per_pass(hidden, n_tokens)
    first = slot // pass_tokens * pass_tokens
    return n_tokens == 1 or state.is_pending[first : min(first + pass_tokens, n_tokens)].any()


@jit
def tokens_per_pass(hidden: HiddenCodes, n_tokens: int) -> int:
    """Return the number of tokens that are multiplied at once."""
    return BYTES_PER_PASS // hidden.codes.shape[1] if n_tokens > 1 else 1


# ---- products --------------------------------------------------------------------------------------------------------
@jit
def multiply_blocks(
    ctx: ThreadContext, int8_copy: Words, block: int, hidden: HiddenCodes, slot: int, n_tokens: int, state: FilterState
) -> None:
    """Multiply a block of each half of the matrix with the hidden states from ``slot`` on."""
    acc = state.acc[ctx.thread].reshape(-1)
    if n_tokens > 1:
        _two_blocks(zero_totals(_VECTORS_OF_MANY), int8_copy, block, hidden.codes, slot, acc)
    else:
        _two_blocks(zero_totals(_VECTORS_OF_ONE), int8_copy, block, hidden.codes, slot, acc)


@jit
def _two_blocks(zeros: Any, int8_copy: Words, block: int, codes: Bytes, slot: int, out: Int32s) -> None:
    """Multiply; ``zeros`` has two vectors, one for each block, for each byte of the pass."""
    flat, of_hidden = int8_copy.reshape(-1), codes.reshape(-1)
    n, first_byte = codes.shape[2], slot * codes.shape[1] * codes.shape[2]
    at_1 = (block * int8_copy.shape[1] + HEADER_LINES) * ROWS_PER_BLOCK
    at_2 = at_1 + int8_copy.shape[0] // STREAMS * int8_copy.shape[1] * ROWS_PER_BLOCK
    totals = zeros
    for word in range(n // WORD):
        line_1, line_2 = at_1 + word * ROWS_PER_BLOCK, at_2 + word * ROWS_PER_BLOCK
        prefetch(flat, line_1 + PREFETCH_WORDS)
        prefetch(flat, line_2 + PREFETCH_WORDS)
        lines = load_bytes(flat, line_1), load_bytes(flat, line_2)
        totals = add_unsigned_products(totals, lines, of_hidden, first_byte + word * WORD, n)
    store_totals(out, 0, totals)


@jit
def _centre(
    ctx: ThreadContext, lines: Words, hidden: HiddenCodes, slot: int, index: int, stream: int, state: FilterState
) -> Any:
    """Return s t (c . q) of sixteen rows, and the magnitudes of its bytes' sums, which its roundings scale with."""
    scale = v.mul_f32(load_f32(as_float32(lines[SCALE]), 0), broadcast_from(hidden.measures[slot], HIDDEN_SCALE))
    correction = load_i32(lines[CORRECTION], 0)  # subtracts what the bias of the hidden state's bytes has added
    n_bytes = hidden.codes.shape[1]
    total = v.to_f32(v.add_i32(load_i32(state.acc[ctx.thread, index * n_bytes, stream], 0), correction))
    size = v.abs_f32(total)
    if n_bytes == 2:
        low = v.to_f32(v.add_i32(load_i32(state.acc[ctx.thread, index * n_bytes + 1, stream], 0), correction))
        size = v.fma_f32(size, v.broadcast_f32(BASE), v.abs_f32(low))
        total = v.fma_f32(total, v.broadcast_f32(BASE), low)
    return v.mul_f32(scale, total), v.mul_f32(scale, size)


# ---- bounds ----------------------------------------------------------------------------------------------------------
@jit
def _bound_both(
    ctx: ThreadContext,
    int8_copy: Words,
    block: int,
    hidden: HiddenCodes,
    slot: int,
    index: int,
    state: FilterState,
    token: int,
) -> None:
    """Write the bounds of the logits of two blocks, and the highest ones."""
    for stream in range(STREAMS):
        number = block + stream * (int8_copy.shape[0] // STREAMS)
        centre, size = _centre(ctx, int8_copy[number], hidden, slot, index, stream, state)
        width = _width(as_float32(int8_copy[number]), size, hidden.measures[slot])
        lower, upper = v.sub_f32(centre, width), v.add_f32(centre, width)
        lower = v.max_f32(lower, v.broadcast_f32(np.float32(-np.inf)))  # NaN is no bound at all
        upper = v.min_f32(upper, v.broadcast_f32(np.float32(np.inf)))
        store_f32(state.lower[token], number * ROWS_PER_BLOCK, lower)
        store_f32(state.upper[token], number * ROWS_PER_BLOCK, upper)
        state.highest_lower[token, number] = v.largest_f32(lower)
        state.highest_upper[token, number] = v.largest_f32(upper)


@jit
def _width(header: Floats, size: Any, measures: Floats) -> Any:
    """Return half the widths of sixteen logits' bounds."""
    norm, error = load_f32(header[NORM], 0), load_f32(header[ERROR], 0)
    hidden_norm, infinity = broadcast_from(measures, HIDDEN_NORM), v.broadcast_f32(np.float32(np.inf))
    most = v.mul_f32(v.add_f32(norm, error), hidden_norm)
    width = v.fma_f32(size, v.broadcast_f32(CENTRE_ROUNDINGS), broadcast_from(measures, FLOOR))
    width = v.fma_f32(error, hidden_norm, width)
    width = v.fma_f32(norm, broadcast_from(measures, HIDDEN_ERROR), width)
    width = v.fma_f32(most, broadcast_from(measures, ROUNDINGS), width)
    width = v.mul_f32(width, v.broadcast_f32(SLACK))
    return v.where_greater(most, v.broadcast_f32(LARGEST_LOGIT), infinity, width)


@jit
def _include(always: Bytes, block: int, state: FilterState, token: int) -> None:
    """Make the marked tokens candidates, without a part in setting the threshold."""
    best, highest = np.float32(-np.inf), state.highest_upper[token, block]
    for row in range(block * ROWS_PER_BLOCK, min((block + 1) * ROWS_PER_BLOCK, always.size)):
        if always[row]:
            state.lower[token, row], state.upper[token, row] = np.float32(-np.inf), np.float32(np.inf)
            highest = np.float32(np.inf)
        best = max(best, state.lower[token, row])
    state.highest_lower[token, block], state.highest_upper[token, block] = best, highest
