"""Steps that many sequences share: which ones take part, in what order, and what an error or an interrupt ends."""

import gc
import itertools
import signal
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bitnet_numba import LanguageModel
from bitnet_numba.backends.protocol import MAX_PREFILL_CHUNK, MAX_STEP_TOKENS
from bitnet_numba.errors import BitNetError, ParameterError
from bitnet_numba.generate import engine as engine_module
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.sequence import MAX_UNREAD_CHUNKS
from tests.fakes import (
    GEMM,
    GEMV,
    Asking,
    FakeBackend,
    Floats,
    fake_model,
    generated,
    held_up,
    random_logits,
    sequence_of,
    wait_until,
)


def engine_of(logits_of: Any = random_logits, max_context: int = 2000, **arguments: Any) -> tuple[FakeBackend, Engine]:
    backend = FakeBackend(logits_of, max_context)
    return backend, Engine(backend, **arguments)


def best(tokens: Sequence[int]) -> int:
    """The token that greedy sampling takes after these."""
    return int(np.argmax(random_logits(tokens)))


# ---- threads ---------------------------------------------------------------------------------------------------------
def test_sequences_that_come_during_a_step_share_the_next() -> None:
    backend, engine = engine_of()
    first = held_up(backend, engine)
    others = [Asking(engine, [index, 7]) for index in range(5)]
    wait_until(lambda: engine.n_running == 6)
    backend.may_begin.set()
    assert first.wait().result.token_ids == [best([1])]
    for index, other in enumerate(others):
        assert other.wait().result.token_ids == [best([index, 7])]
        assert other.result.kernels == {GEMM: 1}
    assert backend.steps == [[1], [2] * 5]


def test_long_prompts_are_prefilled_in_chunks_beside_decoding() -> None:
    backend, engine = engine_of()
    decoding = sequence_of(engine, [9], max_tokens=9)
    prompts = [sequence_of(engine, [index] * 600, max_tokens=1) for index in range(3)]
    engine.generate([decoding, *prompts])
    assert backend.steps[:2] == [
        [1, MAX_PREFILL_CHUNK, MAX_STEP_TOKENS - MAX_PREFILL_CHUNK - 1],
        [1, MAX_PREFILL_CHUNK, MAX_STEP_TOKENS - MAX_PREFILL_CHUNK - 1],
    ]
    assert max(map(sum, backend.steps)) <= MAX_STEP_TOKENS
    assert [prompt.token_ids for prompt in prompts] == [[best([index] * 600)] for index in range(3)]


def test_prompts_are_prefilled_in_order_of_arrival() -> None:
    backend, engine = engine_of()
    first, second, third = (sequence_of(engine, [index] * 300, max_tokens=1) for index in range(3))
    engine.generate([third, second, first])
    assert backend.steps == [[256, 256], [44, 44, 256], [44]]


def test_prompts_wait_while_sequences_that_decode_fill_the_step() -> None:
    backend, engine = engine_of(cached_prefixes=0)
    results = engine.generate([sequence_of(engine, [5], max_tokens=4) for _ in range(MAX_STEP_TOKENS + 100)])
    assert len({tuple(result.token_ids) for result in results}) == 1
    assert list(map(len, backend.steps)) == [MAX_STEP_TOKENS] * 4 + [100] * 4


def test_sequences_whose_draft_tokens_do_not_fit_one_step_take_turns() -> None:
    backend, engine = engine_of(lambda _: np.eye(1, 260, 7, dtype=np.float32)[0], cached_prefixes=0)
    sequences = [sequence_of(engine, [7] * 9, max_tokens=300, lookup=15) for _ in range(40)]
    for sequence in sequences:
        engine.add(sequence)
    for _ in range(12):
        engine.step()
        lengths = [len(sequence.token_ids) for sequence in sequences]
        assert max(lengths) - min(lengths) <= 2 * 16
    assert max(map(sum, backend.steps)) == MAX_STEP_TOKENS
    assert max(map(max, backend.steps[1:])) == 16  # a chunk of draft tokens is not split


def test_sequences_of_several_threads_are_those_of_one() -> None:
    backend = FakeBackend(random_logits, 1000)
    batches = [[[batch, index] * (250 * (index == 2) + 1 + index) for index in range(4)] for batch in range(3)]
    sampling: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "seed": 1, "lookup": 3}
    together: dict[int, list[list[int]]] = {}
    with fake_model(backend, cached_prefixes=0) as model:
        alone = [[model.generate(prompt, **sampling).token_ids for prompt in batch] for batch in batches]
        backend.steps.clear()

        def run(number: int) -> None:
            together[number] = [result.token_ids for result in model.generate_batch(batches[number], **sampling)]

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [together[number] for number in range(3)] == alone
    assert max(map(len, backend.steps)) > 4  # steps were shared


