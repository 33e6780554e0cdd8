"""RMSNorm against its twin."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.norm import rms_norm
from bitnet_numba.backends.numpy import operators as reference
from tests.backends.cpu.kernels.inputs import MAGNITUDES, ROUNDING, SEEDS, UNDERFLOW, assert_within, normal

EPS = np.float32(1e-5)


def bound(expected: npt.NDArray[np.float64], weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """length / 16 rounded squares a lane, 4 levels of the tree, mean, eps, its sum, root, inverse and two products.

    What underflows before the product with the weight is off by the smallest float32 times the weight.
    """
    return (weight.size / 16 + 11) * ROUNDING * np.abs(expected) + UNDERFLOW * (1 + np.abs(weight))


@given(blocks=st.integers(1, 40), padding=st.integers(0, 15), magnitude=MAGNITUDES, seed=SEEDS)
def test_matches_its_twin(blocks: int, padding: int, magnitude: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 16 * blocks - padding
    x, weight = normal(rng, 16 * blocks, magnitude), normal(rng, 16 * blocks)
    x[n:] = 0
    out = np.empty_like(x)
    rms_norm(x, weight, EPS, np.float32(n), out)
    expected = reference.rms_norm(x, weight, EPS, n)
    assert_within(out, expected, bound(expected, weight))


def test_may_write_over_its_input() -> None:
    rng = np.random.default_rng(0)
    x, weight = normal(rng, 48), normal(rng, 48)
    out = np.empty_like(x)
    rms_norm(x, weight, EPS, np.float32(48), out)
    rms_norm(x, weight, EPS, np.float32(48), x)
    np.testing.assert_array_equal(x, out)


def test_reads_weights_that_are_read_only() -> None:
    x, out = np.ones(32, np.float32), np.zeros(32, np.float32)
    weight = np.ones(32, np.float32)
    weight.flags.writeable = False
    rms_norm(x, weight, np.float32(0), np.float32(32), out)
    np.testing.assert_array_equal(out, 1)


def test_zeros_stay_zeros() -> None:
    x = np.zeros(32, np.float32)
    out = np.ones(32, np.float32)
    rms_norm(x, np.ones(32, np.float32), EPS, np.float32(32), out)
    np.testing.assert_array_equal(out, 0)


@pytest.mark.parametrize("number", [1e30, -3e38, np.inf, np.nan])
def test_squares_beyond_float32_give_nan_which_the_step_notes(number: float) -> None:
    x = np.zeros(32, np.float32)
    x[17] = number
    rms_norm(x, np.ones(32, np.float32), EPS, np.float32(32), x)
    assert np.isnan(x).all()
