"""Candidates of the exact head against all logits: the same tokens for every way of sampling."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitnet_numba.backends.numpy import operators as reference
from bitnet_numba.backends.protocol import CandidateQuery, Candidates
from bitnet_numba.errors import BitNetError
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.generate import sampler as engine_sampler
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.result import GenerationResult
from bitnet_numba.generate.sampler import BEYOND, FAR, MOST_RANKED, Sampler
from bitnet_numba.generate.sampling_params import SamplingParams
from bitnet_numba.generate.sequence import FULL_HEAD_STEPS
from tests.generate import fake_backend
from tests.generate.fake_backend import FakeBackend, random_logits
from tests.generate.running import cpu_backend
from tests.generate.screenings import without
from tests.tiny import toy_model

VOCAB = 301
SEEDS = st.integers(0, 2**32 - 1)
SAMPLING = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 1e-300, 0.05, 0.3, 0.8, 1.0, 5.0]),
        "top_k": st.sampled_from([0, 0, 1, 2, 7, 40, 400]),
        "top_p": st.sampled_from([1.0, 0.999, 0.9, 0.3]),
        "min_p": st.sampled_from([0.0, 0.0, 5e-324, 0.001, 0.05, 0.5, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 0.7, 1.3, 100.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.0, -2.0, 0.4]),
        "presence_penalty": st.sampled_from([0.0, 0.0, 2.0]),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.sampled_from([-100.0, -1.0, 3.0]), max_size=3),
        "seed": SEEDS,
    }
)


@dataclass(frozen=True)
class Heads:
    """One model, with each head mode."""

    exact: Engine
    full: Engine


@pytest.fixture(scope="module", params=[TensorType.F16, TensorType.BF16, TensorType.F32], ids=lambda kind: kind.name)
def heads(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heads]:
    folder = tmp_path_factory.mktemp("heads")
    path = toy_model(embedding_type=request.param, vocab_size=VOCAB).gguf().write(folder / "toy.gguf")
    found = Heads(*(Engine(cpu_backend(path, head=head)) for head in ("exact", "full")))
    yield found
    found.exact.close()
    found.full.close()


def generated(engine: Engine, text: int, **sampling: Any) -> GenerationResult:
    prompt = np.random.default_rng(text).integers(0, VOCAB, 5).tolist()
    return fake_backend.generated(engine, prompt, **{"max_tokens": 12, **sampling})


# ---- the same text ---------------------------------------------------------------------------------------------------
@given(sampling=SAMPLING, seed=SEEDS)
def test_text_is_that_of_the_full_head(heads: Heads, sampling: dict[str, Any], seed: int) -> None:
    assert generated(heads.exact, seed, **sampling).token_ids == generated(heads.full, seed, **sampling).token_ids


@pytest.mark.parametrize("beyond", [0.0, 1.0, 4.0])
@given(
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.5, 0.9, 0.99]),
    lookup=st.sampled_from([0, 3]),
)
def test_nucleus_that_the_screen_leaves_open(
    heads: Heads, beyond: float, temperature: float, top_p: float, lookup: int
) -> None:
    """With margins too small, choices stay open; the steps that are read again give what the full head gives."""
    sampling = {"temperature": temperature, "top_p": top_p, "lookup": lookup, "seed": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_sampler, "BEYOND", beyond)
        exact = generated(heads.exact, 0, **sampling)
    full = generated(heads.full, 0, **sampling)
    assert exact.token_ids == full.token_ids
    assert exact.accepted_tokens == full.accepted_tokens


def test_steps_that_are_read_again_are_counted_in_full(heads: Heads) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_sampler, "BEYOND", 0.0)
        result = generated(heads.exact, 0, temperature=1.0, top_p=0.99, seed=0)
    # open, full; then after 1, 3 and 5 (of 7) more in full
    assert result.kernels["head_rescore"] == 3
    assert 3 * (VOCAB + 1) <= result.rescored_rows < 3.5 * VOCAB
    assert result.kernels["embedding_lookup"] == 12 + 3


@given(seed=SEEDS)
def test_log_probabilities_are_exact_with_every_head(heads: Heads, seed: int) -> None:
    full = generated(heads.full, seed, logprobs=3)
    result = generated(heads.exact, seed, logprobs=3)
    assert result.logprobs == full.logprobs
    assert result.rescored_rows == 0


def test_logits_are_exact_with_every_head(heads: Heads) -> None:
    text = np.arange(20, dtype=np.int32)
    np.testing.assert_array_equal(heads.exact.logits(text, 20), heads.full.logits(text, 20))


# ---- what runs -------------------------------------------------------------------------------------------------------
def test_greedy_text_needs_few_rows(heads: Heads) -> None:
    exact, full = generated(heads.exact, 1), generated(heads.full, 1)
    assert 12 <= exact.rescored_rows < 12 * VOCAB / 4
    assert full.rescored_rows == 0
    assert (exact.head, full.head) == ("exact", "full")
    assert exact.kernels["head_rescore"] == 12
    assert not any("screen" in kernel for kernel in full.kernels)
    assert {kernel.partition("_head")[0] for kernel in full.kernels if "head_gemv" in kernel} <= {"f16", "bf16", "f32"}


def test_where_all_rows_survive_the_screen_rests_for_a_while(heads: Heads) -> None:
    result = generated(heads.exact, 1, max_tokens=FULL_HEAD_STEPS + 2, temperature=1000.0, min_p=0.5, seed=0)
    assert result.rescored_rows == 2 * VOCAB
    assert result.kernels["head_rescore"] == 2


def test_heads_that_are_int8_already_have_no_copy(tmp_path: Path) -> None:
    engine = Engine(cpu_backend(toy_model(embedding_type=TensorType.Q8_0).gguf().write(tmp_path / "toy.gguf")))
    result = generated(engine, 0)
    engine.close()
    assert result.rescored_rows == 0
    assert result.kernels["int8_head_gemv"] == 12


def sampler_of(prompt: tuple[int, ...], **sampling: Any) -> Sampler:
    return Sampler(FakeBackend(random_logits), SamplingParams(**sampling), prompt, VOCAB)


# ---- what the sampler needs ------------------------------------------------------------------------------------------
@given(sampling=SAMPLING, seed=SEEDS, step=st.sampled_from([0.0, 0.5]), scale=st.sampled_from([0.1, 3.0, 20.0]))
def test_what_is_not_needed_changes_no_choice(sampling: dict[str, Any], seed: int, step: float, scale: float) -> None:
    """Exactly what is needed is known, by the definition of the kernel's twin."""
    rng = np.random.default_rng(seed)
    whole, thinned = (sampler_of((3, 5, 3), **sampling) for _ in range(2))
    for _ in range(6):
        logits = (rng.standard_normal(VOCAB) * scale).astype(np.float32)
        if step:
            logits = (np.round(logits / step) * step).astype(np.float32)
        token = thinned.pick(screened(logits, thinned.query())) or thinned.pick(Candidates(logits))
        assert token == whole.pick(Candidates(logits))


