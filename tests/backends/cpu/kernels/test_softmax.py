"""The softmax, and with it the exponential, against their twins."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.registry import Kernel, new_counts
from bitnet_numba.backends.cpu.kernels.softmax import LOWEST, exp, exp_f32, exp_to_1, softmax
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_f32
from bitnet_numba.backends.numpy import operators as reference
from tests.backends.cpu.kernels.inputs import ROUNDING, SEEDS, Floats, assert_within, normal

EXP_ERROR = 2e-7  # what exp_f32 promises, relative


@jit
def exponentials(x: Floats, out: Floats) -> None:
    for i in range(0, x.size, 16):
        store_f32(out, i, exp_f32(load_f32(x, i)))


@jit
def exponentials_to_1(x: Floats, out: Floats) -> None:
    for i in range(0, x.size, 16):
        store_f32(out, i, exp_to_1(load_f32(x, i)))


def exp_of(values: npt.ArrayLike) -> Floats:
    x = np.resize(np.asarray(values, np.float32), (np.size(values) + 15) // 16 * 16)
    out = np.empty_like(x)
    exponentials(x, out)
    return out[: np.size(values)]


def bound(x: Floats, expected: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The difference from the maximum is rounded once, which exp turns into a relative error; so is every other step.

    n / 16 additions a lane, 4 levels of the tree, the inverse and the product. Every term may also lose e**-64.
    """
    from_difference = 1.01 * ROUNDING * np.abs(x.astype(np.float64) - x.max())
    of_sum = EXP_ERROR + (x.size / 16 + 7) * ROUNDING + float(np.sum(from_difference * expected))
    return expected * (EXP_ERROR + from_difference + of_sum) + (1 + x.size * expected) * np.exp(-64.0)


@given(n=st.integers(1, 700), magnitude=st.sampled_from([1e-42, 1e-3, 1.0, 30.0, 1e4, 1e30]), seed=SEEDS)
def test_matches_its_twin(n: int, magnitude: float, seed: int) -> None:
    x = normal(np.random.default_rng(seed), n, magnitude)
    out = np.empty_like(x)
    softmax(x, out)
    expected = reference.softmax(x)
    assert_within(out, expected, bound(x, expected))


@given(seed=SEEDS, magnitude=st.sampled_from([1e-30, 1e-3, 1.0, 30.0, 1e4, np.inf]))
def test_the_exponential_of_a_softmax_is_the_same_one(seed: int, magnitude: float) -> None:
    x = -np.abs(normal(np.random.default_rng(seed), 64, magnitude))
    out = np.empty_like(x)
    exponentials_to_1(x, out)
    np.testing.assert_array_equal(out, exp_of(x))
    assert out.any() == (x.max() > LOWEST)


@given(seed=SEEDS, n=st.integers(1, 100), magnitude=st.sampled_from([1e-3, 1.0, 30.0, np.inf]))
def test_the_sampler_has_the_same_exponential(seed: int, n: int, magnitude: float) -> None:
    x = -np.abs(normal(np.random.default_rng(seed), n, magnitude))
    counts = new_counts()
    np.testing.assert_array_equal(exp(x, counts), exp_of(x))
    assert counts.tolist() == [number == Kernel.SOFTMAX for number in range(counts.size)]


def test_may_write_over_its_input() -> None:
    x = normal(np.random.default_rng(0), 37)
    out = np.empty_like(x)
    softmax(x, out)
    softmax(x, x)
    np.testing.assert_array_equal(x, out)


def test_a_masked_element_gets_nothing() -> None:
    x = np.array([1, -np.inf, 1], np.float32)
    softmax(x, x)
    np.testing.assert_array_equal(x, [0.5, 0, 0.5])


def test_the_exponential_keeps_its_promise_over_its_whole_range() -> None:
    x = np.arange(-63.99, 88, 1.3e-3).astype(np.float32)
    expected = np.exp(x.astype(np.float64))
    assert_within(exp_of(x), expected, EXP_ERROR * expected)


def test_the_exponential_ends_exactly() -> None:
    above = np.nextafter(LOWEST, np.float32(0))
    np.testing.assert_array_equal(exp_of([LOWEST, -1e30, -np.inf, np.nan, 0, -0.0]), [0, 0, 0, 0, 1, 1])
    assert exp_of([above])[0] > 0
    np.testing.assert_array_equal(exp_of([88.5, 1e30, np.inf]), exp_of([88, 88, 88]))


@pytest.mark.parametrize(
    "x", [np.ones(0, np.float32), np.ones(4, np.float64), np.ones((2, 2), np.float32), np.ones(8, np.float32)[::2]]
)
def test_refuses_an_input(x: Floats) -> None:
    with pytest.raises(ValueError, match=r"^x: expected"):
        softmax(x, np.ones(x.size, np.float32))


@pytest.mark.parametrize("out", [np.ones(3, np.float32), np.ones(4, np.float16), np.ones(8, np.float32)[::2]])
def test_refuses_an_output(out: Floats) -> None:
    with pytest.raises(ValueError, match=r"^out: expected"):
        softmax(np.ones(4, np.float32), out)
