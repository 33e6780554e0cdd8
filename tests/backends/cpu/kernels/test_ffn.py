"""The gates of the feed-forward network against their twins."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.kernels.ffn import gated_relu2, gated_silu
from bitnet_numba.backends.numpy import operators as reference
from tests.backends.cpu.kernels.inputs import ROUNDING, SEEDS, UNDERFLOW, assert_within, wide_integers

EXP_ERROR = 2e-7  # relative, of the kernels' own exponential
EXP_END = 1.65e38  # exp(88): a larger exponential stays there

FACTORS = st.sampled_from([1e-30, 1e-9, 2.5e-4, -0.03, 1.0])
Doubles = npt.NDArray[np.float64]


def run(kernel: Callable[..., None], gate_up: npt.NDArray[np.int32], *factors: float) -> npt.NDArray[np.float32]:
    out = np.empty(gate_up.size // 2, np.float32)
    kernel(gate_up, *map(np.float32, factors), out)
    return out


def halves(gate_up: npt.NDArray[np.int32], gate_factor: float, up_factor: float) -> tuple[Doubles, Doubles]:
    gate, up = np.split(gate_up, 2)
    return reference.scale(gate, np.float32(gate_factor)), reference.scale(up, np.float32(up_factor))


@given(blocks=st.integers(1, 20), gate_factor=FACTORS, up_factor=FACTORS, seed=SEEDS)
def test_relu2_matches_its_twin(blocks: int, gate_factor: float, up_factor: float, seed: int) -> None:
    gate_up = wide_integers(np.random.default_rng(seed), 32 * blocks)
    gate, up = halves(gate_up, gate_factor, up_factor)
    expected = reference.gated_relu2(gate, up)
    # gate: to float32 and times its factor, twice because squared; the square; up: two; the last product
    bound = 8.01 * ROUNDING * np.abs(expected) + UNDERFLOW * (1 + np.abs(up))
    assert_within(run(gated_relu2, gate_up, gate_factor, up_factor), expected, bound)


@given(blocks=st.integers(1, 20), gate_factor=FACTORS, up_factor=FACTORS, seed=SEEDS)
def test_silu_matches_its_twin(blocks: int, gate_factor: float, up_factor: float, seed: int) -> None:
    gate_up = wide_integers(np.random.default_rng(seed), 32 * blocks)
    gate, up = halves(gate_up, gate_factor, up_factor)
    expected = reference.gated_silu(gate, up)
    # gate and up two roundings each, the denominator's sum, the quotient, the product; exp's own error, and that of
    # its argument (two roundings of a gate that matters up to 88)
    of_exp = EXP_ERROR + 2.01 * ROUNDING * np.minimum(np.abs(gate), 88)
    bound = (7.01 * ROUNDING + of_exp) * np.abs(expected) + np.abs(gate * up) / EXP_END + UNDERFLOW * (1 + np.abs(up))
    assert_within(run(gated_silu, gate_up, gate_factor, up_factor), expected, bound)


@pytest.mark.parametrize("kernel", [gated_relu2, gated_silu])
def test_a_closed_gate_lets_nothing_through(kernel: Callable[..., None]) -> None:
    gate_up = np.repeat(np.array([-(2**31), 2**31 - 1], np.int32), 16)
    np.testing.assert_allclose(run(kernel, gate_up, 1.0, 1.0), 0, atol=1e-19)
    np.testing.assert_array_equal(run(kernel, np.zeros(32, np.int32), 1.0, 1.0), 0)
