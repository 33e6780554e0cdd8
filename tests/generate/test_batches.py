"""Several prompts and several answers at once, when answers may end, prefilled answers, and progress of the prompt."""

import threading
from typing import Any

import pytest

from bitnet_numba import LanguageModel, SamplingParams
from bitnet_numba.backends.protocol import MAX_PREFILL_CHUNK
from bitnet_numba.errors import ParameterError
from bitnet_numba.generate.engine import Engine
from tests.fakes import (
    EOS,
    TURN_END,
    ByteDecoder,
    ByteTokenizer,
    FakeBackend,
    always_answering,
    fake_model,
    generated,
    model_that_says,
    random_logits,
    sequence_of,
)

PROMPTS = ["Once upon a time", "The dog", "One day"]


# ---- several at once -------------------------------------------------------------------------------------------------
def test_a_stream_of_a_batch_gives_each_ones_chunks(demo: LanguageModel) -> None:
    params = [SamplingParams(max_tokens=n, temperature=t, seed=1) for n, t in ((9, 0.0), (14, 1.0), (4, 0.5))]
    texts, results = [""] * 3, {}
    for index, chunk in demo.stream_batch(PROMPTS, params):
        texts[index] += chunk.text
        if chunk.result is not None:
            assert index not in results
            results[index] = chunk.result
    expected = [demo.generate(prompt, one) for prompt, one in zip(PROMPTS, params, strict=True)]
    assert texts == [result.text for result in expected]
    assert [results[index].token_ids for index in range(3)] == [result.token_ids for result in expected]


def test_a_batch_can_be_left() -> None:
    with fake_model(FakeBackend(random_logits)) as model:
        stream = model.stream_batch(["ab", "cd"], max_tokens=50)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert model.engine.n_running == 0


def test_an_error_of_one_ends_the_batch() -> None:
    def logits_of(tokens: Any) -> Any:
        if list(tokens) == [100, 101]:
            raise ValueError("this one")
        return random_logits(tokens)

    with fake_model(FakeBackend(logits_of)) as model:
        with pytest.raises(ValueError, match="this one"):
            list(model.stream_batch([[1, 2], [100, 101]], max_tokens=50))
        assert model.engine.n_running == 0


def test_n_answers_are_those_of_the_seeds_that_follow(demo: LanguageModel) -> None:
    answers = demo.generate_batch(PROMPTS[:2], n=3, temperature=1.0, seed=5, max_tokens=8)
    expected = [
        demo.generate(prompt, temperature=1.0, seed=5 + i, max_tokens=8) for prompt in PROMPTS[:2] for i in range(3)
    ]
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
    assert len({answer.text for answer in answers[:3]}) > 1
    largest = demo.generate_batch(PROMPTS[:1], n=2, temperature=1.0, seed=2**64 - 1, max_tokens=3)
    assert largest[1].token_ids == demo.generate(PROMPTS[0], temperature=1.0, seed=0, max_tokens=3).token_ids


def test_n_without_a_seed_draws_anew() -> None:
    with fake_model(FakeBackend(random_logits)) as model:
        answers = model.generate_batch(["ab"], n=4, temperature=1.0, max_tokens=20)
    assert len({tuple(answer.token_ids) for answer in answers}) == 4


@pytest.mark.parametrize(("n", "temperature"), [(0, 1.0), (-1, 1.0), (True, 1.0), (1.5, 1.0), (2, 0.0)])
def test_n_that_makes_no_sense_is_refused(n: Any, temperature: float) -> None:
    with fake_model(FakeBackend(random_logits)) as model, pytest.raises(ParameterError, match=r"^n="):
        model.generate_batch(["ab"], n=n, temperature=temperature)


# ---- when an answer ends ---------------------------------------------------------------------------------------------
def test_stop_token_ids_end_an_answer_and_are_named() -> None:
    with model_that_says("abcdef") as model:
        result = model.generate("xy", stop_token_ids=[100, 200])
        assert (result.text, result.finish_reason, result.stop_reason) == ("abc", "stop_token", 100)
        assert bytes(result.token_ids) == b"abc"
        ignoring = model.generate("xy", stop_token_ids=[101], ignore_eos=True, max_tokens=9)
        assert (ignoring.text, ignoring.stop_token_id) == ("abcd", 101)


@pytest.mark.parametrize("ids", [["a"], "12", [-1], [1.5], [True], 7, [[1]]])
def test_stop_token_ids_are_ids(ids: Any) -> None:
    with pytest.raises(ParameterError, match="stop_token_ids"):
        SamplingParams(stop_token_ids=ids)


