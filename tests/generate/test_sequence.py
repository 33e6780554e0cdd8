"""Tokens, streams of text and results, on a backend whose answers are known."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import ResourceError
from bitnet_numba.generate import engine as engine_module
from bitnet_numba.generate import memory_check
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.memory_check import peak_memory_mb
from bitnet_numba.generate.result import Chunk, GenerationResult
from tests.fakes import (
    CONTEXT,
    EOS,
    GEMM,
    GEMV,
    TURN_END,
    VOCAB_SIZE,
    ByteTokenizer,
    FakeBackend,
    always_answering,
    generated,
    random_logits,
    sequence_of,
)

PROMPT = [1, 2, 3]


def engine_that_says(answer: str | Sequence[int], prompt: Sequence[int] = PROMPT) -> Engine:
    ids = list(answer.encode()) if isinstance(answer, str) else answer
    return Engine(FakeBackend(always_answering(ids, len(prompt))), load_ms=12.5)


def result_of(answer: str | Sequence[int], prompt: Sequence[int] = PROMPT, **params: Any) -> GenerationResult:
    return generated(engine_that_says(answer, prompt), prompt, ByteTokenizer.eos_ids, **params)


def chunks_of(answer: str | Sequence[int], **params: Any) -> list[Chunk]:
    engine = engine_that_says(answer)
    return list(engine.stream(sequence_of(engine, PROMPT, ByteTokenizer.eos_ids, **params)))


def pieces_of(answer: str | Sequence[int], **params: Any) -> list[str]:
    return [chunk.text for chunk in chunks_of(answer, **params)]


# ---- tokens ----------------------------------------------------------------------------------------------------------
def test_tokens_end_before_an_end_of_sequence_token() -> None:
    for end in (EOS, TURN_END):
        result = result_of([65, 66, end, 67])
        assert result.token_ids == [65, 66]
        assert (result.finish_reason, result.stop_reason, result.stop_token_id) == ("stop_token", end, end)


def test_tokens_end_at_max_tokens() -> None:
    result = result_of("abcdef", max_tokens=4)
    assert bytes(result.token_ids) == b"abcd"
    assert result.finish_reason == "length"


def test_ends_of_sequence_can_be_ignored() -> None:
    result = result_of([65, EOS, 66], max_tokens=5, ignore_eos=True)
    assert result.token_ids == [65, EOS, 66, EOS, EOS]
    assert result.finish_reason == "length"


@pytest.mark.parametrize("prompt_tokens", [1, CONTEXT - 5, CONTEXT])
def test_a_full_context_ends_the_tokens(prompt_tokens: int) -> None:
    result = result_of([65] * 1000, prompt=[1] * prompt_tokens, max_tokens=10**9)
    assert result.generation_tokens == CONTEXT - prompt_tokens + 1  # the last token is not run: it needs no position
    assert (result.finish_reason, result.stop_reason) == ("context", None)


def test_refuses_a_prompt_that_does_not_fit_with_both_numbers() -> None:
    with pytest.raises(ResourceError, match=r"the prompt has 65 tokens, the context holds 64: shorten it$"):
        result_of("a", prompt=[1] * (CONTEXT + 1))


@pytest.mark.parametrize(("max_tokens", "capacity"), [(1, 3), (5, 7), (CONTEXT, CONTEXT), (10**9, CONTEXT)])
def test_the_cache_is_made_for_the_tokens_requested(max_tokens: int, capacity: int) -> None:
    backend = FakeBackend(random_logits)
    sequence_of(Engine(backend), PROMPT, max_tokens=max_tokens)
    assert [cache.capacity for cache in backend.caches] == [capacity]


def test_no_step_runs_before_its_token_is_needed() -> None:
    backend = FakeBackend(random_logits)
    engine = Engine(backend)
    chunks = engine.stream(sequence_of(engine, PROMPT, max_tokens=2))
    assert backend.steps == []
    assert [len(backend.steps) for _ in chunks] == [1, 2]


def test_logprobs_stand_beside_their_tokens() -> None:
    result = result_of([65, 66, EOS], logprobs=2)
    assert result.logprobs is not None
    assert [entry.token_id for entry in result.logprobs] == [65, 66]
    assert [entry.top[0][0] for entry in result.logprobs] == [65, 66]
    # one logit of 5 among zeros
    assert result.logprobs[0].logprob == pytest.approx(5 - np.log(np.exp(5) + VOCAB_SIZE - 1), abs=1e-5)


# ---- text ------------------------------------------------------------------------------------------------------------
def test_pieces_come_as_soon_as_they_are_known() -> None:
    assert pieces_of("abc") == ["a", "b", "c", ""]
    assert pieces_of("aé€😀") == ["a", "é", "€", "😀", ""]
    assert pieces_of("one<end>two", stop=["<end>"]) == ["o", "n", "e", ""]
    assert pieces_of("one<en", stop=["<end>"]) == ["o", "n", "e", "<en"]
    assert pieces_of("aé".encode()[:-1]) == ["a", "\N{REPLACEMENT CHARACTER}"]
    assert pieces_of([EOS]) == [""]


@given(text=st.text("ab<é", max_size=20), stops=st.lists(st.text("ab<é", min_size=1, max_size=3), max_size=3))
def test_text_ends_where_the_first_stop_begins(text: str, stops: list[str]) -> None:
    result = result_of(text, stop=stops)
    expected = min((text[: text.find(stop)] for stop in stops if stop in text), key=len, default=text)
    assert result.text == expected == "".join(pieces_of(text, stop=stops))
    assert result.finish_reason == ("stop_token" if expected == text else "stop_string")
    if expected != text:
        assert text.startswith(str(result.stop_reason), len(expected))
        assert result.stop_token_id is None


def test_no_step_follows_a_stop_string() -> None:
    result = result_of("one. two. three.", stop=". ")
    assert (result.text, result.generation_tokens) == ("one", len("one. "))
    assert bytes(result.token_ids) == b"one. "


def test_a_stop_string_cut_short_by_the_limit_is_text() -> None:
    result = result_of("abc<end>", stop=["<end>"], max_tokens=5)
    assert (result.text, result.finish_reason) == ("abc<e", "length")


def test_chunks_share_out_tokens_and_logprobs() -> None:
    chunks = chunks_of("é<x>é", stop=["<y>"], logprobs=0)
    assert [(chunk.text, bytes(chunk.token_ids).decode()) for chunk in chunks] == [
        ("é", "é"),
        ("<x", "<x"),
        (">", ">"),
        ("é", "é"),
        ("", ""),
    ]
    assert [[entry.token_id for entry in chunk.logprobs or ()] for chunk in chunks] == [c.token_ids for c in chunks]
    assert [chunk.result is not None for chunk in chunks] == [False] * 4 + [True]


# ---- result ----------------------------------------------------------------------------------------------------------
def test_the_result_holds_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.5, 10.0, 10.1, 20.0, 20.1, 30.0, 30.2])  # what passes between steps must not count
    monkeypatch.setattr(engine_module.time, "perf_counter", lambda: next(ticks))
    result = result_of("abc", logprobs=None)
    observed = result.to_dict()
    assert observed.pop("peak_memory_mb") > 0
    assert observed.pop("generation_tps") == pytest.approx(3 / 0.4)  # two tokens and the end of the sequence
    assert observed == {
        "text": "abc",
        "token_ids": [97, 98, 99],
        "finish_reason": "stop_token",
        "stop_reason": EOS,
        "logprobs": None,
        "prompt_tokens": 3,
        "generation_tokens": 3,
        "cached_tokens": 0,
        "prompt_tps": 6.0,
        "first_token_ms": 500.0,
        "load_ms": 12.5,
        "kernels": {GEMM: 1, GEMV: 3},
        "threads": 2,
        "isa": "fake",
        "head": "full",
        "rescored_rows": 0,
        "draft_tokens": 0,
        "accepted_tokens": 0,
    }


def test_one_token_has_no_rate_of_generation() -> None:
    result = result_of("abc", max_tokens=1)
    assert (result.generation_tokens, result.generation_tps) == (1, 0.0)
    assert result.prompt_tps > 0


def test_the_result_is_json() -> None:
    result = result_of("abc", logprobs=1)
    parsed = json.loads(json.dumps(result.to_dict()))
    assert list(parsed) == [
        "text",
        "token_ids",
        "finish_reason",
        "stop_reason",
        "logprobs",
        "prompt_tokens",
        "generation_tokens",
        "cached_tokens",
        "prompt_tps",
        "generation_tps",
        "first_token_ms",
        "load_ms",
        "peak_memory_mb",
        "kernels",
        "threads",
        "isa",
        "head",
        "rescored_rows",
        "draft_tokens",
        "accepted_tokens",
    ]
    assert parsed["logprobs"][0]["token_id"] == 97
    assert parsed["logprobs"][0]["top"][0][0] == 97


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory_mb()
    held = np.ones(50_000_000, np.uint8)
    after = peak_memory_mb()
    assert held.all()
    assert after > 50
    assert after >= before


def test_peak_memory_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    linux = peak_memory_mb()
    told = {}
    for platform in ("freebsd", "darwin"):
        monkeypatch.setattr(memory_check, "sys", SimpleNamespace(platform=platform))
        told[platform] = peak_memory_mb()
    assert told["freebsd"] >= 0.9 * linux  # the kernel counts its two figures in batches
    assert told["darwin"] == pytest.approx(told["freebsd"] / 1024, rel=0.01)  # bytes there, kibibytes here
