"""Requests of several threads in one step: who goes along, who waits, and what goes wrong for one alone."""

import threading

import numpy as np

from bitnet_numba.backends.cpu.batch import MAX_CHUNK, PREFILL_CHUNK
from bitnet_numba.backends.cpu.kernels.jit import counted
from bitnet_numba.errors import BitNetError
from bitnet_numba.generate.request import Request, Work
from bitnet_numba.generate.scheduler import Scheduler
from tests.generate.fakes import GEMM, FakeCache, random_logits
from tests.generate.recording import Asking, RecordingTransformer, held_up, wait_until


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
        assert counted(other.work.calls) == {GEMM: 1}
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


def request_of(tokens: list[int], n_logits: int = 1) -> Request[FakeCache]:
    return Request(np.array(tokens, np.int32), FakeCache(2000), Work(), n_logits)


def test_what_is_done_comes_back_and_the_rest_goes_on_beside_what_follows() -> None:
    transformer = RecordingTransformer()
    scheduler = Scheduler(transformer)
    long, short = request_of([5] * 600, n_logits=2), request_of([6])
    assert scheduler.read([long, short]) == [short]
    assert (short.logits() == random_logits([6])).all()
    assert long.n_unread == 600 - PREFILL_CHUNK
    following = request_of([7, 8])
    assert scheduler.read([long, following]) == [following]
    assert scheduler.read([long]) == [long]
    np.testing.assert_array_equal(long.logits(), [random_logits([5] * n) for n in (599, 600)])
    assert transformer.steps == [[1, 256], [256, 2], [88]]


def test_prompts_are_read_in_the_order_in_which_they_came() -> None:
    transformer = RecordingTransformer()
    first, second, third = (request_of([place] * 300) for place in range(3))
    Scheduler(transformer).read([third, second, first])
    assert [request.n_unread for request in (first, second, third)] == [0, 0, 44]
    assert transformer.steps == [[256, 256], [44, 44, 256]]


def test_several_requests_of_a_thread_share_steps_with_those_of_others() -> None:
    transformer = RecordingTransformer()
    scheduler = Scheduler(transformer)
    first = held_up(transformer, scheduler)
    requests = [request_of([place]) for place in range(3)]
    thread = threading.Thread(target=scheduler.read, args=(requests,))
    thread.start()
    wait_until(lambda: len(scheduler._waiting) == 2)
    other = Asking(scheduler, [9])
    wait_until(lambda: len(scheduler._waiting) == 3)
    transformer.may_begin.set()
    thread.join(60)
    assert first.wait().failure is None
    assert (other.wait().logits == random_logits([9])).all()
    for place, request in enumerate(requests):
        assert (request.logits() == random_logits([place])).all()
    assert transformer.steps == [[1], [1] * 4]


def test_a_step_without_logits_gives_none() -> None:
    request = request_of([1, 2], n_logits=0)
    Scheduler(RecordingTransformer()).read([request])
    assert request.logits().shape[0] == 0
