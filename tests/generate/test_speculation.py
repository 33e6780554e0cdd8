"""Prompt-lookup speculation: draft tokens never change the result that one token a step gives."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitnet_numba import LanguageModel
from bitnet_numba.backends.cpu.forward.arrays import MAX_CANDIDATE_TOKENS
from bitnet_numba.errors import BitNetError
from bitnet_numba.generate import engine as engine_module
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.result import GenerationResult
from bitnet_numba.generate.speculation import MAX_NGRAM, PromptLookup
from bitnet_numba.options import MAX_DRAFT_TOKENS
from tests.both_backends import load
from tests.fakes import (
    CONTEXT,
    EOS,
    VOCAB_SIZE,
    FakeBackend,
    always_answering,
    generated,
    sequence_of,
)
from tests.tiny import toy_model

TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=40)
SEEDS = st.integers(0, 2**32 - 1)
LOOKUPS = st.sampled_from([1, 2, 5, MAX_DRAFT_TOKENS])
SAMPLING = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.0, 0.3, 1.0]),
        "top_k": st.sampled_from([0, 0, 3, 40]),
        "top_p": st.sampled_from([1.0, 0.9]),
        "min_p": st.sampled_from([0.0, 0.05]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.3, 0.7]),
        "frequency_penalty": st.sampled_from([0.0, 0.0, 0.4, -2.0]),
        "presence_penalty": st.sampled_from([0.0, 0.0, 1.0]),
        "logit_bias": st.dictionaries(st.integers(0, 9), st.sampled_from([-100.0, 2.0]), max_size=2),
        "seed": SEEDS,
        "max_tokens": st.integers(1, 30),
        "logprobs": st.sampled_from([None, None, 2]),
        "stop": st.lists(st.text("abc", min_size=1, max_size=3), max_size=2),
    }
)
OBSERVED = ("text", "token_ids", "finish_reason", "logprobs", "generation_tokens", "prompt_tokens")


def observed(result: GenerationResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in OBSERVED}


# ---- proposals -------------------------------------------------------------------------------------------------------
@given(text=TEXTS, most=st.integers(1, MAX_DRAFT_TOKENS))
def test_what_followed_the_longest_known_end_is_proposed(text: list[int], most: int) -> None:
    guess = PromptLookup(MAX_DRAFT_TOKENS, text).draft(most)
    for length in range(min(MAX_NGRAM, len(text) - 1), 0, -1):
        ends = [i for i in range(length, len(text)) if text[i - length : i] == text[-length:]]
        if ends:
            following = list(text[ends[-1] :])
            while len(following) < most:  # a text that repeats itself goes on doing so
                following += following
            assert guess == following[:most]
            return
    assert guess == []


@given(text=TEXTS, more=TEXTS)
def test_tokens_that_come_later_are_looked_up_too(text: list[int], more: list[int]) -> None:
    lookup = PromptLookup(MAX_DRAFT_TOKENS, text)
    for token_id in more:
        assert lookup.verify(token_id) == 0
    assert lookup.draft(9) == PromptLookup(MAX_DRAFT_TOKENS, text + more).draft(9)


def test_wrong_tokens_are_counted_and_guesses_go_with_luck() -> None:
    lookup = PromptLookup(8, [1, 2, 3, 4, 5, 6, 7, 8, 9, 1])
    assert lookup.draft(15) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert [lookup.verify(token) for token in (2, 3, 0)] == [0, 0, 6]
    assert (lookup.draft_tokens, lookup.accepted_tokens) == (8, 2)
    assert lookup.draft(15) == []
    assert lookup.verify(4) == 0
    assert lookup.draft(15) == [5, 6, 7]
    assert [lookup.verify(token) for token in (5, 6, 7, 8)] == [0, 0, 0, 0]
    assert len(lookup.draft(15)) == 6
    assert (lookup.draft_tokens, lookup.accepted_tokens) == (17, 5)


def test_switched_off_it_proposes_nothing() -> None:
    lookup = PromptLookup(0, [1, 1, 1])
    assert lookup.draft(5) == []
    assert lookup.verify(1) == 0


# ---- steps -----------------------------------------------------------------------------------------------------------
def repeating_logits(tokens: Sequence[int]) -> NDArray[np.float32]:
    """Logits that look random, but go by the last two tokens and prefer a few, so that texts repeat themselves."""
    rng = np.random.default_rng(list(tokens[-2:]))
    logits = rng.standard_normal(VOCAB_SIZE).astype(np.float32)
    logits[97:100] += 5
    logits[EOS] += 2
    return logits


@given(prompt=TEXTS, lookup=LOOKUPS, sampling=SAMPLING, max_context=st.sampled_from([CONTEXT, 45]))
def test_the_result_is_that_of_one_token_a_step(
    prompt: list[int], lookup: int, sampling: dict[str, Any], max_context: int
) -> None:
    def run(**more: Any) -> GenerationResult:
        model = Engine(FakeBackend(repeating_logits, max_context))
        return generated(model, prompt, frozenset({EOS}), **sampling, **more)

    plain, proposed = run(), run(lookup=lookup)
    assert observed(proposed) == observed(plain)
    assert plain.draft_tokens == 0
    assert proposed.accepted_tokens <= min(proposed.draft_tokens, proposed.generation_tokens)


@given(sampling=SAMPLING, lookup=LOOKUPS)
def test_what_is_kept_is_what_was_given_out(sampling: dict[str, Any], lookup: int) -> None:
    fake = FakeBackend(repeating_logits)
    model = Engine(fake)
    prompt = [97, 98] * 6
    first = generated(model, prompt, frozenset({EOS}), **sampling, lookup=lookup)
    kept = fake.caches[0].tokens
    assert kept == [*prompt, *first.token_ids][: len(kept)]
    assert len(kept) >= len(prompt) + len(first.token_ids) - 1 - bool(sampling["stop"])


def test_several_tokens_come_of_one_step() -> None:
    text = list(b"abcdefgh" * 4)
    fake = FakeBackend(always_answering(text, 16))
    result = generated(Engine(fake), text[:16], frozenset({EOS}), lookup=7)
    assert result.text == "abcdefgh" * 4
    assert (result.draft_tokens, result.accepted_tokens) == (28, 28)
    assert sum(result.kernels.values()) == 1 + 4  # 1 + 3 * (7 + 1) + 7 tokens, and the end
    assert result.generation_tps > 0


def test_all_tokens_of_the_steps_after_the_first_are_counted_in_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Engine(FakeBackend(always_answering(list(b"abababab"), 4)))
    ticks = iter(0.5 * i for i in range(100))
    monkeypatch.setattr(engine_module.time, "perf_counter", lambda: next(ticks))
    result = generated(model, list(b"abab"), max_tokens=8, lookup=3)
    assert result.first_token_ms == 500
    assert result.generation_tps == 7  # two steps of half a second gave the other seven


def test_damage_in_what_was_proposed_in_vain_is_none() -> None:
    prompt = [7, 1, 2, 3, 7, 1, 2, 7]

    def answer(*token_ids: int) -> GenerationResult:
        def logits_of(tokens: Sequence[int]) -> NDArray[np.float32]:
            if tokens[8:10] == [1, 2]:
                return np.full(VOCAB_SIZE, np.nan, np.float32)
            return always_answering(token_ids, 8)(tokens)

        return generated(Engine(FakeBackend(logits_of)), prompt, max_tokens=3, lookup=4)

    assert answer(1, 9, 9).token_ids == [1, 9, 9]
    with pytest.raises(BitNetError, match="infinite or NaN"):
        answer(1, 2, 9)


def test_text_comes_piece_by_piece_as_before() -> None:
    text = list(b"abcd" * 5)
    model = Engine(FakeBackend(always_answering(text, 8)))
    sequence = sequence_of(model, text[:8], frozenset({EOS}), lookup=15)
    assert [chunk.text for chunk in model.stream(sequence)] == [*"abcd" * 5, ""]


# ---- models ----------------------------------------------------------------------------------------------------------
def test_as_many_are_proposed_as_the_head_screens_with_the_token_before() -> None:
    assert MAX_DRAFT_TOKENS == MAX_CANDIDATE_TOKENS - 1


@pytest.fixture(scope="module", params=[("cpu", "exact"), ("cpu", "full"), ("numpy", "full")], ids="-".join)
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    kind, head = request.param
    path = toy_model(max_seq_len=300).gguf().write(tmp_path_factory.mktemp("toy") / "toy.gguf")
    model = Engine(load(kind, path, head=head, kv_type="int8"))
    yield model
    model.close()


@given(sampling=SAMPLING, lookup=LOOKUPS, seed=SEEDS, n_prompt=st.sampled_from([3, 20, 250, 290]))
def test_a_model_says_the_same(toy: Engine, sampling: dict[str, Any], lookup: int, seed: int, n_prompt: int) -> None:
    rng = np.random.default_rng(seed)
    prompt = np.resize(rng.integers(0, 64, min(9, n_prompt)), n_prompt).tolist()
    plain, proposed = (generated(toy, prompt, **sampling, lookup=most) for most in (0, lookup))
    assert observed(proposed) == observed(plain)


@given(
    sampling=SAMPLING,
    lookup=LOOKUPS,
    seed=SEEDS,
    lengths=st.lists(st.sampled_from([3, 20, 290]), min_size=2, max_size=4),
)
def test_sequences_whose_steps_are_shared_say_the_same(
    toy: Engine, sampling: dict[str, Any], lookup: int, seed: int, lengths: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    prompts = [np.resize(rng.integers(0, 64, min(9, length)), length).tolist() for length in lengths]
    plain = [generated(toy, prompt, **sampling) for prompt in prompts]
    together = toy.generate([sequence_of(toy, prompt, **sampling, lookup=lookup) for prompt in prompts])
    assert [observed(result) for result in together] == [observed(result) for result in plain]


STORY = "Max is a big dog. Max likes to play. Max is a big dog. Max likes"


def n_steps(result: GenerationResult) -> int:
    """Steps that a generation took part in: each one looks its tokens' embeddings up."""
    return result.kernels.get("embedding_lookup") or result.kernels["numpy_embedding"]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 5, "top_k": 40}, {"repetition_penalty": 1.1}])
def test_the_embedded_model_says_the_same_in_fewer_steps(demo: LanguageModel, sampling: dict[str, Any]) -> None:
    plain, proposed = (demo.generate(STORY, max_tokens=120, **sampling, lookup=most) for most in (0, 15))
    assert observed(proposed) == observed(plain)
    assert proposed.accepted_tokens > 0
    assert n_steps(proposed) == n_steps(plain) - proposed.accepted_tokens


def test_the_embedded_model_says_the_same_to_several_at_once(demo: LanguageModel) -> None:
    prompts = [STORY, "Once upon a time", "Lily has a red ball. Tom has a red ball. Lily has", STORY[:40]]
    plain = [demo.generate(prompt, max_tokens=80) for prompt in prompts]
    together = demo.generate_batch(prompts, max_tokens=80, lookup=7)
    assert [observed(result) for result in together] == [observed(result) for result in plain]
    assert sum(result.accepted_tokens for result in together) > 0
    assert demo.isa == "numpy" or any(name.startswith("i2s_gemm") for name in together[1].kernels)
    most = max(map(n_steps, together))
    alone = sum(n_steps(result) - result.accepted_tokens for result in plain)
    assert most < alone  # steps were shared
