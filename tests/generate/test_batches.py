"""Several generations from one thread: each as it would be alone, in steps that they share."""

import itertools
import signal
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bitnet_numba
from bitnet_numba.errors import ParameterError
from bitnet_numba.generate import token_stream
from bitnet_numba.generate.generate import generate_together
from bitnet_numba.generate.sampling_params import SamplingParams
from bitnet_numba.generate.shared import SharedTransformer
from bitnet_numba.generate.token_stream import TokenStream
from tests.generate.fakes import ByteDecoder, FakeCache, FakeTransformer, fake_model, random_logits
from tests.generate.recording import RecordingTransformer, held_up, wait_until


@pytest.mark.parametrize("n", [1, 2, 7])
def test_generations_together_are_those_alone(n: int) -> None:
    transformer = RecordingTransformer()
    prompts = [[97 + place, *range(place)] for place in range(n)]
    with fake_model(transformer) as model:
        alone = [model.generate(prompt, max_tokens=20, temperature=1, seed=3) for prompt in prompts]
        transformer.steps.clear()
        together = model.generate_batch(prompts, max_tokens=20, temperature=1, seed=3)
    assert [result.text for result in together] == [result.text for result in alone]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]
    assert max(map(len, transformer.steps)) <= n
    assert sum(map(sum, transformer.steps)) == sum(
        result.prompt_tokens + result.generation_tokens - (result.finish_reason == "length") for result in alone
    )


def test_several_sequences_share_the_steps_of_a_real_model() -> None:
    prompts = ["Once upon a time", "The dog", "One day, Tom and his mom went to the"]
    with bitnet_numba.load() as model:
        alone = [model.generate(prompt, max_tokens=24) for prompt in prompts]
        together = model.generate_batch(prompts, max_tokens=24)
    assert [result.text for result in together] == [result.text for result in alone]
    for result in together:
        assert result.kernels[f"i2s_gemm_{model.isa}"] > 0  # several tokens at once


def test_a_batch_is_refused_as_a_whole() -> None:
    transformer = RecordingTransformer()
    with fake_model(transformer) as model:
        with pytest.raises(ParameterError, match="prompt is empty"):
            model.generate_batch(["a", ""])
        with pytest.raises(ParameterError, match=r"^prompts: expected a list of prompts, got one text"):
            model.generate_batch("text")
        assert model.generate_batch([]) == []
    assert transformer.steps == []


def test_a_failure_ends_all_generations() -> None:
    def failing(tokens: Sequence[int]) -> NDArray[np.float32]:
        if 99 in tokens:
            raise ValueError("too hot")
        return random_logits(tokens)

    with fake_model(FakeTransformer(failing)) as model:
        with pytest.raises(ValueError, match="too hot"):
            model.generate_batch([[1], [99], [2]], max_tokens=50)
        assert model.generate([5], max_tokens=2).generation_tokens == 2


def streams_of(
    shared: SharedTransformer[FakeCache], prompts: Sequence[Sequence[int]], max_tokens: Sequence[int]
) -> list[tuple[TokenStream[FakeCache], ByteDecoder, float]]:
    return [
        (TokenStream(shared, prompt, SamplingParams(max_tokens=most), frozenset()), ByteDecoder(), 0.0)
        for prompt, most in zip(prompts, max_tokens, strict=True)
    ]


def test_all_run_in_the_thread_that_calls() -> None:
    seen: set[tuple[int, int]] = set()

    def watching(tokens: Sequence[int]) -> NDArray[np.float32]:
        seen.add((threading.get_ident(), threading.active_count()))
        return random_logits(tokens)

    with fake_model(FakeTransformer(watching)) as model:
        model.generate_batch(["a", "b", "c"], max_tokens=5)
    assert seen == {(threading.get_ident(), threading.active_count())}


