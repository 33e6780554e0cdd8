"""Dequantization of a BitLinear's int32 accumulators: alone, or added to the residual stream."""

import numpy as np

from bitnet_numba.backends.cpu.array_types import Floats, Int32s
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.simd.memory import load_f32, load_i32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import add_f32, broadcast_f32, mul_f32, to_f32


@jit
def add_scaled(acc: Int32s, factor: np.float32, x: Floats) -> None:
    """Add ``acc * factor`` to ``x``; both have the same length, a multiple of 16."""
    factors = broadcast_f32(factor)
    for i in range(0, x.size, LANES):
        store_f32(x, i, add_f32(load_f32(x, i), mul_f32(to_f32(load_i32(acc, i)), factors)))


@jit
def scale(acc: Int32s, factor: np.float32, out: Floats) -> None:
    """Write ``acc * factor`` to ``out``; both have the same length, a multiple of 16."""
    factors = broadcast_f32(factor)
    for i in range(0, out.size, LANES):
        store_f32(out, i, mul_f32(to_f32(load_i32(acc, i)), factors))
