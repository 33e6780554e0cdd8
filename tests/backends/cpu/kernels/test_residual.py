"""Dequantized int32 accumulators against their twins."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.residual import add_scaled, scale
from tests.backends.cpu.kernels import twins as reference
from tests.backends.cpu.kernels.inputs import (
    MAGNITUDES,
    ROUNDING,
    SEEDS,
    UNDERFLOW,
    assert_within,
    normal,
    wide_integers,
)

FACTORS = st.sampled_from([0.0, 1e-42, 1e-30, 2.5e-4, -0.03, 1.0, 1e20])


@given(blocks=st.integers(1, 40), factor=FACTORS, seed=SEEDS)
def test_scale_matches_its_twin(blocks: int, factor: float, seed: int) -> None:
    acc = wide_integers(np.random.default_rng(seed), 16 * blocks)
    out = np.empty(acc.size, np.float32)
    scale(acc, np.float32(factor), out)
    expected = reference.scale(acc, np.float32(factor))
    assert_within(out, expected, 2.01 * ROUNDING * np.abs(expected) + UNDERFLOW)  # to float32, and the product


@given(blocks=st.integers(1, 40), magnitude=MAGNITUDES, factor=FACTORS, seed=SEEDS)
def test_add_scaled_matches_its_twin(blocks: int, magnitude: float, factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, acc = normal(rng, 16 * blocks, magnitude), wide_integers(rng, 16 * blocks)
    expected = reference.add_scaled(x, acc, np.float32(factor))
    added = np.abs(reference.scale(acc, np.float32(factor)))
    add_scaled(acc, np.float32(factor), x)
    # what is added is rounded twice, the sum once
    assert_within(x, expected, 2.01 * ROUNDING * added + 1.01 * ROUNDING * np.abs(expected) + UNDERFLOW)