def test_a_long_prompt_holds_up_nobody() -> None:
    transformer = RecordingTransformer()
    transformer.config.max_seq_len = 1000
    shared = SharedTransformer(transformer)
    short, long = generate_together(streams_of(shared, [[1], [2] * 600], [2, 3]))
    assert (short.generation_tokens, long.generation_tokens) == (2, 3)
    assert transformer.steps == [[1, 256], [1, 256], [88], [1], [1]]


def test_nobody_is_waited_for_who_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = RecordingTransformer()
    shared = SharedTransformer(transformer)

    def wait(_seconds: float) -> bool:
        pytest.fail("a step waited")

    monkeypatch.setattr(shared._scheduler._all_arrived, "wait", wait)
    generate_together(streams_of(shared, [[1], [2], [3]], [1, 2, 4]))
    assert transformer.steps == [[1] * 3, [1] * 2, [1], [1]]


def test_a_step_lasts_until_a_sequence_has_its_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(token_stream.time, "perf_counter", lambda: float(next(ticks)))
    shared = SharedTransformer(FakeTransformer(random_logits))
    first, second = generate_together(streams_of(shared, [[1], [2]], [3, 3]))
    assert (first.first_token_ms, second.first_token_ms) == (2000, 3000)  # it begins when the first asks
    assert (first.generation_tps, second.generation_tps) == (
        1 / 3,
        1 / 2.5,
    )  # the other's choices among it


def test_what_a_failure_ends_is_not_kept() -> None:
    def failing(tokens: Sequence[int]) -> NDArray[np.float32]:
        return np.full(260, np.nan, np.float32) if tokens[0] == 99 and len(tokens) > 21 else random_logits(tokens)

    shared = SharedTransformer(FakeTransformer(failing))
    prompts = [[place] * 20 for place in (1, 99, 2)]
    with pytest.raises(bitnet_numba.BitNetError, match="not finite"):
        generate_together(streams_of(shared, prompts, [9, 9, 9]))
    assert [result.cached_tokens for result in generate_together(streams_of(shared, prompts, [1] * 3))] == [0] * 3


def test_an_interrupted_step_ends_all_and_leaves_the_model_usable() -> None:
    def interrupted(tokens: Sequence[int]) -> Any:
        if tokens[0] == 3 and len(tokens) == 4:
            raise KeyboardInterrupt
        return random_logits(tokens)

    transformer = RecordingTransformer(interrupted)
    shared = SharedTransformer(transformer)
    with pytest.raises(KeyboardInterrupt):
        generate_together(streams_of(shared, [[2], [3]], [9, 9]))
    assert transformer.steps == [[1, 1]] * 4
    assert [result.generation_tokens for result in generate_together(streams_of(shared, [[2], [3]], [3, 3]))] == [3, 3]


def test_an_interrupt_is_heard_while_another_thread_leads() -> None:
    transformer = RecordingTransformer()
    shared = SharedTransformer(transformer)
    scheduler = shared._scheduler
    first = held_up(transformer, scheduler)
    main = threading.get_ident()

    def interrupt() -> None:
        wait_until(lambda: len(scheduler._waiting) == 2)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        generate_together(streams_of(shared, [[1], [2]], [9, 9]))
    thread.join(60)
    assert len(scheduler._waiting) == 1
    transformer.may_begin.set()
    assert first.wait().failure is None
    assert transformer.steps == [[1]]


def test_batches_of_several_threads_are_those_of_one() -> None:
    transformer = RecordingTransformer()
    transformer.config.max_seq_len = 1000
    batches = [[[batch, place] * (250 * (place == 2) + 1 + place) for place in range(4)] for batch in range(3)]
    sampling: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "seed": 1, "lookup": 3}
    together: dict[int, list[list[int]]] = {}
    with fake_model(transformer, kept_prefixes=0) as model:
        alone = [[model.generate(prompt, **sampling).token_ids for prompt in batch] for batch in batches]
        transformer.steps.clear()

        def run(number: int) -> None:
            together[number] = [result.token_ids for result in model.generate_batch(batches[number], **sampling)]

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [together[number] for number in range(3)] == alone
    assert max(map(len, transformer.steps)) > 4  # steps were shared
