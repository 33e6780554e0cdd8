"""One token: memory is the limit, so bits stay packed until they are multiplied."""

from typing import Any

import numpy as np
import numpy.typing as npt

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.kernels.jit import TERNARY_GEMV, jit
from bitnet_numba.backends.cpu.kernels.ternary.layout import (
    FIFTH,
    GROUP_BYTES,
    GROUP_RUNS,
    LINE,
    LINES,
    ROWS,
    WORD,
    Activations,
    Bytes,
    Sums,
)
from bitnet_numba.backends.cpu.packed_sizes import FIVE_TRITS, GROUP, RUN
from bitnet_numba.backends.cpu.simd.dot import dot
from bitnet_numba.backends.cpu.simd.memory import AHEAD, broadcast_word, load_bytes, prefetch, store_i32
from bitnet_numba.backends.cpu.simd.trits import below_81, first_code, four_codes
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, claim


@jit
def gemv_worker(
    ctx: ThreadContext, counts: npt.NDArray[np.int64], weights: Bytes, q: Activations, q_sum: int, out: Sums
) -> None:
    if ctx.thread == 0:
        counts[TERNARY_GEMV] += 1
    half = out.size // (2 * ROWS)
    block = claim(ctx, half)
    while block >= 0:
        _two_blocks(weights, block, half + block, q, q_sum, out)
        block = claim(ctx, half)


@jit
def _two_blocks(weights: Bytes, first: int, second: int, q: Activations, q_sum: int, out: Sums) -> None:
    """Sixteen rows of each half of the matrix: two distant streams keep memory busier than one."""
    block_bytes = weights.size // out.size * ROWS
    at_1, at_2 = first * block_bytes, second * block_bytes
    codes_1, codes_2, grouped = multiply_groups(weights, at_1, at_2, q)
    at_1, at_2 = at_1 + grouped // GROUP * GROUP_BYTES, at_2 + grouped // GROUP * GROUP_BYTES
    zero = v.zero_i32()
    sums_1 = zero, zero, zero, zero
    sums_2 = zero, zero, zero, zero
    for run in range(grouped, q.size, RUN):
        for line in range(LINES):
            prefetch(weights, at_1 + AHEAD)
            prefetch(weights, at_2 + AHEAD)
            sums_1 = _add_line(sums_1, weights, at_1, q, run + line * WORD)
            sums_2 = _add_line(sums_2, weights, at_2, q, run + line * WORD)
            at_1, at_2 = at_1 + LINE, at_2 + LINE
    surplus = v.broadcast_i32(np.int32(q_sum))  # a code is its weight + 1
    store_i32(out, first * ROWS, v.sub_i32(v.add_i32(codes_1, _total(sums_1)), surplus))
    store_i32(out, second * ROWS, v.sub_i32(v.add_i32(codes_2, _total(sums_2)), surplus))


# ---- four weights a byte ---------------------------------------------------------------------------------------------
@jit
def _add_line(sums: Any, weights: Bytes, at: int, q: Activations, word: int) -> Any:
    return _add_codes(sums, load_bytes(weights, at), q, word)


@jit
def _add_codes(sums: Any, codes: Any, q: Activations, word: int) -> Any:
    """Add one line: its four bit pairs are columns 32 apart, left where they are (64, 16, 4, 1 times too large)."""
    s6, s4, s2, s0 = sums
    s6 = dot(s6, v.top_bit_pair(codes), broadcast_word(q, word))
    s4 = dot(s4, v.bit_pair_4(codes), broadcast_word(q, word + 32))
    s2 = dot(s2, v.bit_pair_2(codes), broadcast_word(q, word + 64))
    s0 = dot(s0, v.bit_pair_0(codes), broadcast_word(q, word + 96))
    return s6, s4, s2, s0


@jit
def _total(sums: Any) -> Any:
    s6, s4, s2, s0 = sums
    high = v.add_i32(v.shift_right_top(s6), v.shift_right_4(s4))
    return v.add_i32(high, v.add_i32(v.shift_right_2(s2), s0))


# ---- five weights a byte ---------------------------------------------------------------------------------------------
@jit
def _no_groups(weights: Bytes, at_1: int, at_2: int, q: Activations) -> Any:
    return v.zero_i32(), v.zero_i32(), 0


@jit
def _multiply_groups(weights: Bytes, at_1: int, at_2: int, q: Activations) -> Any:
    """Sum up the columns that are packed five to a byte, in two blocks, and return how many they are."""
    zero = v.zero_i32()
    sums_1, fifths_1 = (zero, zero, zero, zero), zero
    sums_2, fifths_2 = (zero, zero, zero, zero), zero
    grouped = q.size // GROUP * GROUP
    for group in range(0, grouped, GROUP):
        for run in range(GROUP_RUNS):
            for line in range(LINES):
                word, fifth = group + run * RUN + line * WORD, group + GROUP_RUNS * RUN + run * FIFTH + line * WORD
                prefetch(weights, at_1 + AHEAD)
                prefetch(weights, at_2 + AHEAD)
                sums_1, fifths_1 = _add_trits(sums_1, fifths_1, weights, at_1, q, word, fifth)
                sums_2, fifths_2 = _add_trits(sums_2, fifths_2, weights, at_2, q, word, fifth)
                at_1, at_2 = at_1 + LINE, at_2 + LINE
    return v.add_i32(_total(sums_1), fifths_1), v.add_i32(_total(sums_2), fifths_2), grouped


@jit
def _add_trits(sums: Any, fifths: Any, weights: Bytes, at: int, q: Activations, word: int, fifth: int) -> Any:
    """Add one line: four trits a byte lie as the codes of a line of four do, and one is of another run."""
    line = load_bytes(weights, at)
    rest = below_81(line)
    fifths = dot(fifths, first_code(line, rest), broadcast_word(q, fifth))
    return _add_codes(sums, four_codes(rest), q, word), fifths


multiply_groups = _multiply_groups if FIVE_TRITS else _no_groups
