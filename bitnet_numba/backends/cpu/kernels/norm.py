"""RMSNorm."""

import numpy as np

from bitnet_numba.backends.cpu.array_types import Floats
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import broadcast_f32, fma_f32, mul_f32, sqrt_f32, sum_f32, zero_f32


@jit
def rms_norm(x: Floats, weight: Floats, eps: np.float32, n: np.float32, out: Floats) -> None:
    """Write ``x / sqrt(sum(x**2) / n + eps) * weight`` to ``out``, which may be ``x``; NaN if the sum exceeds float32.

    Arrays are float32[length], a multiple of 16; elements from ``n`` on are padding and must be zero.

    References: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    squares = zero_f32()
    for i in range(0, x.size, LANES):
        v = load_f32(x, i)
        squares = fma_f32(v, v, squares)
    total = sum_f32(squares)
    scale = broadcast_f32(np.float32(1) / sqrt_f32(total / n + eps) + (total - total))  # infinity less itself is NaN
    for i in range(0, x.size, LANES):
        store_f32(out, i, mul_f32(mul_f32(load_f32(x, i), scale), load_f32(weight, i)))
