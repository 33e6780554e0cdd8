"""RMSNorm."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.checks import check_array, check_lanes
from bitnet_numba.backends.cpu.kernels.jit import jit
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import broadcast_f32, fma_f32, mul_f32, sqrt_f32, sum_f32, zero_f32

Floats = npt.NDArray[np.float32]


def rms_norm(x: Floats, weight: Floats, eps: float, n: int, out: Floats) -> None:
    """Write ``x / sqrt(sum(x**2) / n + eps) * weight`` to ``out``.

    Parameters
    ----------
    x, weight, out : float32[length]
        C-contiguous; ``length`` is a multiple of 16. ``out`` may be ``x``.
    eps : float
        Added to the mean square before the root.
    n : int
        How many elements the mean is taken over; those from ``n`` on are padding and must be zero. Where the sum of the
        squares is beyond float32, the result is 0.

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.

    References
    ----------
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    check_lanes("x", x.size)
    check_array("x", x, np.float32, (x.size,))
    check_array("weight", weight, np.float32, (x.size,))
    check_array("out", out, np.float32, (x.size,), written=True)
    if not 0 < n <= x.size:
        raise ValueError(f"n: expected 1 to {x.size}, got {n}")
    rms_norm_worker(x, weight, np.float32(eps), np.float32(n), out)


@jit
def rms_norm_worker(x: Floats, weight: Floats, eps: np.float32, n: np.float32, out: Floats) -> None:
    squares = zero_f32()
    for i in range(0, x.size, LANES):
        v = load_f32(x, i)
        squares = fma_f32(v, v, squares)
    scale = broadcast_f32(np.float32(1) / sqrt_f32(sum_f32(squares) / n + eps))
    for i in range(0, x.size, LANES):
        store_f32(out, i, mul_f32(mul_f32(load_f32(x, i), scale), load_f32(weight, i)))
