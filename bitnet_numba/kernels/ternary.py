"""Ternary matrix times int8 activations, exact in int32: one layout, R16, for one token and for many."""

from typing import Any

import numpy as np
import numpy.typing as npt

import bitnet_numba.simd.vector as v
from bitnet_numba.kernels.checks import check_array, check_lanes, check_rank
from bitnet_numba.kernels.jit import TERNARY_GEMM, TERNARY_GEMV, jit, new_counts
from bitnet_numba.simd.dot import dot
from bitnet_numba.simd.memory import broadcast_word, load_bytes, prefetch, store_i32
from bitnet_numba.simd.team import Crew, barrier, claim

ROWS = 16  # rows a block: one lane each
RUN = 128  # columns a run: eight lines, whose four bit pairs lie 32 columns apart
LINE = 64  # bytes: four neighbouring bytes of each row of a block
TOKENS = 8  # tokens that the matrix product takes at once: as many accumulators hide the latency of a dot product
MAX_COLUMNS = 1 << 19  # a quarter of them, each 2 * 128 at most, 64 times too large, still fits an int32
AHEAD = 2048  # bytes of prefetch: hides the latency of memory

Bytes = npt.NDArray[np.uint8]
Activations = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]


def pack_r16(i2s: Bytes) -> Bytes:
    """Interleave I2_S rows so that one cache line holds four bytes of each of sixteen rows.

    No bit is coded anew: the four-byte words of sixteen rows are transposed.

    Parameters
    ----------
    i2s : uint8[rows, columns // 4]
        ``rows`` a multiple of 32, ``columns`` of 128.

    Returns
    -------
    uint8[rows * columns // 4]
    """
    check_rank("i2s", i2s, 2)
    rows, row_bytes = i2s.shape
    check_lanes("rows", rows, 2 * ROWS)
    check_lanes("columns", 4 * row_bytes, RUN)
    check_array("i2s", i2s, np.uint8, (rows, row_bytes))
    words = i2s.view(np.uint32).reshape(rows // ROWS, ROWS, row_bytes // 4)
    return np.ascontiguousarray(words.transpose(0, 2, 1)).view(np.uint8).reshape(-1)


def ternary_product(crew: Crew, weights: Bytes, q: Activations, q_sum: Sums, out: Sums) -> None:
    """Write the products of a ternary matrix with each token's activations to ``out``.

    Every thread of a team calls it; the rows are shared among them.

    Parameters
    ----------
    crew : Crew
        This thread's place in the team.
    weights : uint8[rows * columns // 4]
        The matrix, from :func:`pack_r16`.
    q : int8[slots, columns]
        Activations, a token each row; ``slots`` is a multiple of 8 where there is more than one token. There are at
        most 2**19 columns.
    q_sum : int32[n_tokens]
        The sum of each token's activations.
    out : int32[n_tokens, rows]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_rank("out", out, 2)
    check_rank("q", q, 2)
    n_tokens, rows = out.shape
    slots, columns = q.shape
    check_lanes("rows", rows, 2 * ROWS)
    check_lanes("columns", columns, RUN)
    if columns > MAX_COLUMNS:
        raise ValueError(f"columns: expected at most {MAX_COLUMNS}, got {columns}")
    check_array("weights", weights, np.uint8, (rows * columns // 4,))
    check_array("q", q, np.int8, (slots, columns))
    check_array("q_sum", q_sum, np.int32, (n_tokens,))
    check_array("out", out, np.int32, (n_tokens, rows), written=True)
    if slots < n_tokens or (n_tokens > 1 and slots % TOKENS):
        raise ValueError(f"q: {n_tokens} tokens need a multiple of {TOKENS} rows, got {slots}")
    _product(crew, new_counts(), weights, q, q_sum, out)


@jit
def _product(crew: Crew, counts: npt.NDArray[np.int64], weights: Bytes, q: Activations, q_sum: Sums, out: Sums) -> None:
    if out.shape[0] == 1:
        gemv_worker(crew, counts, weights, q[0], q_sum[0], out[0])
    else:
        gemm_worker(crew, counts, weights, q, q_sum, out)
    barrier(crew)


# ---- one token -------------------------------------------------------------------------------------------------------
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
    for run in range(0, block_bytes, 8 * LINE):
        for line in range(0, 8 * LINE, LINE):
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


# ---- many tokens -----------------------------------------------------------------------------------------------------
@jit
def gemm_worker(
    crew: Crew, counts: npt.NDArray[np.int64], weights: Bytes, q: Activations, q_sum: Sums, out: Sums
) -> None:
    if crew.thread == 0:
        counts[TERNARY_GEMM] += 1
    n_tokens, rows = out.shape
    flat_q, flat_out = q.reshape(-1), out.reshape(-1)
    block = claim(crew, rows // ROWS)
    while block >= 0:
        for token in range(0, n_tokens, TOKENS):
            _block_times_tokens(weights, block, flat_q, token, q.shape[1], q_sum, flat_out, rows)
        block = claim(crew, rows // ROWS)


@jit
def _block_times_tokens(
    weights: Bytes, block: int, q: Activations, token: int, columns: int, q_sum: Sums, out: Sums, rows: int
) -> None:
    """Sixteen rows times eight tokens; those past the last token are computed from what lies there, and dropped."""
    at = block * columns // 4 * ROWS
    zero = v.zero_i32()
    sums = zero, zero, zero, zero, zero, zero, zero, zero
    for run in range(0, columns, RUN):
        for line in range(8):
            codes = load_bytes(weights, at + 4 * run + line * LINE)
            word = token * columns + run + 4 * line
            sums = _add_codes(sums, v.code_6(codes), q, word, columns)
            sums = _add_codes(sums, v.code_4(codes), q, word + 32, columns)
            sums = _add_codes(sums, v.code_2(codes), q, word + 64, columns)
            sums = _add_codes(sums, v.code_0(codes), q, word + 96, columns)
    for index, total in enumerate(sums):
        if token + index < q_sum.size:
            place = (token + index) * rows + block * ROWS
            store_i32(out, place, v.sub_i32(total, v.broadcast_i32(q_sum[token + index])))


@jit
def _add_codes(sums: Any, codes: Any, q: Activations, word: int, columns: int) -> Any:
    a, b, c, d, e, f, g, h = sums
    return (
        dot(a, codes, broadcast_word(q, word)),
        dot(b, codes, broadcast_word(q, word + columns)),
        dot(c, codes, broadcast_word(q, word + 2 * columns)),
        dot(d, codes, broadcast_word(q, word + 3 * columns)),
        dot(e, codes, broadcast_word(q, word + 4 * columns)),
        dot(f, codes, broadcast_word(q, word + 5 * columns)),
        dot(g, codes, broadcast_word(q, word + 6 * columns)),
        dot(h, codes, broadcast_word(q, word + 7 * columns)),
    )