def test_threads_that_stream_share_every_step() -> None:
    backend, engine = engine_of()
    first = held_up(backend, engine)
    texts: dict[int, str] = {}

    def run(number: int) -> None:
        texts[number] = "".join(chunk.text for chunk in engine.stream(sequence_of(engine, [number], max_tokens=30)))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: engine.n_running == 5)
    backend.may_begin.set()
    for thread in threads:
        thread.join(60)
    first.wait()
    assert backend.steps == [[1]] + [[1] * 4] * 30
    alone = [generated(engine, [number], max_tokens=30).text for number in range(4)]
    assert [texts[number] for number in range(4)] == alone


def test_a_stream_gets_its_chunks_while_another_thread_runs_step_after_step() -> None:
    """The thread that waits must not starve behind one that goes on with the next step at once."""
    _, engine = engine_of()
    endless = Asking(engine, [1], max_tokens=1500)
    chunks = engine.stream(sequence_of(engine, [2], max_tokens=20))
    n_steps = [len(endless.sequence.token_ids) for _ in chunks]
    assert len(n_steps) == 20
    assert not endless.sequence.is_done
    assert endless.wait().result.generation_tokens == 1500


# ---- one thread ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_batch_gives_what_each_prompt_gives_alone(n: int) -> None:
    backend = FakeBackend(random_logits)
    prompts = [[97 + index, *range(index)] for index in range(n)]
    with fake_model(backend) as model:
        alone = [model.generate(prompt, max_tokens=20, temperature=1, seed=3) for prompt in prompts]
        backend.steps.clear()
        together = model.generate_batch(prompts, max_tokens=20, temperature=1, seed=3)
    assert [result.text for result in together] == [result.text for result in alone]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]
    assert max(map(len, backend.steps)) <= n
    assert sum(map(sum, backend.steps)) == sum(
        result.prompt_tokens + result.generation_tokens - (result.finish_reason == "length") for result in alone
    )


def test_sequences_share_the_steps_of_a_real_model(demo: LanguageModel) -> None:
    prompts = ["Once upon a time", "The dog", "One day, Tom and his mom went to the"]
    alone = [demo.generate(prompt, max_tokens=24) for prompt in prompts]
    together = demo.generate_batch(prompts, max_tokens=24)
    assert [result.text for result in together] == [result.text for result in alone]
    embedding = next(name for name in together[0].kernels if "embedding" in name)  # runs once a step
    for result in together:
        assert result.kernels[embedding] < sum(each.kernels[embedding] for each in alone) / 2


def test_a_batch_is_refused_as_a_whole() -> None:
    backend = FakeBackend(random_logits)
    with fake_model(backend) as model:
        with pytest.raises(ParameterError, match="prompt is empty"):
            model.generate_batch(["a", ""])
        with pytest.raises(ParameterError, match=r"^prompts: expected a list of prompts, got one text"):
            model.generate_batch("text")
        assert model.generate_batch([]) == []
    assert backend.steps == []


def test_all_runs_in_the_thread_that_calls() -> None:
    seen: set[tuple[int, int]] = set()

    def watching(tokens: Sequence[int]) -> Floats:
        seen.add((threading.get_ident(), threading.active_count()))
        return random_logits(tokens)

    with fake_model(FakeBackend(watching)) as model:
        model.generate_batch(["a", "b", "c"], max_tokens=5)
    assert seen == {(threading.get_ident(), threading.active_count())}


def test_a_long_prompt_holds_up_nobody() -> None:
    backend, engine = engine_of()
    sequences = [sequence_of(engine, [1], max_tokens=2), sequence_of(engine, [2] * 600, max_tokens=3)]
    short, long = engine.generate(sequences)
    assert (short.generation_tokens, long.generation_tokens) == (2, 3)
    assert backend.steps == [[1, 256], [1, 256], [88], [1], [1]]


def test_a_sequence_that_has_ended_leaves_the_steps() -> None:
    backend, engine = engine_of()
    engine.generate([sequence_of(engine, [index], max_tokens=n) for index, n in ((1, 1), (2, 2), (3, 4))])
    assert backend.steps == [[1] * 3, [1] * 2, [1], [1]]
    assert engine.n_running == 0


def test_a_step_lasts_until_a_sequence_has_its_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(engine_module.time, "perf_counter", lambda: float(next(ticks)))
    _, engine = engine_of()
    first, second = engine.generate([sequence_of(engine, [index], max_tokens=3) for index in (1, 2)])
    assert (first.first_token_ms, second.first_token_ms) == (1000, 2000)  # the first one's sampling included
    assert (first.generation_tps, second.generation_tps) == (1.0, 0.5)


