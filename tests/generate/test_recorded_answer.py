"""An answer that exists already is verified many tokens a step, with the bits that generating it has."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitnet_numba
from bitnet_numba import LanguageModel
from bitnet_numba.generate.hidden_digest import POSITIONS_PER_LEAF, HiddenDigest
from bitnet_numba.generate.result import GenerationResult
from bitnet_numba.generate.speculation import RecordedAnswer
from bitnet_numba.options import MAX_DRAFT_TOKENS, SamplingParams

PROMPT = "Once upon a time"
SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.8, "top_p": 0.9, "seed": 4},
    {"temperature": 0.9, "top_k": 20, "min_p": 0.02, "seed": 5, "frequency_penalty": 0.4},
    {"repetition_penalty": 1.3},
    {"stop": ["red"]},
]
COMPARED = ("text", "token_ids", "finish_reason", "stop_reason")


def run(model: LanguageModel, drafter: RecordedAnswer | None = None, **params: Any) -> GenerationResult:
    sampling = SamplingParams(**{"max_tokens": 60, **params})
    sequence = model.new_sequence(model.tokenize(PROMPT), sampling, drafter=drafter, record=True)
    return model.engine.generate([sequence])[0]


def outcome(result: GenerationResult) -> dict[str, Any]:
    assert result.record is not None
    return {name: getattr(result, name) for name in COMPARED} | {"leaves": result.record.hidden_leaves}


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_it_is_accepted_whole(demo: LanguageModel, sampling: dict[str, Any]) -> None:
    alone = run(demo, **sampling)
    verified = run(demo, RecordedAnswer(alone.token_ids, MAX_DRAFT_TOKENS), **sampling)
    assert outcome(verified) == outcome(alone)
    assert verified.accepted_tokens >= len(alone.token_ids) * MAX_DRAFT_TOKENS // (MAX_DRAFT_TOKENS + 1) - 1


@pytest.mark.parametrize("sampling", SAMPLINGS[:3], ids=str)
@pytest.mark.parametrize("wrong_at", [0, 1, 15, 16, 17, 31])
def test_a_wrong_token_is_rejected_and_changes_nothing(
    demo: LanguageModel, sampling: dict[str, Any], wrong_at: int
) -> None:
    alone = run(demo, **sampling)
    wrong = list(alone.token_ids)
    wrong[wrong_at] += 1
    verified = run(demo, RecordedAnswer(wrong, MAX_DRAFT_TOKENS), **sampling)
    assert outcome(verified) == outcome(alone)
    assert verified.accepted_tokens <= wrong_at


@pytest.mark.parametrize("sampling", SAMPLINGS[:5], ids=str)
def test_an_answer_goes_on_where_it_was_left(demo: LanguageModel, sampling: dict[str, Any]) -> None:
    whole = run(demo, **sampling)
    n_known = 2 * POSITIONS_PER_LEAF
    params = SamplingParams(max_tokens=POSITIONS_PER_LEAF, ignore_eos=True, **sampling)
    rest = demo.new_sequence(demo.tokenize(PROMPT), params, answer=whole.token_ids[:n_known], record=True)
    result = demo.engine.generate([rest])[0]
    assert result.token_ids[: len(whole.token_ids) - n_known] == whole.token_ids[n_known:][:POSITIONS_PER_LEAF]
    assert whole.record is not None
    assert result.record is not None
    assert result.record.hidden_leaves == whole.record.hidden_leaves[2:3]


def test_only_recorded_sequences_are_digested(demo: LanguageModel) -> None:
    assert demo.generate(PROMPT, max_tokens=2).record is None


def test_a_recorded_draw_has_a_seed(demo: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITNET_SEED", raising=False)
    params = SamplingParams(temperature=1.0, max_tokens=4)
    first, second = (demo.new_sequence([1], params, record=True).params.seed for _ in range(2))
    assert first is not None
    assert first != second


def test_leaves_do_not_depend_on_threads_or_company() -> None:
    with bitnet_numba.load("demo", threads=2) as model:
        expected = [outcome(run(model, **sampling)) for sampling in SAMPLINGS]
    with bitnet_numba.load("demo", threads=1, cached_prefixes=0) as model:
        ids = model.tokenize(PROMPT)
        params = [SamplingParams(**{"max_tokens": 60, **sampling}) for sampling in SAMPLINGS]
        results = model.engine.generate([model.new_sequence(ids, each, record=True) for each in params])
    assert [outcome(result) for result in results] == expected


@given(n_rows=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_a_leaf_is_the_hash_of_its_bits(n_rows: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((n_rows, 5)).astype(np.float32)
    digest = HiddenDigest()
    for row in rows:
        digest.add(row)
    stretches = [rows[i : i + POSITIONS_PER_LEAF] for i in range(0, n_rows, POSITIONS_PER_LEAF)]
    assert digest.leaves() == [hashlib.sha256(b"\0" + part.astype("<f4").tobytes()).hexdigest() for part in stretches]
