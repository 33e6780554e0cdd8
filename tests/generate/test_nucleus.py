"""Choices from some of the logits against choices from all of them, and the draw against its definition."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitnet_numba.backends.cpu.candidates import Screening
from bitnet_numba.generate import sampler as engine_sampler
from bitnet_numba.generate.nucleus import first_to_arrive, stretch_of, uniforms
from bitnet_numba.generate.sampler import SampledToken, Sampler
from bitnet_numba.generate.sampling_params import SamplingParams
from tests.generate.screenings import without

VOCAB = 60
SEEDS = st.integers(0, 2**32 - 1)
SHARES = st.sampled_from([1e-9, 0.3, 0.5, 0.75, 0.9, 0.99, 1 - 1e-9, 1 - 2.0**-53])
SHAPES = st.sampled_from(["flat", "nearly flat", "tied", "halving", "two levels", "random", "steep"])
WORD = 1 << 64


def log_of(weights: Any) -> NDArray[np.float32]:
    return np.log(np.asarray(weights)).astype(np.float32)


def choices(logits: NDArray[np.float32], screening: Screening, count: int, **params: Any) -> list[SampledToken | None]:
    """What the first token of so many seeds is."""
    samplers = (
        Sampler(SamplingParams(temperature=1.0, seed=seed, **params), (0,), logits.size) for seed in range(count)
    )
    return [sampler.pick(logits, screening) for sampler in samplers]


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
    whole, thinned = (Sampler(params, (3, 5), VOCAB) for _ in range(2))
    for _ in range(5):
        logits = adversarial(rng, shape)
        always = thinned.needed().always
        is_kept = logits >= np.sort(logits)[-n_kept]
        is_kept |= always.astype(bool) if always.size else False
        token = thinned.pick(*without(logits, is_kept, temperature, excess))
        assert (token or thinned.pick(logits)) == whole.pick(logits)


def test_choices_that_left_out_logits_can_change_stay_open_and_no_others() -> None:
    """Of a half, 0.3, 0.1 and little else, the third is in a share of 0.85 only for what is left out."""
    logits = log_of([0.5, 0.3, 0.1] + [0.1 / 57] * 57)
    partial, screening = without(logits, np.arange(VOCAB) < 3, 1.0)
    some = choices(partial, screening, 300, top_p=0.85)
    every = choices(logits, Screening(), 300, top_p=0.85)
    assert {token.id for token in every if token} == {0, 1, 2}
    assert [token.id if token else 2 for token in some] == [token.id if token else None for token in every]
    assert 300 / 9 / 2 < some.count(None) < 300 / 9 * 2
    light = choices(partial, screening._replace(weight=0.0), 300, top_p=0.85)
    assert {token.id for token in light if token} == {0, 1}


def test_a_token_that_is_only_possibly_in_the_share_is_not_taken() -> None:
    """The third would be in a share of 0.79 if what is left out weighed half as much again."""
    logits = log_of([0.5, 0.3, 0.1] + [0.1 / 57] * 57)
    some = choices(*without(logits, np.arange(VOCAB) < 3, 1.0, excess=0.5), 100, top_p=0.79)
    every = choices(logits, Screening(), 100, top_p=0.79)
    assert {token.id for token in every if token} == {0, 1}
    assert 0 < some.count(None) < 30
    assert all(token in (None, full) for token, full in zip(some, every, strict=True))


def test_a_nucleus_that_may_reach_left_out_logits_stays_open_unless_they_are_dropped() -> None:
    logits = log_of([0.5, 0.3, 0.1] + [0.1 / 57] * 57)
    partial, screening = without(logits, np.arange(VOCAB) < 3, 1.0)
    assert choices(partial, screening, 50, top_p=0.95) == [None] * 50
    assert choices(partial, screening, 50, top_p=0.95, min_p=0.002) == [None] * 50  # 0.0035 of the likeliest
    decided = choices(partial, screening, 50, top_p=0.95, min_p=0.01)
    assert None not in decided
    assert decided == choices(logits, Screening(), 50, top_p=0.95, min_p=0.01)


def test_an_open_choice_takes_no_random_number_and_leaves_no_trace() -> None:
    logits = log_of([0.5, 0.3, 0.1] + [0.1 / 57] * 57)
    partial, screening = without(logits, np.arange(VOCAB) < 3, 1.0)
    params = SamplingParams(temperature=1.0, top_p=0.95, presence_penalty=1.0, seed=4)
    once, again = Sampler(params, (), VOCAB), Sampler(params, (), VOCAB)
    for _ in range(10):
        assert again.pick(partial, screening) is None
        assert again.pick(logits) == once.pick(logits)


def test_top_k_needs_no_weight_of_others() -> None:
    logits = log_of([0.5, 0.3, 0.1] + [0.1 / 57] * 57)
    partial, screening = without(logits, np.arange(VOCAB) < 3, 0.0)
    some = choices(partial, screening._replace(weight=1e9), 50, top_p=0.85, top_k=3)
    assert some == choices(logits, Screening(), 50, top_p=0.85, top_k=3)
    assert None not in some


@given(
    shape=SHAPES,
    n_kept=st.integers(1, VOCAB),
    temperature=st.sampled_from([1e-300, 0.1, 1.0, 30.0, 1e300]),
    early=st.sampled_from([0.001, 1 / 256, 0.1, 0.5, 1.0]),
    bias=st.sampled_from([0.0, 0.0, -100.0, 3.0, 100.0]),
    seed=SEEDS,
)
def test_a_choice_without_filters_from_some_logits_is_that_from_all(
    shape: str, n_kept: int, temperature: float, early: float, bias: float, seed: int
) -> None:
    """Whatever is left out, as long as it is none of those that the draw favours."""
    rng = np.random.default_rng(seed)
    params = SamplingParams(temperature=temperature, logit_bias={7: bias} if bias else {}, seed=seed)
    whole, thinned = (Sampler(params, (3, 5), VOCAB) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_sampler, "EARLY", early)
        for _ in range(5):
            logits = adversarial(rng, shape)
            is_kept = (logits >= np.sort(logits)[-n_kept]) | thinned.needed().always.astype(bool)
            token = thinned.pick(*without(logits, is_kept, 0.0))
            assert (token or thinned.pick(logits)) == whole.pick(logits)


def test_a_token_that_may_come_too_late_is_not_taken() -> None:
    logits = log_of([0.9] + [0.1 / 59] * 59)
    decided = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_sampler, "EARLY", 0.002)
        for seed in range(400):
            sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), (), VOCAB)
            is_kept = sampler.needed().always.astype(bool)
            is_kept[0] = True
            token = sampler.pick(*without(logits, is_kept, 0.0))
            full = Sampler(SamplingParams(temperature=1.0, seed=seed), (), VOCAB).pick(logits)
            assert token in (None, full)
            decided += token is not None
    # decided where the first arrives by 0.002 / (0.1 / 59 / 0.9), in units of the likeliest's weight
    assert decided / 400 == pytest.approx(1 - math.exp(-0.002 * 59 * 0.9 / 0.1), abs=0.1)


# ---- the draw --------------------------------------------------------------------------------------------------------
def test_random_numbers_are_those_of_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # of the seed 1234567
    expected = [((number >> 12) + 0.5) / 2**52 for number in published]
    assert uniforms(np.arange(3), 1234567).tolist() == expected
    assert uniforms(np.array([2, 0]), 1234567).tolist() == [expected[2], expected[0]]


def test_no_two_draws_share_a_random_number() -> None:
    for start in (0, WORD - 1):
        together = uniforms(np.arange(30), start)
        parts = [uniforms(np.arange(10), stretch_of(start, n_chosen, 10)) for n_chosen in range(3)]
        np.testing.assert_array_equal(np.concatenate(parts), together)


@given(n=st.integers(1, 200), spread=st.sampled_from([0.0, 3.0, 60.0]), stretch=st.integers(0, WORD - 1), seed=SEEDS)
def test_the_first_to_arrive_is_taken(n: int, spread: float, stretch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = np.exp(-spread * rng.random(n))
    ids = np.sort(rng.choice(1000, n, replace=False))
    times = [-math.log(u) / w for u, w in zip(uniforms(ids, stretch), weights, strict=True)]
    first = first_to_arrive(weights, ids, stretch)
    assert first.place == times.index(min(times))
    assert first.time == pytest.approx(min(times), rel=1e-14)


def test_tokens_are_drawn_in_proportion_to_their_weights() -> None:
    weights = np.array([8.0, 4.0, 2.0, 1.0, 1.0])
    ids = np.array([4, 9, 10, 70, 71])
    counts = np.bincount([first_to_arrive(weights, ids, stretch_of(5, n, 100)).place for n in range(4000)])
    expected = 4000 * weights / 16
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.parametrize("n_more", [1, 50])
def test_who_comes_later_changes_nothing(n_more: int) -> None:
    weights, ids = np.full(60, 1.0), np.arange(60)
    for stretch in range(100):
        winner = first_to_arrive(weights, ids, stretch).place
        fewer = np.sort(np.append(np.delete(ids, winner)[:n_more], winner))
        assert fewer[first_to_arrive(weights[fewer], fewer, stretch).place] == winner