def test_a_stop_token_outside_the_vocabulary_is_refused() -> None:
    with model_that_says("abc") as model, pytest.raises(ParameterError, match="stop_token_ids: the vocabulary has"):
        model.generate("xy", stop_token_ids=[10**6])


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 2}, {"temperature": 1.0, "top_k": 4, "seed": 2}])
def test_min_tokens_forbids_ends_for_a_while(sampling: dict[str, Any]) -> None:
    engine = Engine(FakeBackend(always_answering([65, 66], 3)))  # then nothing but the end, at 5 to 0
    for min_tokens in (3, 6):
        result = generated(engine, [1, 2, 3], ByteTokenizer.eos_ids, min_tokens=min_tokens, max_tokens=40, **sampling)
        assert len(result.token_ids) >= min_tokens
        assert not {EOS, TURN_END} & set(result.token_ids)
    greedy = generated(engine, [1, 2, 3], ByteTokenizer.eos_ids, min_tokens=6, max_tokens=40)
    assert (greedy.token_ids, greedy.stop_reason) == ([65, 66, 0, 0, 0, 0], EOS)


def test_min_tokens_forbids_stop_tokens_too_and_leaves_the_rest(demo: LanguageModel) -> None:
    plain = demo.generate("Once upon a time", max_tokens=40)
    stop = plain.token_ids[5]
    ended = demo.generate("Once upon a time", max_tokens=40, stop_token_ids=[stop])
    assert ended.token_ids == plain.token_ids[: plain.token_ids.index(stop)]
    later = demo.generate("Once upon a time", max_tokens=40, stop_token_ids=[stop], min_tokens=20)
    assert stop not in later.token_ids[:20]
    assert len(later.token_ids) >= 20
    unused = next(token for token in range(100, 1000) if token not in plain.token_ids)
    same = demo.generate("Once upon a time", max_tokens=40, stop_token_ids=[unused], min_tokens=40, lookup=4)
    assert same.token_ids == plain.token_ids


def test_min_tokens_above_max_tokens_is_refused() -> None:
    with pytest.raises(ParameterError, match="min_tokens=9: is above max_tokens=8"):
        SamplingParams(min_tokens=9, max_tokens=8)


# ---- prefill and progress --------------------------------------------------------------------------------------------
def test_a_prefilled_answer_goes_on() -> None:
    with fake_model(FakeBackend(random_logits)) as model:
        turns = [{"role": "user", "content": "Hi"}]
        ids = model.chat_ids(turns, "Sure")
        assert ids == [*model.chat_ids(turns), *b"Sure"]
        expected = model.generate(ids, max_tokens=5)
        assert model.chat(turns, prefill="Sure", max_tokens=5).token_ids == expected.token_ids
        streamed = list(model.stream_chat(turns, prefill="Sure", max_tokens=5))
        assert "".join(chunk.text for chunk in streamed) == expected.text


def test_progress_tells_how_much_of_the_prompt_is_read() -> None:
    told: list[tuple[int, int]] = []
    with fake_model(FakeBackend(random_logits, 2000)) as model:
        prompt = [7] * (2 * MAX_PREFILL_CHUNK + 10)
        model.generate(prompt, max_tokens=4, on_progress=lambda *progress: told.append(progress))
        assert told == [(n, len(prompt)) for n in (MAX_PREFILL_CHUNK, 2 * MAX_PREFILL_CHUNK, len(prompt))]
        told.clear()
        list(model.stream(prompt[:300], max_tokens=2, on_progress=lambda *progress: told.append(progress)))
        assert told[-1] == (300, 300)


def test_what_progress_raises_ends_the_generation() -> None:
    def stop(done: int, total: int) -> None:
        raise TimeoutError

    with fake_model(FakeBackend(random_logits)) as model:
        with pytest.raises(TimeoutError):
            model.generate("abc", on_progress=stop)
        assert model.generate("abc", max_tokens=2).generation_tokens == 2


# ---- another thread's step -------------------------------------------------------------------------------------------
class HeldDecoder(ByteDecoder):
    """Waits at the end of the text, in the middle of the step that ends a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.is_held, self.may_go = threading.Event(), threading.Event()

    def finish(self) -> str:
        self.is_held.set()
        assert self.may_go.wait(60)
        return super().finish()


def test_a_stream_waits_for_the_step_that_ends_it_in_another_thread() -> None:
    engine = Engine(FakeBackend(random_logits))
    decoder = HeldDecoder()
    sequence = engine.sequence([1], SamplingParams(max_tokens=2), eos_ids=frozenset(), decoder=decoder)
    stream = engine.stream(sequence)
    chunks = [next(stream)]
    other = threading.Thread(target=lambda: engine.generate([sequence_of(engine, [2], max_tokens=3)]))
    other.start()  # its first step ends the stream's sequence too
    assert decoder.is_held.wait(60)
    reader = threading.Thread(target=lambda: chunks.extend(stream))
    reader.start()
    reader.join(0.2)
    assert reader.is_alive()
    decoder.may_go.set()
    reader.join(60)
    other.join(60)
    assert chunks[-1].result is not None
    assert sum(chunks[-1].result.kernels.values()) == 2
    assert [token for chunk in chunks for token in chunk.token_ids] == chunks[-1].result.token_ids
