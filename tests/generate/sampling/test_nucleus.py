"""Choices from some of the logits against choices from all of them."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitnet_numba.backends.protocol import Candidates
from bitnet_numba.generate.sampling import sampler as sampler_room
from bitnet_numba.generate.sampling.sampler import SampledToken, Sampler
from bitnet_numba.options import SamplingParams
from tests.generate.sampling.sampling_backends import CPU, partial

VOCAB = 60
SEEDS = st.integers(0, 2**32 - 1)
SHARES = st.sampled_from([1e-9, 0.3, 0.5, 0.75, 0.9, 0.99, 1 - 1e-9, 1 - 2.0**-53])
SHAPES = st.sampled_from(["flat", "nearly flat", "tied", "halving", "two levels", "random", "steep"])


def log_of(weights: Any) -> NDArray[np.float32]:
    return np.log(np.asarray(weights)).astype(np.float32)


def choices(candidates: Candidates, n_seeds: int, **params: Any) -> list[SampledToken | None]:
    """Return the first token of each of some seeds."""
    samplers = (
        Sampler(CPU, SamplingParams(temperature=1.0, seed=seed, **params), (0,), VOCAB) for seed in range(n_seeds)
    )
    return [sampler.pick(candidates) for sampler in samplers]


# ---- some logits and all of them -------------------------------------------------------------------------------------
def adversarial(rng: np.random.Generator, shape: str) -> NDArray[np.float32]:
    """Logits whose running sums of weights hit a share exactly, or nearly, or that hardly differ."""
    powers = -np.arange(VOCAB) * math.log(2)
    values = {
        "flat": np.zeros(VOCAB),
        "nearly flat": rng.choice([0, 1e-7, -1e-7], VOCAB),
        "tied": np.round(rng.standard_normal(VOCAB)) * 2,
        "halving": rng.permutation(powers),  # running sums of 1/2, 3/4, 7/8: shares themselves
        "two levels": np.where(rng.random(VOCAB) < 0.2, 0.0, -3.0),
        "random": rng.standard_normal(VOCAB) * 3,
        "steep": rng.standard_normal(VOCAB) * 100,
    }
    return values[shape].astype(np.float32)


@given(
    shape=SHAPES,
    share=SHARES,
    n_kept=st.integers(1, VOCAB),
    temperature=st.sampled_from([1e-300, 1e-30, 0.1, 1.0, 30.0, 1e30, 1e300]),
    excess=st.sampled_from([0.0, 1e-6, 0.01, 1.0, 100.0]),
    min_p=st.sampled_from([0.0, 0.0, 5e-324, 0.01, 0.5, 1.0]),
    penalty=st.sampled_from([1.0, 1.0, 0.5, 2.0]),
    bias=st.sampled_from([0.0, 0.0, -100.0, 3.0, 100.0]),
    seed=SEEDS,
)
def test_a_choice_from_some_logits_is_that_from_all(
    shape: str,
    share: float,
    n_kept: int,
    temperature: float,
    excess: float,
    min_p: float,
    penalty: float,
    bias: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    params = SamplingParams(
        temperature=temperature,
        top_p=share,
        min_p=min_p,
        repetition_penalty=penalty,
        logit_bias={7: bias} if bias else {},
        seed=seed,
    )
    whole, thinned = (Sampler(CPU, params, (3, 5), VOCAB) for _ in range(2))
    for _ in range(5):
        logits = adversarial(rng, shape)
        always = thinned.query().always
        is_kept = logits >= np.sort(logits)[-n_kept]
        is_kept |= always.astype(bool) if always.size else False
        token = thinned.pick(partial(logits, is_kept, temperature, excess))
        assert (token or thinned.pick(Candidates(logits))) == whole.pick(Candidates(logits))


def test_choices_that_excluded_logits_can_change_stay_undecided_and_no_others() -> None:
    """Of a half, 0.3, 0.1 and little else, the third is in a share of 0.85 only because of the excluded ones."""
    logits = log_of([0.5, 0.3, 0.1] + [0.1 / 57] * 57)
    few = partial(logits, np.arange(VOCAB) < 3, 1.0)
    some = choices(few, 300, top_p=0.85)
    every = choices(Candidates(logits), 300, top_p=0.85)
    assert {token.id for token in every if token} == {0, 1, 2}
    assert [token.id if token else 2 for token in some] == [token.id if token else None for token in every]
    assert 300 / 9 / 2 < some.count(None) < 300 / 9 * 2
    light = choices(few._replace(tail_mass=0.0), 300, top_p=0.85)
    assert {token.id for token in light if token} == {0, 1}


def test_a_token_that_is_only_possibly_in_the_share_is_not_taken() -> None:
    """The third would be in a share of 0.79 if the excluded ones weighed half as much again."""
    logits = log_of([0.5, 0.3, 0.1] + [0.1 / 57] * 57)
    some = choices(partial(logits, np.arange(VOCAB) < 3, 1.0, excess=0.5), 100, top_p=0.79)
    every = choices(Candidates(logits), 100, top_p=0.79)
    assert {token.id for token in every if token} == {0, 1}
    assert 0 < some.count(None) < 30
    assert all(token in (None, full) for token, full in zip(some, every, strict=True))


def test_a_nucleus_that_may_reach_excluded_logits_stays_undecided_unless_they_are_dropped() -> None:
    logits = log_of([0.5, 0.3, 0.1] + [0.1 / 57] * 57)
    few = partial(logits, np.arange(VOCAB) < 3, 1.0)
    assert choices(few, 50, top_p=0.95) == [None] * 50
    assert choices(few, 50, top_p=0.95, min_p=0.002) == [None] * 50  # 0.0035 of the likeliest
    decided = choices(few, 50, top_p=0.95, min_p=0.01)
    assert None not in decided
    assert decided == choices(Candidates(logits), 50, top_p=0.95, min_p=0.01)


def test_an_undecided_choice_takes_no_random_number_and_leaves_no_trace() -> None:
    logits = log_of([0.5, 0.3, 0.1] + [0.1 / 57] * 57)
    few = partial(logits, np.arange(VOCAB) < 3, 1.0)
    params = SamplingParams(temperature=1.0, top_p=0.95, presence_penalty=1.0, seed=4)
    once, again = (Sampler(CPU, params, (), VOCAB) for _ in range(2))
    for _ in range(10):
        assert again.pick(few) is None
        assert again.pick(Candidates(logits)) == once.pick(Candidates(logits))


def test_top_k_needs_no_tail_mass() -> None:
    logits = log_of([0.5, 0.3, 0.1] + [0.1 / 57] * 57)
    few = partial(logits, np.arange(VOCAB) < 3, 0.0)
    some = choices(few._replace(tail_mass=1e9), 50, top_p=0.85, top_k=3)
    assert some == choices(Candidates(logits), 50, top_p=0.85, top_k=3)
    assert None not in some


@given(
    shape=SHAPES,
    n_kept=st.integers(1, VOCAB),
    temperature=st.sampled_from([1e-300, 0.1, 1.0, 30.0, 1e300]),
    favoured_time=st.sampled_from([0.001, 1 / 256, 0.1, 0.5, 1.0]),
    bias=st.sampled_from([0.0, 0.0, -100.0, 3.0, 100.0]),
    seed=SEEDS,
)
def test_a_choice_without_filters_from_some_logits_is_that_from_all(
    shape: str, n_kept: int, temperature: float, favoured_time: float, bias: float, seed: int
) -> None:
    """Whatever is excluded, as long as it is none of those that the draw favours."""
    rng = np.random.default_rng(seed)
    params = SamplingParams(temperature=temperature, logit_bias={7: bias} if bias else {}, seed=seed)
    whole, thinned = (Sampler(CPU, params, (3, 5), VOCAB) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_room, "FAVOURED_TIME", favoured_time)
        for _ in range(5):
            logits = adversarial(rng, shape)
            is_kept = (logits >= np.sort(logits)[-n_kept]) | thinned.query().always.astype(bool)
            token = thinned.pick(partial(logits, is_kept, 0.0))
            assert (token or thinned.pick(Candidates(logits))) == whole.pick(Candidates(logits))


def test_a_token_whose_sample_time_may_not_be_the_smallest_is_not_taken() -> None:
    logits = log_of([0.9] + [0.1 / 59] * 59)
    decided = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_room, "FAVOURED_TIME", 0.002)
        for seed in range(400):
            sampler = Sampler(CPU, SamplingParams(temperature=1.0, seed=seed), (), VOCAB)
            is_kept = sampler.query().always.astype(bool)
            is_kept[0] = True
            token = sampler.pick(partial(logits, is_kept, 0.0))
            full = Sampler(CPU, SamplingParams(temperature=1.0, seed=seed), (), VOCAB).pick(Candidates(logits))
            assert token in (None, full)
            decided += token is not None
    # decided where the smallest sample time is at most 0.002 / (0.1 / 59 / 0.9), in units of the likeliest's weight
    assert decided / 400 == pytest.approx(1 - math.exp(-0.002 * 59 * 0.9 / 0.1), abs=0.1)
