"""Activation quantization to int8, one scale a token."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_i32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import (
    abs_f32,
    add_i32,
    broadcast_f32,
    largest_f32,
    max_f32,
    min_f32,
    mul_f32,
    round_f32,
    sum_i32,
    to_i32,
    zero_f32,
    zero_i32,
)

_LARGEST = np.float32(127)
_SMALLEST_MAXIMUM = np.float32(1e-5)


@jit
def quantize_absmax(x: npt.NDArray[np.float32], out: npt.NDArray[np.int8]) -> tuple[np.float32, np.int32]:
    """Write ``clip(rint(x * scale), -128, 127)`` to ``out``, with scale = 127 / max(max|x|, 1e-5).

    Parameters
    ----------
    x : float32[n]
        ``n`` is a multiple of 16.
    out : int8[n]

    Returns
    -------
    scale : float32
        Dequantized activations are ``out / scale``.
    q_sum : int32
        Sum of ``out``: what a product with codes 0..2 exceeds that with weights -1..1 by.

    References
    ----------
    Ma et al., "The Era of 1-bit LLMs", 2024; transformers, ``integrations/bitnet.py``, ``ActQuant``.
    """
    largest = zero_f32()
    for i in range(0, x.size, LANES):
        largest = max_f32(abs_f32(load_f32(x, i)), largest)
    scale = _LARGEST / max(largest_f32(largest), _SMALLEST_MAXIMUM)
    factor, low, high = broadcast_f32(scale), broadcast_f32(np.float32(-128)), broadcast_f32(_LARGEST)
    total = zero_i32()
    for i in range(0, x.size, LANES):
        # clipped before it is rounded, so that NaN and infinity too have one meaning on every CPU
        q = to_i32(round_f32(min_f32(max_f32(mul_f32(load_f32(x, i), factor), low), high)))
        total = add_i32(total, q)
        store_i32(out, i, q)
    return scale, sum_i32(total)
