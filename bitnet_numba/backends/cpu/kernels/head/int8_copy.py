"""The int8 copy of an output head: made once at load, and read at every token in place of most of the head."""

from typing import Any

import numpy as np

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Int8s, Numbers, Words
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.packed_sizes import ROWS_PER_BLOCK, WORD
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_i32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.view import as_float32, as_int32
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, claim

CORRECTION, SCALE, NORM, ERROR = range(4)
"""The first lines of a block."""
HEADER_LINES = 4
LARGEST_CODE = np.float32(127)
BIAS = 63  # of the bytes of a hidden state: from -63 to 63, stored as 0 to 126
SMALLEST_MAXIMUM = np.float32(1e-30)  # of a row or hidden state that is scaled: its inverse is still a float32
MAX_HIDDEN = 1 << 17  # products of a code and a byte of the hidden state whose sum fits an int32
ROUNDING, UNDERFLOW = 2.0**-24, 2.0**-149  # error of one float32 operation: relative, and of a denormal result


def int8_copy_shape(vocab_size: int, hidden_size: int) -> tuple[int, int, int]:
    """Return the shape of the int8 copy of a matrix ``[vocab_size, hidden_size]``: an even number of blocks."""
    return -(-vocab_size // (2 * ROWS_PER_BLOCK)) * 2, HEADER_LINES + hidden_size // WORD, ROWS_PER_BLOCK


@jit
def quantize_rows(ctx: ThreadContext, matrix: Numbers, codes: Int8s, out: Words) -> None:
    """Write the int8 copy of a float matrix to ``out``, with bounds of its errors.

    All threads call it and share the blocks; a barrier must follow. ``hidden_size`` is a multiple of 32, at most 2**17;
    ``codes`` is scratch of this thread, int8[16, hidden_size]; ``out`` is of the shape from :func:`int8_copy_shape`.

    A row is a scale times its codes, from -127 to 127, plus an error. A block is sixteen rows, side by side in every
    line. The first lines are ``CORRECTION`` (int32: what the bias of the hidden state's bytes adds to a row, negated),
    ``SCALE``, ``NORM`` and ``ERROR`` (float32: the scale; upper bounds of the Euclidean norms of scale times codes and
    of the error); the others hold four neighbouring codes of each row. Of rows past the last one, and of those that are
    not finite, scale and error are NaN.
    """
    block = claim(ctx, out.shape[0])
    while block >= 0:
        for lane in range(ROWS_PER_BLOCK):
            row = block * ROWS_PER_BLOCK + lane
            if row < matrix.shape[0]:
                _quantize_row(matrix[row], lane, codes[lane], out[block])
            else:
                codes[lane] = 0
                _write_header(lane, 0, np.float32(np.nan), np.float32(0), np.float32(np.nan), out[block])
        _interleave(codes.view(np.uint32), out[block])
        block = claim(ctx, out.shape[0])


@jit
def _quantize_row(values: Numbers, lane: int, codes: Int8s, lines: Words) -> None:
    n = values.size
    largest = max(largest_magnitude(values), SMALLEST_MAXIMUM)
    scale = largest / LARGEST_CODE
    factor, minus_scale = v.broadcast_f32(LARGEST_CODE / largest), v.broadcast_f32(-scale)
    total = v.zero_i32()
    squares = error_squares = v.zero_f32()
    for i in range(0, n, LANES):
        x = load_f32(values, i)
        q = rounded(v.mul_f32(x, factor), LARGEST_CODE)
        error = v.fma_f32(q, minus_scale, x)
        squares, error_squares = v.fma_f32(q, q, squares), v.fma_f32(error, error, error_squares)
        total = v.add_i32(total, v.to_i32(q))
        store_i32(codes, i, v.to_i32(q))
    error_sum = v.sum_f32(error_squares)
    if np.isnan(error_sum):
        scale = error_sum
    norm = above(np.float64(scale) * norm_above(v.sum_f32(squares), n))
    _write_header(lane, -BIAS * v.sum_i32(total), scale, norm, above(norm_above(error_sum, n)), lines)


@jit
def _write_header(lane: int, correction: int, scale: Any, norm: Any, error: Any, lines: Words) -> None:
    as_int32(lines)[CORRECTION, lane] = correction
    floats = as_float32(lines)
    floats[SCALE, lane] = scale
    floats[NORM, lane] = norm
    floats[ERROR, lane] = error


@jit
def _interleave(codes: Words, lines: Words) -> None:
    for word in range(codes.shape[1]):
        for lane in range(ROWS_PER_BLOCK):
            lines[HEADER_LINES + word, lane] = codes[lane, word]


# ---- shared with the hidden state's quantization ---------------------------------------------------------------------
@jit
def largest_magnitude(values: Numbers) -> Any:
    """Return max|x|, ignoring NaN."""
    largest = v.zero_f32()
    for i in range(0, values.size, LANES):
        largest = v.max_f32(v.abs_f32(load_f32(values, i)), largest)
    return v.largest_f32(largest)


@jit
def rounded(x: Any, limit: Any) -> Any:
    """Round each lane to an integer from -limit to limit; clipped first, so that NaN gives the same on every CPU."""
    clipped = v.min_f32(v.max_f32(x, v.broadcast_f32(-limit)), v.broadcast_f32(limit))
    return v.round_f32(clipped)


@jit
def norm_above(sum_of_squares: Any, n: int) -> Any:
    """Return a float64 that is at least the norm of n numbers, from their squares summed in float32.

    On its way to the sum (over each lane, then over a tree) a square passes n / 16 + 4 roundings, and the number itself
    one before. No term is negative, so each of them takes a share of 2**-24 at most, or 2**-150 if it is denormal.
    """
    slack = 1.0 + (n // LANES + 16) * ROUNDING
    return np.sqrt(np.float64(sum_of_squares) + 2.0 * n * UNDERFLOW) * slack


@jit
def above(x: Any) -> Any:
    """Return a float32 that is at least the float64 x."""
    return np.float32(x + abs(x) * 2.0 * ROUNDING + UNDERFLOW)


@jit
def below(x: Any) -> Any:
    """Return a float32 that is at most the float64 x."""
    return np.float32(x - abs(x) * 2.0 * ROUNDING - UNDERFLOW)
