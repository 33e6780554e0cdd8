"""The random stream and the exponential race against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.numpy.sampling import uniforms
from bitnet_numba.backends.protocol import Rivals, SamplingOperations
from bitnet_numba.generate.sampling.random_draw import first_random_offset, random_offset, winner
from tests.generate.sampling.sampling_backends import CPU, NUMPY

BACKENDS = pytest.mark.parametrize("backend", [CPU, NUMPY], ids=["cpu", "numpy"])
SEEDS = st.integers(0, 2**32 - 1)
OFFSETS = st.integers(0, 2**64 - 1)


def test_the_first_offset_depends_on_the_seed_alone() -> None:
    assert first_random_offset(42) == int(np.random.PCG64(42).random_raw())
    assert first_random_offset(None) != first_random_offset(None)


@BACKENDS
def test_no_two_draws_share_a_random_number(backend: SamplingOperations) -> None:
    for first in (0, 2**64 - 1):
        together = uniforms(np.arange(30), first)
        for n_draws in range(3):
            rivals = backend.exponential_race(np.ones(10), None, random_offset(first, n_draws, 10))
            np.testing.assert_array_equal(rivals.uniforms, together[10 * n_draws :][rivals.indices])


@BACKENDS
@given(n=st.integers(1, 200), spread=st.sampled_from([0.0, 3.0, 60.0]), offset=OFFSETS, seed=SEEDS)
def test_the_smallest_sample_time_wins(
    backend: SamplingOperations, n: int, spread: float, offset: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = np.exp(-spread * rng.random(n))
    ids = np.sort(rng.choice(1000, n, replace=False))
    times = [-math.log(u) / w for u, w in zip(uniforms(ids, offset), weights, strict=True)]
    index, time = winner(backend.exponential_race(weights, ids, offset), weights)
    assert index == times.index(min(times))
    assert time == pytest.approx(min(times), rel=1e-14)


@BACKENDS
def test_tokens_are_drawn_in_proportion_to_their_weights(backend: SamplingOperations) -> None:
    """Chi-square with 4 degrees of freedom: 5 standard deviations above its mean."""
    weights, ids = np.array([8.0, 4.0, 0.0, 2.0, 1.0, 1.0]), np.array([4, 9, 10, 11, 70, 71])
    races = (backend.exponential_race(weights, ids, random_offset(5, n, 100)) for n in range(4000))
    counts = np.bincount([winner(rivals, weights)[0] for rivals in races], minlength=6)
    assert counts[2] == 0
    expected = 4000 * np.delete(weights, 2) / 16
    assert ((np.delete(counts, 2) - expected) ** 2 / expected).sum() < 4 + 5 * math.sqrt(8)


@BACKENDS
@pytest.mark.parametrize("n_more", [1, 50])
def test_tokens_with_larger_sample_times_change_nothing(backend: SamplingOperations, n_more: int) -> None:
    weights, ids = np.full(60, 1.0), np.arange(60)
    for offset in range(100):
        first, _ = winner(backend.exponential_race(weights, ids, offset), weights)
        fewer = np.sort(np.append(np.delete(ids, first)[:n_more], first))
        assert fewer[winner(backend.exponential_race(weights[fewer], fewer, offset), weights[fewer])[0]] == first


@pytest.mark.parametrize("is_first_sooner", [True, False])
def test_a_near_tie_is_decided_by_correctly_rounded_logarithms(
    is_first_sooner: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a logarithm that is off by 1e-12, as a bad C library's might be."""
    rivals = Rivals(np.array([3, 8]), np.array([0.25, 0.5]))
    weights = np.ones(9)
    weights[3] = 2 * (1 + (1e-14 if is_first_sooner else -1e-14))  # ln(0.25) is twice ln(0.5)
    exact = math.log
    for error in (1e-12, -1e-12):
        monkeypatch.setattr("math.log", lambda u, error=error: exact(u) * (1 + error * u))
        assert winner(rivals, weights)[0] == (3 if is_first_sooner else 8)