def test_a_driver_that_only_steps_serves_all() -> None:
    """As a server's loop does: add, step, read what was emitted."""
    backend, engine = engine_of()
    sequences = [sequence_of(engine, [index], max_tokens=4 + index) for index in range(3)]
    for sequence in sequences:
        sequence.is_streamed = True
        engine.add(sequence)
    texts = ["", "", ""]
    while True:
        goes_on = engine.step()
        for index, sequence in enumerate(sequences):
            while sequence.chunks:
                texts[index] += sequence.chunks.popleft().text
        if not goes_on:
            break
    assert len(backend.steps) == 6
    for sequence in sequences:
        engine.remove(sequence)
    assert texts == [generated(engine, [index], max_tokens=4 + index).text for index in range(3)]


# ---- logits ----------------------------------------------------------------------------------------------------------
def test_logits_of_a_prompt_share_steps_with_sequences() -> None:
    backend, engine = engine_of()
    first = held_up(backend, engine)
    other = Asking(engine, [9])
    found: dict[str, Floats] = {}
    prompt = np.arange(600, dtype=np.int32) % 250
    thread = threading.Thread(target=lambda: found.update(logits=engine.logits(prompt, 1000)))
    thread.start()
    wait_until(lambda: engine.n_running == 3)
    backend.may_begin.set()
    thread.join(60)
    first.wait()
    assert other.wait().result.token_ids == [best([9])]
    assert backend.steps == [[1], [1, 256], [256], [88]]
    assert (found["logits"][-1] == random_logits(prompt.tolist())).all()


# ---- errors ----------------------------------------------------------------------------------------------------------
def test_an_error_meets_only_the_sequence_that_causes_it() -> None:
    backend, engine = engine_of()
    first = held_up(backend, engine)
    good, bad = Asking(engine, [2, 3], max_tokens=2), Asking(engine, [4] * 10)
    bad.sequence.cache.capacity = 9  # type: ignore[attr-defined]
    wait_until(lambda: engine.n_running == 3)
    backend.may_begin.set()
    assert first.wait().failure is None
    assert isinstance(bad.wait().failure, ValueError)
    assert good.wait().result.token_ids == generated(engine, [2, 3], max_tokens=2).token_ids


def test_an_error_ends_the_batch_it_is_in() -> None:
    def failing(tokens: Sequence[int]) -> Floats:
        if 99 in tokens:
            raise ValueError("too hot")
        return random_logits(tokens)

    with fake_model(FakeBackend(failing)) as model:
        with pytest.raises(ValueError, match="too hot"):
            model.generate_batch([[1], [99], [2]], max_tokens=50)
        assert model.generate([5], max_tokens=2).generation_tokens == 2


def test_nothing_of_a_batch_that_failed_is_cached() -> None:
    def failing(tokens: Sequence[int]) -> Floats:
        return np.full(260, np.nan, np.float32) if tokens[0] == 99 and len(tokens) > 21 else random_logits(tokens)

    _, engine = engine_of(failing)
    prompts = [[index] * 20 for index in (1, 99, 2)]
    with pytest.raises(BitNetError, match="infinite or NaN"):
        engine.generate([sequence_of(engine, prompt, max_tokens=9) for prompt in prompts])
    results = engine.generate([sequence_of(engine, prompt, max_tokens=1) for prompt in prompts])
    assert [result.cached_tokens for result in results] == [0] * 3
    assert engine.n_running == 0


