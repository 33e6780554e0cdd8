"""The sampler against the definitions of its steps, written out plainly, with the operations of both backends."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitnet_numba.backends.protocol import Candidates, SamplingOperations
from bitnet_numba.errors import BitNetError, ParameterError
from bitnet_numba.generate.sampling.sampler import SampledToken, Sampler
from bitnet_numba.options import SamplingParams
from tests.generate.sampling.sampling_backends import CPU, NUMPY

VOCAB = 12
DRAWS = 400
LIKELY = np.log(np.array([0.4, 0.2, 0.15, 0.1, 0.05, 0.04, 0.03, 0.02, 0.004, 0.003, 0.002, 0.001])).astype(np.float32)


class FromAll:
    """A sampler that gets the logits of all tokens."""

    backend: SamplingOperations

    def __init__(self, params: SamplingParams, prompt: tuple[int, ...], vocab_size: int) -> None:
        self._sampler = Sampler(self.backend, params, prompt, vocab_size)

    def pick(self, logits: NDArray[np.float32]) -> SampledToken:
        token = self._sampler.pick(Candidates(logits))
        assert token is not None
        return token


@pytest.fixture(scope="module", params=[CPU, NUMPY], ids=["cpu", "numpy"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    FromAll.backend = request.param
    yield
    del FromAll.backend


def sampler(prompt: tuple[int, ...] = (0,), vocab_size: int = VOCAB, **params: Any) -> FromAll:
    return FromAll(SamplingParams(**params), prompt, vocab_size)


def drawn(logits: NDArray[np.float32], **params: Any) -> set[int]:
    """Return which tokens come in many draws of the first token: with a fixed seed, always the same."""
    return {sampler(temperature=1.0, seed=seed, **params).pick(logits).id for seed in range(DRAWS)}


def logits(seed: int, step: float = 0.0) -> NDArray[np.float32]:
    """Random logits; a step makes ties."""
    values = np.random.default_rng(seed).standard_normal(VOCAB).astype(np.float32)
    return (np.round(values / step) * step).astype(np.float32) if step else values


@given(seed=st.integers(0, 2**32 - 1), step=st.sampled_from([0.0, 0.5, 2.0]))
def test_greedy_takes_the_first_of_the_likeliest(seed: int, step: float) -> None:
    x = logits(seed, step)
    assert sampler().pick(x).id == min(i for i in range(VOCAB) if x[i] == max(x))


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-12}, {"temperature": 1e-300}, {"temperature": 1e-4}])
@given(seed=st.integers(0, 2**32 - 1))
def test_the_narrowest_filters_are_greedy(narrow: dict[str, Any], seed: int) -> None:
    x = logits(seed)
    assume(np.diff(np.sort(x)[-2:])[0] > 0.01)  # a hundred of the narrowest temperature: nobody draws the second
    assert sampler(**{"temperature": 1.0, "seed": seed, **narrow}).pick(x).id == int(np.argmax(x))


@given(seed=st.integers(0, 2**32 - 1))
def test_filters_break_ties_by_the_lower_id(seed: int) -> None:
    flat = np.zeros(VOCAB, np.float32)
    assert sampler(temperature=1.0, top_k=3, seed=seed).pick(flat).id < 3
    assert sampler(temperature=1.0, top_p=0.25, seed=seed).pick(flat).id < 3


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, 8),  # the first eight hold 99 %: a rarer one may come, and is allowed to
        ({"top_k": 4}, 4),
        ({"top_p": 0.55}, 2),
        ({"top_p": 0.7}, 3),
        ({"min_p": 0.09}, 6),
        ({"min_p": 1.0}, 1),
        ({"top_k": 2, "top_p": 0.6}, 1),  # of 0.4 and 0.2, the first alone has two thirds
        ({"top_p": 0.7, "min_p": 0.4}, 2),
        ({"top_k": 50, "top_p": 1.0, "min_p": 0.0}, 8),
    ],
)
def test_filters_keep_what_they_should(filters: dict[str, Any], expected: int) -> None:
    came = drawn(LIKELY, **filters)
    assert set(range(expected)) <= came
    assert expected == 8 or came == set(range(expected))


@pytest.mark.parametrize("vocab_size", [VOCAB, 3000])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.1}])
def test_draws_follow_the_probabilities(vocab_size: int, filters: dict[str, Any]) -> None:
    """Chi-square of 3,000 draws: 5 standard deviations above its mean would come once in some millions of seeds."""
    x = np.full(vocab_size, LIKELY.min() - 8, np.float32)
    x[:VOCAB] = LIKELY
    one = sampler(vocab_size=vocab_size, temperature=1.3, seed=1, **filters)
    ids = np.array([one.pick(x).id for _ in range(3000)])
    weights = np.exp(x / 1.3, dtype=np.float64)
    n_kept = kept(weights, **filters)
    expected = 3000 * weights[:n_kept] / weights[:n_kept].sum()
    frequent = expected > 5  # the rare tokens together are one class more
    counts = np.bincount(ids, minlength=vocab_size)[:n_kept]
    assert counts.sum() == 3000
    counts, expected = (np.append(values[frequent], values[~frequent].sum()) for values in (counts, expected))
    if expected[-1] < 1:
        counts, expected = counts[:-1], expected[:-1]
    degrees = counts.size - 1
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 5 * math.sqrt(2 * degrees)


def kept(weights: NDArray[np.float64], top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0) -> int:
    """Return how many of weights in descending order one filter keeps."""
    if top_k:
        return top_k
    if min_p:
        return int((weights >= min_p * weights[0]).sum())
    return weights.size if top_p == 1 else int(np.searchsorted(np.cumsum(weights), top_p * weights.sum())) + 1


def test_temperature_flattens() -> None:
    hot, cold = (
        [sampler(temperature=t, seed=seed).pick(LIKELY).id for seed in range(DRAWS)].count(0) / DRAWS for t in (5, 0.5)
    )
    weights = np.exp(LIKELY.astype(np.float64))
    for share, temperature in ((hot, 5), (cold, 0.5)):
        powers = weights ** (1 / temperature)
        assert share == pytest.approx(powers[0] / powers.sum(), abs=0.1)


def test_the_same_seed_draws_the_same_tokens_on_any_machine() -> None:
    one = sampler(temperature=1.0, seed=42)
    assert [one.pick(LIKELY).id for _ in range(20)] == GOLDEN


# SplitMix64 in whole numbers, from numpy 2.4's PCG64(42).random_raw(), with the logarithms of the C library
GOLDEN = [5, 2, 3, 2, 1, 0, 0, 3, 0, 2, 6, 2, 1, 0, 0, 5, 1, 4, 1, 0]


@pytest.mark.parametrize(
    ("params", "golden"),  # as the sampler drew before it had kernels of its own, all in NumPy
    [
        ({"temperature": 0.8}, [4657, 3752, 4846, 753, 2389, 432, 422, 3771, 2601, 3159, 3369, 1143]),
        ({"temperature": 0.8, "top_p": 0.9}, [4657, 3752, 1931, 753, 2389, 432, 422, 3771, 2601, 3159, 3369, 835]),
        ({"temperature": 1.5, "min_p": 0.02}, [4657, 2813, 1931, 753, 2389, 432, 422, 4182, 328, 3159, 3369, 1143]),
        (
            {"temperature": 1.2, "top_k": 40, "presence_penalty": 0.5},
            [4657, 2813, 1931, 753, 2389, 432, 422, 3771, 2601, 3159, 3369, 835],
        ),
        (
            {"temperature": 1.0, "repetition_penalty": 1.3},
            [4657, 3752, 4846, 753, 2389, 432, 422, 3771, 2601, 3159, 3369, 1143],
        ),
    ],
)
def test_seeds_give_the_tokens_that_they_always_gave(params: dict[str, Any], golden: list[int]) -> None:
    rng = np.random.default_rng(7)
    one = sampler((1, 2, 3), 5000, seed=2026, **params)
    assert [one.pick((rng.standard_normal(5000) * 3).astype(np.float32)).id for _ in golden] == golden


def test_without_a_seed_draws_differ() -> None:
    flat = np.zeros(VOCAB, np.float32)
    assert len(
        {tuple(s.pick(flat).id for _ in range(30)) for s in (sampler(temperature=1.0), sampler(temperature=1.0))}
    )


def test_repetition_penalty_pushes_tokens_of_prompt_and_answer_down() -> None:
    x = np.full(VOCAB, -5, np.float32)
    x[[2, 3, 4]] = 4, 3, 2.5
    one = sampler(prompt=(2, 7), repetition_penalty=2.0)
    assert [one.pick(x).id for _ in range(3)] == [3, 4, 2]  # 4 / 2 < 3; then 3 / 2 < 2.5; then 2 is left highest
    negative = np.full(VOCAB, -1, np.float32)
    negative[7] = -0.9
    assert sampler(prompt=(7,), repetition_penalty=2.0).pick(negative).id == 0  # -0.9 * 2 < -1


def test_frequency_and_presence_penalties_look_at_the_answer_only() -> None:
    x = np.zeros(VOCAB, np.float32)
    x[[2, 3]] = 1.0, 0.0
    by_count = sampler(prompt=(2, 2, 2), frequency_penalty=0.4)
    assert [by_count.pick(x).id for _ in range(5)] == [2, 2, 2, 0, 1]  # 1, 0.6, 0.2, then below the others' 0
    by_presence = sampler(prompt=(2, 2, 2), presence_penalty=0.6)
    assert [by_presence.pick(x).id for _ in range(3)] == [2, 2, 2]
    strongly = sampler(prompt=(2, 2, 2), presence_penalty=1.5)
    assert [strongly.pick(x).id for _ in range(2)] == [2, 0]


def test_bias_comes_before_the_penalties() -> None:
    x = np.zeros(VOCAB, np.float32)
    assert sampler(logit_bias={5: 3.0}).pick(x).id == 5
    assert sampler(logit_bias={0: -100}).pick(x).id == 1
    x[4] = 2
    biased = sampler(prompt=(5,), logit_bias={5: 3.0}, repetition_penalty=2.0)
    assert biased.pick(x).id == 4  # (0 + 3) / 2 < 2


def test_refuses_a_bias_outside_the_vocabulary() -> None:
    with pytest.raises(ParameterError, match="logit_bias: the vocabulary has ids 0 to 11; drop 12"):
        sampler(logit_bias={3: 1.0, 12: 1.0})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_logits_that_are_not_finite(bad: float) -> None:
    x = LIKELY.copy()
    x[3] = bad
    with pytest.raises(BitNetError, match="infinite or NaN"):
        sampler().pick(x)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 20), scale=st.sampled_from([1.0, 9.0]))
def test_logprobs_are_the_models_own(seed: int, count: int, scale: float) -> None:
    x = scale * logits(seed, 0.25)
    exact = x - x.max() - math.log(np.exp((x - x.max()).astype(np.float64)).sum())
    picked = sampler(logprobs=count, temperature=2.0, seed=seed, logit_bias={1: 100}).pick(x)
    assert picked.id == 1
    assert picked.logprob is not None
    assert picked.logprob.token_id == 1
    assert picked.logprob.logprob == pytest.approx(exact[1], abs=1e-5)
    ranked = sorted(range(VOCAB), key=lambda i: (-x[i], i))[:count]
    assert [token_id for token_id, _ in picked.logprob.top] == ranked
    assert [value for _, value in picked.logprob.top] == pytest.approx([exact[i] for i in ranked], abs=1e-5)


def test_logprobs_only_where_requested() -> None:
    assert sampler().pick(LIKELY).logprob is None


def test_leaves_the_logits_alone() -> None:
    before = LIKELY.copy()
    sampler(temperature=1.0, top_p=0.9, repetition_penalty=1.3, logit_bias={0: 1.0}, logprobs=3, seed=0).pick(LIKELY)
    np.testing.assert_array_equal(LIKELY, before)
