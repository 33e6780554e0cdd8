"""The gated activation of the feed-forward network: squared ReLU or SiLU of the gate, times up."""

import numpy as np

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Floats, Int32s
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.softmax import exp_f32
from bitnet_numba.backends.cpu.simd.memory import load_i32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES


@jit
def gated_relu2(gate_up: Int32s, gate_scale: np.float32, up_scale: np.float32, out: Floats) -> None:
    """Write ``relu(gate)**2 * up`` to ``out``, float32[n]; ``n`` is a multiple of 16.

    ``gate_up``, int32[2 * n], holds the accumulators of the gate projection, then of the up projection.

    References: So et al., "Primer", 2021 (squared ReLU); Shazeer, "GLU Variants Improve Transformer", 2020.
    """
    gate_factor, up_factor = v.broadcast_f32(gate_scale), v.broadcast_f32(up_scale)
    for i in range(0, out.size, LANES):
        gate = v.max_f32(v.mul_f32(v.to_f32(load_i32(gate_up, i)), gate_factor), v.zero_f32())
        up = v.mul_f32(v.to_f32(load_i32(gate_up, out.size + i)), up_factor)
        store_f32(out, i, v.mul_f32(v.mul_f32(gate, gate), up))


@jit
def gated_silu(gate_up: Int32s, gate_scale: np.float32, up_scale: np.float32, out: Floats) -> None:
    """Write ``gate / (1 + exp(-gate)) * up`` to ``out``; shapes as for :func:`gated_relu2`."""
    gate_factor, up_factor, one = v.broadcast_f32(gate_scale), v.broadcast_f32(up_scale), v.broadcast_f32(np.float32(1))
    for i in range(0, out.size, LANES):
        gate = v.mul_f32(v.to_f32(load_i32(gate_up, i)), gate_factor)
        up = v.mul_f32(v.to_f32(load_i32(gate_up, out.size + i)), up_factor)
        silu = v.div_f32(gate, v.add_f32(one, exp_f32(v.sub_f32(v.zero_f32(), gate))))
        store_f32(out, i, v.mul_f32(silu, up))
