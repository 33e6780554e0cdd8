"""Quantized activations against their twin: integers, so equality."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.quantize import quantize_absmax
from bitnet_numba.backends.numpy import operators as reference
from tests.backends.cpu.kernels.inputs import MAGNITUDES, SEEDS, Floats, normal


def check(x: Floats) -> npt.NDArray[np.int8]:
    """Compare all three results with the twin's, and return the quantized activations."""
    out = np.empty(x.size, np.int8)
    scale, total = quantize_absmax(x, out)
    expected_scale, expected = reference.quantize_absmax(x)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_equal(scale, expected_scale)  # NaN equals NaN
    assert total == expected.sum(dtype=np.int64)
    return out


@given(blocks=st.integers(1, 40), magnitude=MAGNITUDES | st.just(1e37), seed=SEEDS)
def test_equals_its_twin(blocks: int, magnitude: float, seed: int) -> None:
    check(normal(np.random.default_rng(seed), 16 * blocks, magnitude))


@given(st.lists(st.floats(width=32), min_size=16, max_size=16))
def test_any_sixteen_floats_have_a_meaning(values: list[float]) -> None:
    check(np.array(values, np.float32))


def test_halves_go_to_the_even_neighbour() -> None:
    x = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, *[0] * 8], np.float32)
    np.testing.assert_array_equal(check(x)[:8], [127, 0, 2, 2, 0, -2, -2, 126])


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 9e-6, -1e-5, 3.4e38, -3.4e38])
def test_equal_elements(value: float) -> None:
    check(np.full(32, value, np.float32))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 5, 31])
def test_beside_infinity_and_nan_the_scale_is_nan(special: float, index: int) -> None:
    x = np.ones(32, np.float32)
    x[index] = special
    scale, _ = quantize_absmax(x, np.empty(32, np.int8))
    assert np.isnan(scale)
    np.testing.assert_array_equal(check(x), -128)