def screened(logits: NDArray[np.float32], query: CandidateQuery) -> Candidates:
    always = query.always.astype(bool) if query.always.size else np.zeros(logits.size, bool)
    kept = reference.needed_logits(logits, query.n_best, query.margin, always)
    return without(logits, kept, query.temperature)


@pytest.mark.parametrize(
    ("params", "n_best", "margin"),
    [
        ({}, 1, math.inf),
        ({"top_k": 9, "top_p": 0.5, "min_p": 0.5}, 1, math.inf),
        ({"temperature": 0.7, "top_k": 9, "top_p": 0.5, "min_p": 0.1}, 9, math.inf),
        ({"temperature": 2.0, "min_p": math.exp(-3)}, 0, 6.0),
        ({"temperature": 1.0, "min_p": 5e-324}, 0, 64.0),
        ({"temperature": 1.0, "min_p": 0.1, "top_p": 0.9}, MOST_RANKED, BEYOND + math.log(10)),
        ({"temperature": 0.5, "top_p": 0.9}, MOST_RANKED, (BEYOND + math.log(10)) / 2),
        ({"temperature": 2.0}, MOST_RANKED, 2 * FAR),
    ],
)
def test_needs(params: dict[str, Any], n_best: int, margin: float) -> None:
    needed = sampler_of((3, 5), **params).query()
    assert needed.n_best == n_best
    assert needed.margin == pytest.approx(margin, abs=0.005)
    assert needed.margin >= margin - 1e-9
    assert needed.is_partial == (n_best > 0 or margin < math.inf)
    assert needed.always.sum() < 5 if needed.always.size else params != {"temperature": 2.0}


def test_tokens_that_are_changed_are_always_needed() -> None:
    def always(**params: Any) -> set[int]:
        sampler = sampler_of((3, 5), **params)
        logits = np.zeros(VOCAB, np.float32)
        logits[9] = 1
        token = sampler.pick(Candidates(logits))
        assert token is not None
        assert token.id == 9
        return set(np.flatnonzero(sampler.query().always).tolist())

    assert always(repetition_penalty=1.1) == {3, 5, 9}
    assert always(presence_penalty=0.1) == always(frequency_penalty=0.1) == {9}
    assert always(logit_bias={7: 0.5}) == {7}
    assert always(logit_bias={7: 0.5}, presence_penalty=0.1) == {7, 9}


def test_left_out_logits_are_no_damage_and_others_are() -> None:
    ids = np.array([4, 7])
    token = sampler_of((0,)).pick(Candidates(np.array([2, 1], np.float32), ids, threshold=1))
    assert token is not None
    assert token.id == 4
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(BitNetError, match="not finite"):
            sampler_of((0,)).pick(Candidates(np.array([2, value], np.float32), ids, threshold=1))
