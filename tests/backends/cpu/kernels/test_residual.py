"""int32 sums that come back to float32, against their twins."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.residual import add_scaled, scale
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import MAGNITUDES, ROUNDING, SEEDS, UNDERFLOW, assert_within, normal, wide_sums

FACTORS = st.sampled_from([0.0, 1e-42, 1e-30, 2.5e-4, -0.03, 1.0, 1e20])


@given(blocks=st.integers(1, 40), factor=FACTORS, seed=SEEDS)
def test_scale_matches_its_twin(blocks: int, factor: float, seed: int) -> None:
    sums = wide_sums(np.random.default_rng(seed), 16 * blocks)
    out = np.empty(sums.size, np.float32)
    scale(sums, factor, out)
    expected = reference.scale(sums, np.float32(factor))
    assert_within(out, expected, 2.01 * ROUNDING * np.abs(expected) + UNDERFLOW)  # to float32, and the product


@given(blocks=st.integers(1, 40), magnitude=MAGNITUDES, factor=FACTORS, seed=SEEDS)
def test_add_scaled_matches_its_twin(blocks: int, magnitude: float, factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, sums = normal(rng, 16 * blocks, magnitude), wide_sums(rng, 16 * blocks)
    expected = reference.add_scaled(x, sums, np.float32(factor))
    added = np.abs(reference.scale(sums, np.float32(factor)))
    add_scaled(x, sums, factor)
    # what is added is rounded twice, the sum once
    assert_within(x, expected, 2.01 * ROUNDING * added + 1.01 * ROUNDING * np.abs(expected) + UNDERFLOW)


WRONG_FLOATS = [
    np.ones(0, np.float32),
    np.ones(24, np.float32),
    np.ones(32, np.float64),
    np.ones((2, 16), np.float32),
    np.ones(64, np.float32)[::2],
]
WRONG_SUMS = [np.ones(16, np.int32), np.ones(32, np.float32), np.ones((2, 16), np.int32), np.ones(64, np.int32)[::2]]


@pytest.mark.parametrize("wrong", WRONG_FLOATS)
def test_refuses_floats(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^x: expected"):
        add_scaled(wrong, np.ones(wrong.size, np.int32), 1.0)
    with pytest.raises(ValueError, match=r"^out: expected"):
        scale(np.ones(wrong.size, np.int32), 1.0, wrong)


@pytest.mark.parametrize("wrong", WRONG_SUMS)
def test_refuses_sums(wrong: Any) -> None:
    x = np.ones(32, np.float32)
    with pytest.raises(ValueError, match=r"^sums: expected"):
        add_scaled(x, wrong, 1.0)
    with pytest.raises(ValueError, match=r"^sums: expected"):
        scale(wrong, 1.0, x)
