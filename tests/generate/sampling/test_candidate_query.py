"""What the sampler asks of the head: too little would change a choice, too much would cost time."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitnet_numba.backends.cpu.sampling import CPUSampling
from bitnet_numba.backends.numpy.sampling import uniforms
from bitnet_numba.backends.protocol import CandidateQuery, Candidates
from bitnet_numba.errors import BitNetError
from bitnet_numba.generate.sampling import sampler as sampler_room
from bitnet_numba.generate.sampling.random_draw import first_random_offset, random_offset
from bitnet_numba.generate.sampling.sampler import (
    FAVOURED_MARGIN,
    FAVOURED_TIME,
    MAX_CANDIDATES,
    TOP_P_MARGIN,
    SampledToken,
    Sampler,
)
from bitnet_numba.options import SamplingParams
from tests.backends.cpu.kernels import twins as reference
from tests.generate.sampling.sampling_backends import CPU, any_sampling, partial

VOCAB = 301
SEEDS = st.integers(0, 2**32 - 1)


def new_sampler(prompt: tuple[int, ...] = (3, 5), **params: Any) -> Sampler:
    return Sampler(CPU, SamplingParams(**params), prompt, VOCAB)


@given(
    sampling=any_sampling(VOCAB), seed=SEEDS, step=st.sampled_from([0.0, 0.5]), scale=st.sampled_from([0.1, 3.0, 20.0])
)
def test_what_is_not_needed_changes_no_choice(sampling: dict[str, Any], seed: int, step: float, scale: float) -> None:
    """The candidates are exactly those of the query, by the definition of the filter's twin."""
    rng = np.random.default_rng(seed)
    whole, thinned = (new_sampler((3, 5, 3), **sampling) for _ in range(2))
    for _ in range(6):
        logits = (rng.standard_normal(VOCAB) * scale).astype(np.float32)
        if step:
            logits = (np.round(logits / step) * step).astype(np.float32)
        token = thinned.pick(candidates(logits, thinned.query())) or thinned.pick(Candidates(logits))
        assert token == whole.pick(Candidates(logits))


def candidates(logits: NDArray[np.float32], query: CandidateQuery) -> Candidates:
    always = query.always.astype(bool) if query.always.size else np.zeros(logits.size, bool)
    kept = reference.needed_logits(logits, query.n_best, query.margin, always)
    return partial(logits, kept, query.temperature)


@pytest.mark.parametrize(
    ("params", "n_best", "margin"),
    [
        ({}, 1, math.inf),
        ({"top_k": 9, "top_p": 0.5, "min_p": 0.5}, 1, math.inf),
        ({"temperature": 0.7, "top_k": 9, "top_p": 0.5, "min_p": 0.1}, 9, math.inf),
        ({"temperature": 2.0, "min_p": math.exp(-3)}, 0, 6.0),
        ({"temperature": 1.0, "min_p": 5e-324}, 0, 64.0),
        ({"temperature": 1.0, "min_p": 0.1, "top_p": 0.9}, MAX_CANDIDATES, TOP_P_MARGIN + math.log(10)),
        ({"temperature": 0.5, "top_p": 0.9}, MAX_CANDIDATES, (TOP_P_MARGIN + math.log(10)) / 2),
        ({"temperature": 2.0}, MAX_CANDIDATES, 2 * FAVOURED_MARGIN),
    ],
)
def test_asks_for(params: dict[str, Any], n_best: int, margin: float) -> None:
    query = new_sampler(seed=0, **params).query()
    assert query.n_best == n_best
    assert query.margin == pytest.approx(margin, abs=0.005)
    assert query.margin >= margin - 1e-9
    assert query.is_partial == (n_best > 0 or margin < math.inf)
    assert query.always.sum() < 5 if query.always.size else params != {"temperature": 2.0}


def test_adjusted_tokens_are_always_needed() -> None:
    def always(draft_ids: tuple[int, ...] = (), **params: Any) -> set[int]:
        sampler = new_sampler(**params)
        logits = np.zeros(VOCAB, np.float32)
        logits[9] = 1
        token = sampler.pick(Candidates(logits))
        assert token is not None
        assert token.id == 9
        return set(np.flatnonzero(sampler.query(draft_ids).always).tolist())

    assert always(repetition_penalty=1.1) == {3, 5, 9}
    assert always(presence_penalty=0.1) == always(frequency_penalty=0.1) == {9}
    assert always((20, 21), presence_penalty=0.1) == {9, 20, 21}
    assert always(logit_bias={7: 0.5}) == always((20,), logit_bias={7: 0.5}) == {7}
    assert always(logit_bias={7: 0.5}, presence_penalty=0.1) == {7, 9}


def test_excluded_logits_are_no_damage_and_others_are() -> None:
    some = Candidates(np.array([2, 1], np.float32), np.array([4, 7]), threshold=1)
    token = new_sampler().pick(some)
    assert token is not None
    assert token.id == 4
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(BitNetError, match="infinite or NaN"):
            new_sampler().pick(some._replace(logits=np.array([2, value], np.float32)))


# ---- tokens that draws favour ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_drafts", [0, 1, 3])
def test_each_draw_of_a_step_marks_the_tokens_that_it_favours(n_drafts: int) -> None:
    sampler = new_sampler(temperature=1.0, seed=5, logit_bias={7: 0.5})
    for n_chosen in range(3):
        offsets = (random_offset(first_random_offset(5), n_chosen + ahead, VOCAB) for ahead in range(1 + n_drafts))
        favoured = [uniforms(np.arange(VOCAB), offset) >= 1 - FAVOURED_TIME for offset in offsets]
        expected = {7, *np.flatnonzero(np.any(favoured, axis=0)).tolist()}
        assert set(np.flatnonzero(sampler.query([11] * n_drafts).always).tolist()) == expected
        sampler.pick(Candidates(np.zeros(VOCAB, np.float32)))


@given(seed=SEEDS, temperature=st.sampled_from([0.3, 1.0, 5.0]), penalty=st.sampled_from([0.0, 0.4]))
def test_draft_tokens_change_no_choice(seed: int, temperature: float, penalty: float) -> None:
    """All draws of a step choose from what one query asks for, as long as the drafts come."""
    rng = np.random.default_rng(seed)
    drafting, plain = (new_sampler(temperature=temperature, presence_penalty=penalty, seed=seed) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_room, "FAVOURED_MARGIN", 0.1)  # so little that favoured tokens often win
        patch.setattr(sampler_room, "FAVOURED_TIME", 0.25)
        for _ in range(3):
            rows = [rng.standard_normal(VOCAB).astype(np.float32) for _ in range(4)]
            tokens = [id_of(plain.pick(Candidates(row))) for row in rows]
            query = drafting.query(tokens[:3])
            for row, token in zip(rows, tokens, strict=True):
                assert id_of(drafting.pick(candidates(row, query)) or drafting.pick(Candidates(row))) == token


def id_of(token: SampledToken | None) -> int:
    assert token is not None
    return token.id


def test_asks_a_head_that_computes_all_logits_for_no_candidates() -> None:
    class Full(CPUSampling):
        head = "full"

    sampler = Sampler(Full(), SamplingParams(temperature=1.0), (), VOCAB)
    assert not sampler.query().is_partial
