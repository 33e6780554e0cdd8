"""The residual stream: a BitLinear's int32 sums come back to float32 and are added."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.checks import check_array, check_lanes
from bitnet_numba.backends.cpu.kernels.jit import jit
from bitnet_numba.backends.cpu.simd.memory import load_f32, load_i32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import add_f32, broadcast_f32, mul_f32, to_f32


def add_scaled(x: npt.NDArray[np.float32], sums: npt.NDArray[np.int32], factor: float) -> None:
    """Add ``float32(sums) * factor`` to ``x``.

    Parameters
    ----------
    x : float32[n]
        ``n`` is a multiple of 16.
    sums : int32[n]
    factor : float
        What one unit of a sum stands for.

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_lanes("x", x.size)
    check_array("x", x, np.float32, (x.size,), written=True)
    check_array("sums", sums, np.int32, (x.size,))
    add_scaled_worker(x, sums, np.float32(factor))


@jit
def add_scaled_worker(x: npt.NDArray[np.float32], sums: npt.NDArray[np.int32], factor: np.float32) -> None:
    of_sum = broadcast_f32(factor)
    for i in range(0, x.size, LANES):
        store_f32(x, i, add_f32(load_f32(x, i), mul_f32(to_f32(load_i32(sums, i)), of_sum)))


def scale(sums: npt.NDArray[np.int32], factor: float, out: npt.NDArray[np.float32]) -> None:
    """Write ``float32(sums) * factor`` to ``out``; parameters as for :func:`add_scaled`."""
    check_lanes("out", out.size)
    check_array("out", out, np.float32, (out.size,), written=True)
    check_array("sums", sums, np.int32, (out.size,))
    scale_worker(sums, np.float32(factor), out)


@jit
def scale_worker(sums: npt.NDArray[np.int32], factor: np.float32, out: npt.NDArray[np.float32]) -> None:
    of_sum = broadcast_f32(factor)
    for i in range(0, out.size, LANES):
        store_f32(out, i, mul_f32(to_f32(load_i32(sums, i)), of_sum))
