"""RMSNorm."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import broadcast_f32, fma_f32, mul_f32, sqrt_f32, sum_f32, zero_f32

Floats = npt.NDArray[np.float32]


@jit
def rms_norm(x: Floats, weight: Floats, eps: np.float32, n: np.float32, out: Floats) -> None:
    """Write ``x / sqrt(sum(x**2) / n + eps) * weight`` to ``out``.

    Parameters
    ----------
    x, weight, out : float32[length]
        ``length`` is a multiple of 16. ``out`` may be ``x``.
    eps : float32
    n : float32
        Number of elements that the mean is over; elements from ``n`` on are padding and must be zero. Where the sum of
        squares exceeds float32, the result is 0.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    squares = zero_f32()
    for i in range(0, x.size, LANES):
        v = load_f32(x, i)
        squares = fma_f32(v, v, squares)
    scale = broadcast_f32(np.float32(1) / sqrt_f32(sum_f32(squares) / n + eps))
    for i in range(0, x.size, LANES):
        store_f32(out, i, mul_f32(mul_f32(load_f32(x, i), scale), load_f32(weight, i)))
