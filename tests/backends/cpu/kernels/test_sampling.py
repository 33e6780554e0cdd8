"""The kernels of the random draw against their NumPy twins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.sampling import CPUSampling
from bitnet_numba.backends.numpy import sampling as reference
from tests.backends.cpu.kernels.inputs import SEEDS

CPU, TWIN = CPUSampling(), reference.NumPySampling()
OFFSETS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize("ids", [None, np.array([2, 0])])
def test_random_numbers_are_those_of_splitmix64(ids: np.ndarray[tuple[int], np.dtype[np.int64]] | None) -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # of the seed 1234567
    expected = np.array([((number >> 12) + 0.5) / 2**52 for number in published])[slice(None) if ids is None else ids]
    every = np.arange(3) if ids is None else ids
    np.testing.assert_array_equal(reference.uniforms(every, 1234567), expected)
    for index in range(expected.size):  # who has the only weight wins
        weights = np.zeros(expected.size)
        weights[index] = 1.0
        rivals = CPU.exponential_race(weights, ids, 1234567)
        assert (rivals.indices.tolist(), rivals.uniforms.tolist()) == ([index], [expected[index]])


@given(
    n=st.integers(1, 3000), offset=OFFSETS, sample_time=st.sampled_from([2.0**-53, 1e-9, 0.001, 1 / 256, 0.1, 0.7, 1.0])
)
def test_marks_are_those_of_the_twin(n: int, offset: int, sample_time: float) -> None:
    marks = (np.arange(n) % 97 == 0).astype(np.uint8)  # set before, and not reset
    expected = marks.copy()
    CPU.mark_favoured(offset, sample_time, marks)
    TWIN.mark_favoured(offset, sample_time, expected)
    np.testing.assert_array_equal(marks, expected)


@given(offset=OFFSETS, token=st.integers(0, 999))
def test_a_sample_time_that_just_favours_a_token(offset: int, token: int) -> None:
    """At 1 - u a token is favoured, at the float64 below it is not."""
    u = float(reference.uniforms(np.array([token]), offset)[0])
    for sample_time in (1 - u, float(np.nextafter(1 - u, 0))):
        marks = np.zeros(1000, np.uint8)
        CPU.mark_favoured(offset, sample_time, marks)
        assert bool(marks[token]) == (u >= 1 - sample_time)


@given(
    n=st.integers(1, 2000),
    spread=st.sampled_from([0.0, 1e-9, 1.0, 20.0, 64.0]),
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
    has_ids=st.booleans(),
    offset=OFFSETS,
    seed=SEEDS,
)
def test_rivals_hold_those_of_the_twin(
    n: int, spread: float, zeros: float, has_ids: bool, offset: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = np.exp(-spread * rng.random(n)) * (rng.random(n) >= zeros)
    weights[rng.integers(n)] = 1.0
    ids = np.sort(rng.choice(200_000, n, replace=False)) if has_ids else None
    actual, expected = CPU.exponential_race(weights, ids, offset), TWIN.exponential_race(weights, ids, offset)
    assert set(expected.indices) <= set(actual.indices)
    assert (np.diff(actual.indices) > 0).all()
    assert (weights[actual.indices] > 0).all()
    np.testing.assert_array_equal(
        actual.uniforms, reference.uniforms(ids if ids is not None else np.arange(n), offset)[actual.indices]
    )


def test_rivals_are_few() -> None:
    """Bounds on sample times leave out nearly all of them: so few logarithms are taken."""
    weights = np.exp(-12 * np.random.default_rng(0).random(600))
    assert np.mean([CPU.exponential_race(weights, None, offset).indices.size for offset in range(1000)]) < 2


def test_refuses_ids_of_another_number() -> None:
    with pytest.raises(ValueError, match="ids: expected one for each of 3 weights, got 2"):
        CPU.exponential_race(np.ones(3), np.arange(2), 0)
