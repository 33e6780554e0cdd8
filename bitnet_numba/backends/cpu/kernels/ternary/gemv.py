"""Ternary matrix times one token (decoding): bound by memory, so codes stay packed until they are multiplied."""

from typing import Any

import numpy as np

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Bytes, Int8s, Int32s
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_separate
from bitnet_numba.backends.cpu.kernels.registry import Counts, Kernel
from bitnet_numba.backends.cpu.kernels.ternary.layout import FIFTH, GROUP_BYTES, GROUP_RUNS, LINE, LINES
from bitnet_numba.backends.cpu.packed_sizes import FIVE_TRITS, GROUP, ROWS_PER_BLOCK, RUN, WORD
from bitnet_numba.backends.cpu.simd.dot import dot
from bitnet_numba.backends.cpu.simd.memory import PREFETCH_BYTES, broadcast_word, load_bytes, prefetch, store_i32
from bitnet_numba.backends.cpu.simd.trits import below_81, first_code, four_codes
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, claim


@jit_separate
def ternary_gemv(ctx: ThreadContext, counts: Counts, weights: Bytes, q: Int8s, q_sum: int, out: Int32s) -> None:
    """Write the product of a ternary matrix and one token's activations to ``out``, int32[rows], exactly.

    All threads call it and share the rows; a barrier must follow. ``weights`` are from ``pack``; ``rows`` is a multiple
    of 32, ``columns`` of 128, at most 2**19. ``q_sum`` is the sum of ``q``.
    """
    if ctx.thread == 0:
        counts[Kernel.TERNARY_GEMV] += 1
    half = out.size // (2 * ROWS_PER_BLOCK)
    block = claim(ctx, half)
    while block >= 0:
        _two_blocks(weights, block, half + block, q, q_sum, out)
        block = claim(ctx, half)


@jit
def _two_blocks(weights: Bytes, first: int, second: int, q: Int8s, q_sum: int, out: Int32s) -> None:
    """Sixteen rows of each half of the matrix: two distant streams keep memory busier than one."""
    block_bytes = weights.size // out.size * ROWS_PER_BLOCK
    at_1, at_2 = first * block_bytes, second * block_bytes
    codes_1, codes_2, grouped = multiply_groups(weights, at_1, at_2, q)
    at_1, at_2 = at_1 + grouped // GROUP * GROUP_BYTES, at_2 + grouped // GROUP * GROUP_BYTES
    zero = v.zero_i32()
    acc_1 = zero, zero, zero, zero
    acc_2 = zero, zero, zero, zero
    for run in range(grouped, q.size, RUN):
        for line in range(LINES):
            prefetch(weights, at_1 + PREFETCH_BYTES)
            prefetch(weights, at_2 + PREFETCH_BYTES)
            acc_1 = _add_line(acc_1, weights, at_1, q, run + line * WORD)
            acc_2 = _add_line(acc_2, weights, at_2, q, run + line * WORD)
            at_1, at_2 = at_1 + LINE, at_2 + LINE
    excess = v.broadcast_i32(np.int32(q_sum))  # a code is its weight + 1
    store_i32(out, first * ROWS_PER_BLOCK, v.sub_i32(v.add_i32(codes_1, _total(acc_1)), excess))
    store_i32(out, second * ROWS_PER_BLOCK, v.sub_i32(v.add_i32(codes_2, _total(acc_2)), excess))


# ---- four weights a byte ---------------------------------------------------------------------------------------------
@jit
def _add_line(acc: Any, weights: Bytes, at: int, q: Int8s, word: int) -> Any:
    return _add_codes(acc, load_bytes(weights, at), q, word)


@jit
def _add_codes(acc: Any, codes: Any, q: Int8s, word: int) -> Any:
    """Add one line: its four bit pairs are columns 32 apart, left where they are (64, 16, 4, 1 times too large)."""
    s6, s4, s2, s0 = acc
    s6 = dot(s6, v.top_bit_pair(codes), broadcast_word(q, word))
    s4 = dot(s4, v.bit_pair_4(codes), broadcast_word(q, word + 32))
    s2 = dot(s2, v.bit_pair_2(codes), broadcast_word(q, word + 64))
    s0 = dot(s0, v.bit_pair_0(codes), broadcast_word(q, word + 96))
    return s6, s4, s2, s0


@jit
def _total(acc: Any) -> Any:
    s6, s4, s2, s0 = acc
    high = v.add_i32(v.shift_right_top(s6), v.shift_right_4(s4))
    return v.add_i32(high, v.add_i32(v.shift_right_2(s2), s0))


# ---- five weights a byte ---------------------------------------------------------------------------------------------
@jit
def _no_groups(weights: Bytes, at_1: int, at_2: int, q: Int8s) -> Any:
    return v.zero_i32(), v.zero_i32(), 0


@jit
def _multiply_groups(weights: Bytes, at_1: int, at_2: int, q: Int8s) -> Any:
    """Multiply the columns that are packed five to a byte, in two blocks, and return the number of columns."""
    zero = v.zero_i32()
    acc_1, fifths_1 = (zero, zero, zero, zero), zero
    acc_2, fifths_2 = (zero, zero, zero, zero), zero
    grouped = q.size // GROUP * GROUP
    for group in range(0, grouped, GROUP):
        for run in range(GROUP_RUNS):
            for line in range(LINES):
                word, fifth = group + run * RUN + line * WORD, group + GROUP_RUNS * RUN + run * FIFTH + line * WORD
                prefetch(weights, at_1 + PREFETCH_BYTES)
                prefetch(weights, at_2 + PREFETCH_BYTES)
                acc_1, fifths_1 = _add_trits(acc_1, fifths_1, weights, at_1, q, word, fifth)
                acc_2, fifths_2 = _add_trits(acc_2, fifths_2, weights, at_2, q, word, fifth)
                at_1, at_2 = at_1 + LINE, at_2 + LINE
    return v.add_i32(_total(acc_1), fifths_1), v.add_i32(_total(acc_2), fifths_2), grouped


@jit
def _add_trits(acc: Any, fifths: Any, weights: Bytes, at: int, q: Int8s, word: int, fifth: int) -> Any:
    """Add one line of five trits a byte: four lie as the codes of other lines do, the fifth is of another run."""
    line = load_bytes(weights, at)
    codes = below_81(line)
    fifths = dot(fifths, first_code(line, codes), broadcast_word(q, fifth))
    return _add_codes(acc, four_codes(codes), q, word), fifths


multiply_groups = _multiply_groups if FIVE_TRITS else _no_groups