def test_an_interrupted_step_ends_its_callers_sequences_and_leaves_the_model_usable() -> None:
    def interrupted(tokens: Sequence[int]) -> Any:
        if tokens[0] == 3 and len(tokens) == 4:
            raise KeyboardInterrupt
        return random_logits(tokens)

    backend, engine = engine_of(interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.generate([sequence_of(engine, [index], max_tokens=9) for index in (2, 3)])
    assert backend.steps == [[1, 1]] * 4
    results = engine.generate([sequence_of(engine, [index], max_tokens=3) for index in (2, 3)])
    assert [result.generation_tokens for result in results] == [3, 3]


def test_a_sequence_goes_on_right_after_another_threads_step_was_interrupted() -> None:
    """The interrupted step has appended this one's token to its cache already."""
    armed = threading.Event()

    def interrupted(tokens: Sequence[int]) -> Any:
        if armed.is_set() and tokens[0] == 3:
            armed.clear()
            raise KeyboardInterrupt
        return random_logits(tokens)

    backend, engine = engine_of(interrupted)
    alone = generated(engine, [2], max_tokens=30).token_ids
    other = sequence_of(engine, [2], max_tokens=30)
    engine.add(other)
    for _ in range(3):
        engine.step()
    armed.set()
    with pytest.raises(KeyboardInterrupt):
        engine.generate([sequence_of(engine, [3], max_tokens=9)])
    while engine.step():
        pass
    assert other.token_ids == alone
    assert not armed.is_set()
    assert backend.closed == 0


def test_an_interrupt_is_heard_while_another_thread_runs_the_step() -> None:
    backend, engine = engine_of()
    first = held_up(backend, engine)
    main = threading.get_ident()

    def interrupt() -> None:
        wait_until(lambda: engine.n_running == 3)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        engine.generate([sequence_of(engine, [index], max_tokens=9) for index in (1, 2)])
    thread.join(60)
    assert engine.n_running == 1
    backend.may_begin.set()
    assert first.wait().failure is None
    assert backend.steps == [[1]]


# ---- streams that nobody reads ---------------------------------------------------------------------------------------
def test_a_stream_left_early_leaves_the_model_usable_and_its_prefix_cached() -> None:
    backend, engine = engine_of()
    chunks = engine.stream(sequence_of(engine, range(20), max_tokens=10))
    emitted = [next(chunks).token_ids[0] for _ in range(4)]
    del chunks
    gc.collect()
    assert engine.n_running == 0
    assert generated(engine, [*range(20), *emitted], max_tokens=1).cached_tokens == 23
    assert len(backend.caches) == 1


def test_a_stream_left_during_a_step_keeps_its_cache_until_the_step_ends() -> None:
    backend, engine = engine_of()
    abandoned = sequence_of(engine, range(20), max_tokens=10)
    chunks = engine.stream(abandoned)
    next(chunks)
    backend.may_begin.clear()
    backend.has_begun.clear()
    other = Asking(engine, [1], max_tokens=2)
    assert backend.has_begun.wait(60)
    del chunks
    gc.collect()
    assert engine.n_running == 1
    backend.may_begin.set()
    assert other.wait().failure is None
    assert generated(engine, [*range(20), *abandoned.token_ids[:1], 5, 6], max_tokens=1).cached_tokens == 21


def test_a_stream_whose_consumer_is_slow_pauses() -> None:
    _, engine = engine_of()
    slow = sequence_of(engine, [7], max_tokens=1000)
    chunks = engine.stream(slow)
    next(chunks)
    generated(engine, [1], max_tokens=5 * MAX_UNREAD_CHUNKS)
    assert MAX_UNREAD_CHUNKS <= len(slow.token_ids) <= MAX_UNREAD_CHUNKS + 2
    assert sum(len(chunk.token_ids) for chunk in chunks) == 999


def test_a_stream_raises_what_ended_it_after_its_last_chunk() -> None:
    def failing(tokens: Sequence[int]) -> Floats:
        return np.full(260, np.nan, np.float32) if len(tokens) > 3 else random_logits(tokens)

    _, engine = engine_of(failing)
    chunks = engine.stream(sequence_of(engine, [97], max_tokens=9))
    assert [len(next(chunks).token_ids) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(BitNetError, match="infinite or NaN"):
        next(chunks)
    assert engine.n_running == 0


# ---- the end ---------------------------------------------------------------------------------------------------------
def test_closing_waits_for_the_step_and_refuses_those_behind_it() -> None:
    backend, engine = engine_of()
    first = held_up(backend, engine)
    second = Asking(engine, [2])
    wait_until(lambda: engine.n_running == 2)
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_until(lambda: engine.is_closed)
    assert not backend.closed
    backend.may_begin.set()
    closing.join(60)
    assert backend.closed == 1
    assert first.wait().failure is None
    assert isinstance(second.wait().failure, BitNetError)


def test_a_closed_engine_refuses() -> None:
    backend, engine = engine_of()
    chunks = engine.stream(sequence_of(engine, [1, 2, 3], max_tokens=9))
    next(chunks)
    engine.close()
    engine.close()
    assert backend.closed == 1
    with pytest.raises(BitNetError, match="the model was closed: load it again"):
        next(chunks)
    with pytest.raises(BitNetError, match="closed"):
        sequence_of(engine, [1])
    with pytest.raises(BitNetError, match="closed"):
        engine.step()


def test_each_sequence_counts_the_kernels_of_its_steps() -> None:
    _, engine = engine_of()
    first, second = engine.generate([sequence_of(engine, [index, 5], max_tokens=n) for index, n in ((1, 3), (2, 6))])
    assert first.kernels == {GEMM: 3}
    assert second.kernels == {GEMM: 3, GEMV: 3}
