"""Hidden states as whole numbers, in one or two bytes an element, beside what is lost by it."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.kernels.head.full import STEP
from bitnet_numba.backends.cpu.kernels.head.int8_copy import (
    BIAS,
    ROUNDING,
    SMALLEST_MAXIMUM,
    above,
    largest_magnitude,
    norm_above,
    rounded,
)
from bitnet_numba.backends.cpu.kernels.jit import jit
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_i32
from bitnet_numba.backends.cpu.simd.types import LANES

BASE = np.float32(127)  # an element is 127 * high + low: so both bytes fit the dot product of every CPU
LARGEST_HIDDEN = np.float32(BASE * BIAS + BIAS)
DENORMAL_FLOOR = 2.0**-128  # an element: what products of denormal numbers can be off by

STEP_SIZE, HIDDEN_NORM, HIDDEN_ERROR, ROUNDINGS, FLOOR = range(5)
"""Columns of ``HiddenCodes.measures``: what one unit of the codes stands for; at least the hidden state's norm; at
least the norm of its error; the roundings of a logit, relative to the norms; and what denormal numbers can be off by.
"""

Floats = npt.NDArray[np.float32]


class HiddenCodes(NamedTuple):
    """Hidden states in whole numbers.

    Attributes
    ----------
    codes : uint8[slots, parts, hidden_size]
        Each byte is from 0 to 126 and stands for 63 less. Of two parts, the number is 127 times the first plus the
        second.
    measures : float32[slots, 5]
        Columns ``STEP_SIZE`` to ``FLOOR``.
    """

    codes: npt.NDArray[np.uint8]
    measures: Floats


def new_hidden_codes(slots: int, parts: int, hidden_size: int) -> HiddenCodes:
    """Allocate room for the codes of so many hidden states."""
    return HiddenCodes(np.zeros((slots, parts, hidden_size), np.uint8), np.zeros((slots, 5), np.float32))


@jit
def quantize_hidden(values: Floats, slot: int, fine: HiddenCodes, coarse: HiddenCodes) -> None:
    """Write ``127 * high + low``, the nearest of values / step, as two bytes, and the high part alone as one."""
    n = values.size
    largest = max(largest_magnitude(values), SMALLEST_MAXIMUM)
    step = largest / LARGEST_HIDDEN
    coarse_step = step * BASE
    factor, minus_step = v.broadcast_f32(LARGEST_HIDDEN / largest), v.broadcast_f32(-step)
    minus_coarse, bias = v.broadcast_f32(-coarse_step), v.broadcast_i32(np.int32(BIAS))
    base, minus_base = v.broadcast_f32(np.float32(1) / BASE), v.broadcast_f32(-BASE)
    squares = error_squares = coarse_squares = v.zero_f32()
    for i in range(0, n, LANES):
        h = load_f32(values, i)
        q = rounded(v.mul_f32(h, factor), LARGEST_HIDDEN)
        high = v.round_f32(v.mul_f32(q, base))
        low = v.fma_f32(high, minus_base, q)
        store_i32(fine.codes[slot, 0], i, v.add_i32(v.to_i32(high), bias))
        store_i32(fine.codes[slot, 1], i, v.add_i32(v.to_i32(low), bias))
        store_i32(coarse.codes[slot, 0], i, v.add_i32(v.to_i32(high), bias))
        error, coarse_error = v.fma_f32(q, minus_step, h), v.fma_f32(high, minus_coarse, h)
        squares, error_squares = v.fma_f32(h, h, squares), v.fma_f32(error, error, error_squares)
        coarse_squares = v.fma_f32(coarse_error, coarse_error, coarse_squares)
    norm = above(norm_above(v.sum_f32(squares), n))
    _measure(fine.measures[slot], n, step, norm, v.sum_f32(error_squares))
    _measure(coarse.measures[slot], n, coarse_step, norm, v.sum_f32(coarse_squares))


@jit
def _measure(measures: Floats, n: int, step: Any, norm: Any, error_squares: Any) -> None:
    measures[STEP_SIZE] = step
    measures[HIDDEN_NORM] = norm
    measures[HIDDEN_ERROR] = above(norm_above(error_squares, n))
    measures[ROUNDINGS] = above((n // STEP + 8) * ROUNDING)
    measures[FLOOR] = above(n * DENORMAL_FLOOR)
