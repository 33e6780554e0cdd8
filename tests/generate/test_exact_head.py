"""Candidates of the exact head against all logits: the same tokens for every way of sampling."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.result import GenerationResult
from bitnet_numba.generate.sampling import sampler as sampler_room
from tests import fakes
from tests.generate.running import cpu_backend
from tests.generate.sampling.sampling_backends import any_sampling
from tests.tiny import toy_model

VOCAB = 301
SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Heads:
    """One model, with each head mode."""

    exact: Engine
    full: Engine


OTHER_TYPES = [pytest.param(kind, marks=pytest.mark.slow) for kind in (TensorType.BF16, TensorType.F32)]


@pytest.fixture(scope="module", params=[TensorType.F16, *OTHER_TYPES], ids=lambda kind: kind.name)
def heads(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heads]:
    folder = tmp_path_factory.mktemp("heads")
    path = toy_model(embedding_type=request.param, vocab_size=VOCAB).gguf().write(folder / "toy.gguf")
    found = Heads(*(Engine(cpu_backend(path, head=head)) for head in ("exact", "full")))
    yield found
    found.exact.close()
    found.full.close()


def generated(engine: Engine, text: int, **sampling: Any) -> GenerationResult:
    prompt = np.random.default_rng(text).integers(0, VOCAB, 5).tolist()
    return fakes.generated(engine, prompt, **{"max_tokens": 12, **sampling})


# ---- the same text ---------------------------------------------------------------------------------------------------
@given(sampling=any_sampling(VOCAB), seed=SEEDS)
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
        patch.setattr(sampler_room, "TOP_P_MARGIN", beyond)
        exact = generated(heads.exact, 0, **sampling)
    full = generated(heads.full, 0, **sampling)
    assert exact.token_ids == full.token_ids
    assert exact.accepted_tokens == full.accepted_tokens


def test_steps_that_are_read_again_are_counted_in_full(heads: Heads) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_room, "TOP_P_MARGIN", 0.0)
        result = generated(heads.exact, 0, temperature=1.0, top_p=0.99, seed=0)
    # open, full; then after 1, 3 and 5 (of 7) more in full
    assert result.kernels["head_rescore"] == 3
    assert 3 * (VOCAB + 1) <= result.rescored_rows < 3.5 * VOCAB
    assert result.kernels["embedding_lookup"] == 12 + 3


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_draft_tokens_are_sampled_from_candidates(heads: Heads, temperature: float, penalty: float) -> None:
    """A step with draft tokens draws several times, and needs the tokens that any of its draws favours."""
    sampling = {"temperature": temperature, "presence_penalty": penalty}
    n_drafts = 0
    for seed in range(8):
        exact, full = (generated(engine, 0, lookup=3, seed=seed, **sampling) for engine in (heads.exact, heads.full))
        assert exact.token_ids == full.token_ids == generated(heads.exact, 0, seed=seed, **sampling).token_ids
        assert 0 < exact.rescored_rows < 12 * VOCAB / 2
        assert not any("head_gemv" in kernel for kernel in exact.kernels)
        n_drafts += exact.draft_tokens
    assert n_drafts > 20


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
    result = generated(heads.exact, 1, max_tokens=50, temperature=1000.0, min_p=0.5, seed=0)
    n_tries = result.kernels["head_rescore"]
    assert 2 <= n_tries <= 50 / 8  # rests for most steps, but not for ever
    assert result.rescored_rows == n_tries * VOCAB


@pytest.mark.slow
def test_heads_that_are_int8_already_have_no_copy(tmp_path: Path) -> None:
    engine = Engine(cpu_backend(toy_model(embedding_type=TensorType.Q8_0).gguf().write(tmp_path / "toy.gguf")))
    result = generated(engine, 0)
    engine.close()
    assert result.rescored_rows == 0
    assert result.kernels["int8_head_gemv"] == 12
