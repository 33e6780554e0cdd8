"""The gated activation of the feed-forward network: squared ReLU or SiLU of the gate, times up."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.compiler.jit import jit
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
Accumulators = npt.NDArray[np.int32]


@jit
def gated_relu2(gate_up: Accumulators, gate_scale: np.float32, up_scale: np.float32, out: Floats) -> None:
    """Write ``relu(gate)**2 * up`` to ``out``.

    Parameters
    ----------
    gate_up : int32[2 * n]
        Accumulators of the gate projection, then of the up projection; ``n`` is a multiple of 16.
    gate_scale, up_scale : float32
        What these are multiplied by.
    out : float32[n]

    References
    ----------
    So et al., "Primer", 2021 (squared ReLU); Shazeer, "GLU Variants Improve Transformer", 2020.
    """
    gate_factor, up_factor = broadcast_f32(gate_scale), broadcast_f32(up_scale)
    for i in range(0, out.size, LANES):
        gate = max_f32(mul_f32(to_f32(load_i32(gate_up, i)), gate_factor), zero_f32())
        up = mul_f32(to_f32(load_i32(gate_up, out.size + i)), up_factor)
        store_f32(out, i, mul_f32(mul_f32(gate, gate), up))


@jit
def gated_silu(gate_up: Accumulators, gate_scale: np.float32, up_scale: np.float32, out: Floats) -> None:
    """Write ``gate / (1 + exp(-gate)) * up`` to ``out``; parameters as for :func:`gated_relu2`."""
    gate_factor, up_factor, one = broadcast_f32(gate_scale), broadcast_f32(up_scale), broadcast_f32(np.float32(1))
    for i in range(0, out.size, LANES):
        gate = mul_f32(to_f32(load_i32(gate_up, i)), gate_factor)
        up = mul_f32(to_f32(load_i32(gate_up, out.size + i)), up_factor)
        silu = div_f32(gate, add_f32(one, exp_f32(sub_f32(zero_f32(), gate))))
        store_f32(out, i, mul_f32(silu, up))
