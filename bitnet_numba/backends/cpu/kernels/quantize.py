"""Activation quantization to int8, one scale a token."""

import numpy as np

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Floats, Int8s
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_inline
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_i32
from bitnet_numba.backends.cpu.simd.types import LANES

_LARGEST = np.float32(127)
_SMALLEST_MAXIMUM = np.float32(1e-5)
_INFINITY, _NAN = np.float32(np.inf), np.float32(np.nan)


@jit_inline
def absmax(x: Floats) -> np.float32:
    """Return max|x|, NaN if an element is infinite or NaN; the number of elements is a multiple of 16."""
    largest = zeros = v.zero_f32()
    for i in range(0, x.size, LANES):
        numbers = load_f32(x, i)
        largest = v.max_f32(v.abs_f32(numbers), largest)
        zeros = v.add_f32(v.sub_f32(numbers, numbers), zeros)  # infinity less itself is NaN
    maximum: np.float32 = v.largest_f32(largest) + v.sum_f32(zeros)
    return maximum


@jit
def quantize_absmax(x: Floats, out: Int8s) -> tuple[np.float32, np.int32]:
    """Write ``clip(rint(x * scale), -128, 127)`` to ``out``, with scale = 127 / max(max|x|, 1e-5).

    Return the scale, by which ``out`` is divided to dequantize it, and the sum of ``out``: what a product with codes
    0..2 exceeds that with weights -1..1 by. If an element is infinite or NaN, the scale is NaN and all codes are -128.
    The number of elements is a multiple of 16.

    References: Ma et al., "The Era of 1-bit LLMs", 2024; transformers, ``integrations/bitnet.py``, ``ActQuant``.
    """
    maximum = absmax(x)
    scale = _LARGEST / max(maximum, _SMALLEST_MAXIMUM) if maximum < _INFINITY else _NAN  # whose bits CPUs agree on
    factor, low, high = v.broadcast_f32(scale), v.broadcast_f32(np.float32(-128)), v.broadcast_f32(_LARGEST)
    total = v.zero_i32()
    for i in range(0, x.size, LANES):
        # clipped before it is rounded, so that NaN too has one meaning on every CPU
        q = v.to_i32(v.round_f32(v.min_f32(v.max_f32(v.mul_f32(load_f32(x, i), factor), low), high)))
        total = v.add_i32(total, q)
        store_i32(out, i, q)
    return scale, v.sum_i32(total)
