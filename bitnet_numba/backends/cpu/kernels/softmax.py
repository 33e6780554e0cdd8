"""The exponential and the softmax, by a polynomial of this project.

The C libraries' exponentials differ between systems in the last bit; this one has the same bits on every CPU.
"""

from typing import Any

import numpy as np

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Floats, Int64s, check_array
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.registry import Kernel, new_counts
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES

LOWEST = np.float32(-64)
"""Below it exp is exactly 0: beside a largest term of 1 it cannot count, and denormals are fifty times slower."""
_HIGHEST = np.float32(88)  # exp(88) is the last whole power that a float32 holds
_LOG2_E = np.float32(1.4426950408889634)
_LN_2_HIGH, _LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # high part: few bits, so n * high is exact
_TERMS = tuple(np.float32(1.0 / factor) for factor in (5040, 720, 120, 24, 6, 2))  # Taylor, for |r| <= ln(2) / 2


def softmax(x: Floats, out: Floats, counts: Int64s | None = None) -> None:
    """Write ``exp(x - max(x)) / sum(exp(x - max(x)))`` to ``out``.

    Both are C-contiguous float32[n], n from 1, and may be the same array, or ValueError is raised. Terms below e**-64
    become exactly 0.
    """
    if x.size < 1:
        raise ValueError("x: expected at least one element")
    check_array("x", x, np.float32, (x.size,))
    check_array("out", out, np.float32, (x.size,), written=True)
    padded = _padded(x, np.float32(-np.inf))
    softmax_worker(new_counts() if counts is None else counts, padded)
    out[:] = padded[: x.size]


def exp(x: Floats, counts: Int64s) -> Floats:
    """Return the exponentials of ``float32[n]`` numbers up to 0; counts as a softmax, whose numerators they are."""
    check_array("x", x, np.float32, (x.size,))
    padded = _padded(x, np.float32(0))
    _exp_worker(counts, padded)
    return padded[: x.size]


def _padded(x: Floats, filler: np.float32) -> Floats:
    """Copy ``x`` to whole vectors."""
    padded = np.empty(-(-x.size // LANES) * LANES, np.float32)
    padded[: x.size], padded[x.size :] = x, filler
    return padded


@jit
def exp_f32(x: Any) -> Any:
    """Compute 16 exponentials: relative error below 2e-7, exactly 0 up to -64, and exp(88) from 88 on."""
    return _exp_of(x, v.min_f32(v.max_f32(x, v.broadcast_f32(LOWEST)), v.broadcast_f32(_HIGHEST)))


@jit
def exp_to_1(x: Any) -> Any:
    """Compute 16 exponentials of numbers up to 0, with the bits of :func:`exp_f32`."""
    return _exp_of(x, v.max_f32(x, v.broadcast_f32(LOWEST)))


@jit
def _exp_of(x: Any, y: Any) -> Any:
    """Return the exponentials of y, which is x within bounds, and 0 where x is too low."""
    shifted = v.add_f32(v.mul_f32(y, v.broadcast_f32(_LOG2_E)), v.broadcast_f32(v.WHOLE))
    n = v.sub_f32(shifted, v.broadcast_f32(v.WHOLE))
    r = v.fma_f32(n, v.broadcast_f32(-_LN_2_HIGH), y)
    r = v.fma_f32(n, v.broadcast_f32(-_LN_2_LOW), r)
    t5040, t720, t120, t24, t6, t2 = _TERMS
    p = v.fma_f32(v.broadcast_f32(t5040), r, v.broadcast_f32(t720))
    p = v.fma_f32(p, r, v.broadcast_f32(t120))
    p = v.fma_f32(p, r, v.broadcast_f32(t24))
    p = v.fma_f32(p, r, v.broadcast_f32(t6))
    p = v.fma_f32(p, r, v.broadcast_f32(t2))
    p = v.add_f32(v.fma_f32(v.mul_f32(r, r), p, r), v.broadcast_f32(np.float32(1)))
    return v.where_greater(x, v.broadcast_f32(LOWEST), v.add_to_exponent(p, shifted), v.zero_f32())


@jit
def softmax_worker(counts: Int64s, x: Floats) -> None:
    """Replace x by its softmax."""
    counts[Kernel.SOFTMAX] += 1
    largest = load_f32(x, 0)
    for i in range(LANES, x.size, LANES):
        largest = v.max_f32(load_f32(x, i), largest)
    offset = v.broadcast_f32(v.largest_f32(largest))
    total = v.zero_f32()
    for i in range(0, x.size, LANES):
        e = exp_to_1(v.sub_f32(load_f32(x, i), offset))
        total = v.add_f32(total, e)
        store_f32(x, i, e)
    share = v.broadcast_f32(np.float32(1) / v.sum_f32(total))
    for i in range(0, x.size, LANES):
        store_f32(x, i, v.mul_f32(load_f32(x, i), share))


@jit
def _exp_worker(counts: Int64s, x: Floats) -> None:
    """Replace x, of numbers up to 0, by its exponentials."""
    counts[Kernel.SOFTMAX] += 1
    for i in range(0, x.size, LANES):
        store_f32(x, i, exp_to_1(load_f32(x, i)))
