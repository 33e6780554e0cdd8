"""One token: memory is the limit, so bits stay packed until they are multiplied."""

from typing import Any

import numpy as np
import numpy.typing as npt

import bitnet_numba.simd.vector as v
from bitnet_numba.kernels.jit import TERNARY_GEMV, jit
from bitnet_numba.kernels.ternary.layout import LINE, LINES, ROWS, Activations, Bytes, Sums
from bitnet_numba.simd.dot import dot
from bitnet_numba.simd.memory import AHEAD, broadcast_word, load_bytes, prefetch, store_i32
from bitnet_numba.simd.team import Crew, claim


@jit
def gemv_worker(
    crew: Crew, counts: npt.NDArray[np.int64], weights: Bytes, q: Activations, q_sum: int, out: Sums
) -> None:
    if crew.thread == 0:
        counts[TERNARY_GEMV] += 1
    half = out.size // (2 * ROWS)
    block = claim(crew, half)
    while block >= 0:
        _two_blocks(weights, block, half + block, q, q_sum, out)
        block = claim(crew, half)


@jit
def _two_blocks(weights: Bytes, first: int, second: int, q: Activations, q_sum: int, out: Sums) -> None:
    """Sixteen rows of each half of the matrix: two distant streams keep memory busier than one."""
    block_bytes = q.size // 4 * ROWS
    zero = v.zero_i32()
    sums_1 = zero, zero, zero, zero
    sums_2 = zero, zero, zero, zero
    at_1, at_2 = first * block_bytes, second * block_bytes
    for run in range(0, block_bytes, LINES * LINE):
        for line in range(0, LINES * LINE, LINE):
            word = run // 4 + line // ROWS
            prefetch(weights, at_1 + run + line + AHEAD)
            prefetch(weights, at_2 + run + line + AHEAD)
            sums_1 = _add_line(sums_1, weights, at_1 + run + line, q, word)
            sums_2 = _add_line(sums_2, weights, at_2 + run + line, q, word)
    store_i32(out, first * ROWS, _total(sums_1, q_sum))
    store_i32(out, second * ROWS, _total(sums_2, q_sum))


@jit
def _add_line(sums: Any, weights: Bytes, at: int, q: Activations, word: int) -> Any:
    """Add one line: its four bit pairs are columns 32 apart, left where they are (64, 16, 4, 1 times too large)."""
    s6, s4, s2, s0 = sums
    codes = load_bytes(weights, at)
    s6 = dot(s6, v.top_bit_pair(codes), broadcast_word(q, word))
    s4 = dot(s4, v.bit_pair_4(codes), broadcast_word(q, word + 32))
    s2 = dot(s2, v.bit_pair_2(codes), broadcast_word(q, word + 64))
    s0 = dot(s0, v.bit_pair_0(codes), broadcast_word(q, word + 96))
    return s6, s4, s2, s0


@jit
def _total(sums: Any, q_sum: int) -> Any:
    s6, s4, s2, s0 = sums
    high = v.add_i32(v.shift_right_top(s6), v.shift_right_4(s4))
    codes = v.add_i32(high, v.add_i32(v.shift_right_2(s2), s0))
    return v.sub_i32(codes, v.broadcast_i32(np.int32(q_sum)))  # a code is its weight + 1
