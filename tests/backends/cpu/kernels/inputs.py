"""What the kernels' tests share: inputs of any magnitude, a thread pool of one, and bounds on rounding."""

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.threads.thread_pool import alone as alone  # for every test of a kernel

ROUNDING = 2.0**-24
"""What one float32 operation is off by at most, relative to its result."""
UNDERFLOW = 2.0**-149
"""What one float32 operation is off by at most, where its result is too small for a relative bound."""

SEEDS = st.integers(0, 2**32 - 1)
MAGNITUDES = st.sampled_from([1e-42, 1e-30, 1e-12, 1e-5, 1e-3, 1.0, 1e3, 1e12, 1e17])  # the first one is denormal

Floats = npt.NDArray[np.float32]


def normal(rng: np.random.Generator, shape: int | tuple[int, ...], magnitude: float = 1.0) -> Floats:
    return (rng.standard_normal(shape) * magnitude).astype(np.float32)


def wide_integers(rng: np.random.Generator, shape: int | tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Draw int32 of every length in bits: most need more than the 24 bits that a float32 holds, or far less."""
    bits = rng.integers(0, 32, shape)
    return (rng.integers(-(2**31), 2**31, shape) >> bits).astype(np.int32)


def assert_within(actual: npt.NDArray[Any], expected: npt.NDArray[Any], bound: Any) -> None:
    """Check that no element is further from what is expected than its bound."""
    assert actual.shape == expected.shape
    error = np.abs(actual.astype(np.float64) - expected)
    worst = np.argmax(error - bound)
    assert np.all(error <= bound), f"element {worst}: {actual.flat[worst]} is not {expected.flat[worst]} +- {bound}"
