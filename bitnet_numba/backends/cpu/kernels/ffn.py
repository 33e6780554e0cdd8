"""The gate of the feed-forward network: relu squared or SiLU of one half, times the other."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.checks import check_array, check_lanes
from bitnet_numba.backends.cpu.kernels.jit import jit
from bitnet_numba.backends.cpu.kernels.softmax import exp_f32
from bitnet_numba.backends.cpu.simd.memory import load_i32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import (
    add_f32,
    broadcast_f32,
    div_f32,
    max_f32,
    mul_f32,
    sub_f32,
    to_f32,
    zero_f32,
)

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.int32]


def gated_relu2(gate_up: Sums, gate_factor: float, up_factor: float, out: Floats) -> None:
    """Write ``relu(gate)**2 * up`` to ``out``, where gate and up are int32 sums times their factors.

    Parameters
    ----------
    gate_up : int32[2 * n]
        The gate projection's sums, then the up projection's; ``n`` is a multiple of 16.
    gate_factor, up_factor : float
        What one unit of each sum stands for.
    out : float32[n]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.

    References
    ----------
    So et al., "Primer", 2021 (squared ReLU); Shazeer, "GLU Variants Improve Transformer", 2020.
    """
    _check(gate_up, out)
    gated_relu2_worker(gate_up, np.float32(gate_factor), np.float32(up_factor), out)


def gated_silu(gate_up: Sums, gate_factor: float, up_factor: float, out: Floats) -> None:
    """Write ``gate / (1 + exp(-gate)) * up`` to ``out``; parameters as for :func:`gated_relu2`."""
    _check(gate_up, out)
    gated_silu_worker(gate_up, np.float32(gate_factor), np.float32(up_factor), out)


def _check(gate_up: Sums, out: Floats) -> None:
    check_lanes("out", out.size)
    check_array("out", out, np.float32, (out.size,), written=True)
    check_array("gate_up", gate_up, np.int32, (2 * out.size,))


@jit
def gated_relu2_worker(gate_up: Sums, gate_factor: np.float32, up_factor: np.float32, out: Floats) -> None:
    of_gate, of_up = broadcast_f32(gate_factor), broadcast_f32(up_factor)
    for i in range(0, out.size, LANES):
        gate = max_f32(mul_f32(to_f32(load_i32(gate_up, i)), of_gate), zero_f32())
        up = mul_f32(to_f32(load_i32(gate_up, out.size + i)), of_up)
        store_f32(out, i, mul_f32(mul_f32(gate, gate), up))


@jit
def gated_silu_worker(gate_up: Sums, gate_factor: np.float32, up_factor: np.float32, out: Floats) -> None:
    of_gate, of_up, one = broadcast_f32(gate_factor), broadcast_f32(up_factor), broadcast_f32(np.float32(1))
    for i in range(0, out.size, LANES):
        gate = mul_f32(to_f32(load_i32(gate_up, i)), of_gate)
        up = mul_f32(to_f32(load_i32(gate_up, out.size + i)), of_up)
        silu = div_f32(gate, add_f32(one, exp_f32(sub_f32(zero_f32(), gate))))
        store_f32(out, i, mul_f32(silu, up))
