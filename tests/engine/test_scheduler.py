"""Requests of several threads in one step: who goes along, who waits, and what goes wrong for one alone."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bitnet_numba
from bitnet_numba.engine.batch import MAX_CHUNK, PREFILL_CHUNK
from bitnet_numba.engine.head import Screening
from bitnet_numba.engine.scheduler import Scheduler, Work
from bitnet_numba.errors import BitNetError, ParameterError
from tests.engine.fakes import FakeCache, FakeTransformer, fake_model, random_logits


class RecordingTransformer(FakeTransformer):
    """Notes what each step takes, and lets a test decide when it begins."""

    def __init__(self) -> None:
        super().__init__(random_logits)
        self.steps: list[list[int]] = []
        self.may_begin = threading.Event()
        self.has_begun = threading.Event()
        self.may_begin.set()

    def forward_batch(self, pieces: Sequence[Any]) -> tuple[NDArray[np.float32], list[Screening]]:
        self.steps.append([piece.tokens.size for piece in pieces])
        self.has_begun.set()
        assert self.may_begin.wait(60)
        return super().forward_batch(pieces)


class Asking:
    """A thread that asks for the logits of some tokens."""

    def __init__(self, scheduler: Scheduler[FakeCache], tokens: Sequence[int], n_logits: int = 1) -> None:
        self.work, self.failure = Work(), None
        self.cache = FakeCache(2000)

        def ask() -> None:
            try:
                self.logits, _ = scheduler.forward(np.array(tokens, np.int32), self.cache, self.work, n_logits, None)
            except BaseException as failure:
                self.failure = failure

        self._thread = threading.Thread(target=ask)
        self._thread.start()

    def wait(self) -> "Asking":
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self


def held_up(transformer: RecordingTransformer, scheduler: Scheduler[FakeCache]) -> Asking:
    """Begin a step that goes on until the transformer may go on."""
    transformer.may_begin.clear()
    first = Asking(scheduler, [1])
    assert transformer.has_begun.wait(60)
    return first


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("nothing happened for a minute")


def test_what_comes_during_a_step_goes_together_in_the_next() -> None:
    transformer = RecordingTransformer()
    scheduler = Scheduler(transformer)
    first = held_up(transformer, scheduler)
    others = [Asking(scheduler, [place, 7], n_logits=2) for place in range(5)]
    wait_until(lambda: len(scheduler._waiting) == 6)
    transformer.may_begin.set()
    assert (first.wait().logits == random_logits([1])).all()
    for place, other in enumerate(others):
        np.testing.assert_array_equal(other.wait().logits, [random_logits([place]), random_logits([place, 7])])
        assert other.work.kernels == {"gemm": 1}
    assert transformer.steps == [[1], [2] * 5]


def test_long_prompts_are_read_in_parts_beside_single_tokens() -> None:
    transformer = RecordingTransformer()
    scheduler = Scheduler(transformer)
    first = held_up(transformer, scheduler)
    prompts = [Asking(scheduler, [place] * 600, n_logits=3) for place in range(3)]
    wait_until(lambda: len(scheduler._waiting) == 4)
    single = Asking(scheduler, [9])
    wait_until(lambda: len(scheduler._waiting) == 5)
    transformer.may_begin.set()
    for asking in (first, single, *prompts):
        assert asking.wait().failure is None
    assert (single.logits == random_logits([9])).all()
    for place, prompt in enumerate(prompts):
        np.testing.assert_array_equal(prompt.logits, [random_logits([place] * n) for n in (598, 599, 600)])
    assert transformer.steps[1] == [1, PREFILL_CHUNK, MAX_CHUNK - PREFILL_CHUNK - 1]
    assert max(map(sum, transformer.steps)) <= MAX_CHUNK
    assert sum(map(sum, transformer.steps)) == 2 + 3 * 600


def test_a_failure_meets_only_whose_it_is() -> None:
    transformer = RecordingTransformer()
    scheduler = Scheduler(transformer)
    first = held_up(transformer, scheduler)
    good, bad = Asking(scheduler, [2, 3]), Asking(scheduler, [4] * 10)
    bad.cache.capacity = 9
    wait_until(lambda: len(scheduler._waiting) == 3)
    transformer.may_begin.set()
    assert first.wait().failure is None
    assert isinstance(bad.wait().failure, ValueError)
    np.testing.assert_array_equal(good.wait().logits, [random_logits([2, 3])])


def test_closing_waits_for_the_step_and_refuses_those_behind_it() -> None:
    transformer = RecordingTransformer()
    scheduler = Scheduler(transformer)
    first = held_up(transformer, scheduler)
    second = Asking(scheduler, [2])
    wait_until(lambda: len(scheduler._waiting) == 2)
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    wait_until(lambda: scheduler._is_closed)
    assert not transformer.closed
    transformer.may_begin.set()
    closing.join(60)
    assert transformer.closed == 1
    assert first.wait().failure is None
    assert isinstance(second.wait().failure, BitNetError)


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
