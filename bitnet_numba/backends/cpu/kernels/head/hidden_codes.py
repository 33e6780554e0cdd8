"""Hidden states quantized to one or two bytes an element, with bounds of the quantization error."""

from typing import Any, NamedTuple

import numpy as np

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Bytes, Floats
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.head.full import ELEMENTS_PER_STEP
from bitnet_numba.backends.cpu.kernels.head.int8_copy import (
    BIAS,
    ROUNDING,
    SMALLEST_MAXIMUM,
    above,
    largest_magnitude,
    norm_above,
    rounded,
)
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_i32
from bitnet_numba.backends.cpu.simd.types import LANES

BASE = np.float32(127)  # an element is 127 * high + low: so both bytes fit the dot product of every CPU
LARGEST_HIDDEN = np.float32(BASE * BIAS + BIAS)
DENORMAL_FLOOR = 2.0**-128  # error of the products of denormal numbers, per element

HIDDEN_SCALE, HIDDEN_NORM, HIDDEN_ERROR, ROUNDINGS, FLOOR = range(5)
"""Columns of ``HiddenCodes.measures``: the scale of the codes; upper bounds of the hidden state's norm and of the norm
of its quantization error; the rounding error of a logit, relative to the norms; and the error of denormal numbers.
"""


class HiddenCodes(NamedTuple):
    """Quantized hidden states: of two bytes, the integer is 127 times the first plus the second."""

    codes: Bytes  # [slots, n_bytes, hidden_size]: each from 0 to 126, with a bias of 63
    measures: Floats  # [slots, 5]: columns HIDDEN_SCALE to FLOOR


def new_hidden_codes(slots: int, n_bytes: int, hidden_size: int) -> HiddenCodes:
    """Allocate the codes of ``slots`` hidden states."""
    return HiddenCodes(np.zeros((slots, n_bytes, hidden_size), np.uint8), np.zeros((slots, 5), np.float32))


@jit
def quantize_hidden(values: Floats, slot: int, two_bytes: HiddenCodes, one_byte: HiddenCodes) -> None:
    """Write round(values / scale) as the two bytes of ``127 * high + low``, and the high part alone as one byte."""
    n = values.size
    largest = max(largest_magnitude(values), SMALLEST_MAXIMUM)
    scale = largest / LARGEST_HIDDEN
    high_scale = scale * BASE
    factor, minus_scale = v.broadcast_f32(LARGEST_HIDDEN / largest), v.broadcast_f32(-scale)
    minus_high_scale, bias = v.broadcast_f32(-high_scale), v.broadcast_i32(np.int32(BIAS))
    base, minus_base = v.broadcast_f32(np.float32(1) / BASE), v.broadcast_f32(-BASE)
    squares = error_squares = high_error_squares = v.zero_f32()
    for i in range(0, n, LANES):
        h = load_f32(values, i)
        q = rounded(v.mul_f32(h, factor), LARGEST_HIDDEN)
        high = v.round_f32(v.mul_f32(q, base))
        low = v.fma_f32(high, minus_base, q)
        store_i32(two_bytes.codes[slot, 0], i, v.add_i32(v.to_i32(high), bias))
        store_i32(two_bytes.codes[slot, 1], i, v.add_i32(v.to_i32(low), bias))
        store_i32(one_byte.codes[slot, 0], i, v.add_i32(v.to_i32(high), bias))
        error, high_error = v.fma_f32(q, minus_scale, h), v.fma_f32(high, minus_high_scale, h)
        squares, error_squares = v.fma_f32(h, h, squares), v.fma_f32(error, error, error_squares)
        high_error_squares = v.fma_f32(high_error, high_error, high_error_squares)
    norm = above(norm_above(v.sum_f32(squares), n))
    _measure(two_bytes.measures[slot], n, scale, norm, v.sum_f32(error_squares))
    _measure(one_byte.measures[slot], n, high_scale, norm, v.sum_f32(high_error_squares))


@jit
def _measure(measures: Floats, n: int, scale: Any, norm: Any, error_squares: Any) -> None:
    measures[HIDDEN_SCALE] = scale
    measures[HIDDEN_NORM] = norm
    measures[HIDDEN_ERROR] = above(norm_above(error_squares, n))
    measures[ROUNDINGS] = above((n // ELEMENTS_PER_STEP + 8) * ROUNDING)
    measures[FLOOR] = above(n * DENORMAL_FLOOR)
