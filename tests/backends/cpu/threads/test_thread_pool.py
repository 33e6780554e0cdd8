"""The thread pool: tasks are claimed once, barriers keep order, failures come out, threads end."""

import signal
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.threads.thread_pool import (
    ThreadContext,
    ThreadPool,
    barrier,
    barrier_if_many,
    claim,
    slots_end,
)
from bitnet_numba.errors import ResourceError
from tests.backends.cpu.kernels.running import pool_of

SIZES = [1, 2, 3, 5]
MOST_TASKS = 40

Longs = npt.NDArray[np.int64]


@jit
def claim_all(ctx: ThreadContext, n_tasks: Longs, claims: Longs) -> None:
    """Count in ``claims[thread, phase, task]`` what a thread got: no two threads write the same element."""
    for phase in range(n_tasks.size):
        task = claim(ctx, n_tasks[phase])
        while task >= 0:
            claims[ctx.thread, phase, task] += 1
            task = claim(ctx, n_tasks[phase])
        barrier(ctx)


@jit
def count_late(ctx: ThreadContext, stamps: Longs, late: Longs) -> None:
    """Count in ``late[thread]`` the writes of a phase that a thread does not see after the barrier."""
    for phase in range(1, late.shape[1]):
        stamps[ctx.thread, 0] = phase
        barrier(ctx)
        for other in range(ctx.n_threads):
            late[ctx.thread, phase] += stamps[other, 0] != phase
        barrier(ctx)


@jit
def fill_slots(ctx: ThreadContext, n_tokens: int, fills: Longs) -> None:
    for slot in range(ctx.thread, slots_end(ctx, n_tokens), ctx.n_threads):
        fills[slot] += 1
    barrier_if_many(ctx, n_tokens)


@jit
def claim_one(ctx: ThreadContext, n_tasks: int) -> int:
    return claim(ctx, n_tasks)


@pytest.mark.parametrize("n_threads", SIZES)
@given(steps=st.lists(st.lists(st.integers(0, MOST_TASKS), min_size=1, max_size=30), min_size=1, max_size=4))
def test_each_task_is_claimed_once(n_threads: int, steps: list[list[int]]) -> None:
    with pool_of(n_threads) as pool:
        for step in steps:  # the phases of one step follow on those of the last
            claims = np.zeros((n_threads, len(step), MOST_TASKS), np.int64)
            n_tasks = np.array(step)
            pool.run(lambda ctx, n_tasks=n_tasks, claims=claims: claim_all(ctx, n_tasks, claims))
            expected = np.arange(MOST_TASKS) < n_tasks[:, None]
            np.testing.assert_array_equal(claims.sum(axis=0), expected)


def test_work_that_others_leave_is_stolen() -> None:
    ctx = ThreadContext(np.zeros((2 + 3 * 3, 8), np.int64), 1, 3)  # thread 1 of 3 comes first, and the others never
    assert [claim_one(ctx, 7) for _ in range(9)] == [2, 3, 4, 5, 6, 0, 1, -1, -1]


@pytest.mark.parametrize("n_threads", SIZES)
def test_a_barrier_shows_every_thread_what_the_others_wrote(n_threads: int) -> None:
    stamps, late = np.zeros((n_threads, 8), np.int64), np.zeros((n_threads, 400), np.int64)
    with pool_of(n_threads) as pool:
        pool.run(lambda ctx: count_late(ctx, stamps, late))
    np.testing.assert_array_equal(stamps[:, 0], 399)
    np.testing.assert_array_equal(late, 0)


@pytest.mark.parametrize("n_threads", SIZES)
@pytest.mark.parametrize("n_tokens", [1, 2, 7])
def test_slots_are_shared_out_but_a_single_token_is_everybodys(n_threads: int, n_tokens: int) -> None:
    fills = np.zeros(max(n_tokens, n_threads), np.int64)
    with pool_of(n_threads) as pool:
        pool.run(lambda ctx: fill_slots(ctx, n_tokens, fills))
    expected = np.arange(fills.size) < (n_tokens if n_tokens > 1 else n_threads)
    np.testing.assert_array_equal(fills, expected)


def test_every_thread_has_its_own_number_and_the_caller_has_none() -> None:
    idents: dict[int, int] = {}

    def note(ctx: ThreadContext) -> None:
        idents[ctx.thread] = threading.get_ident()

    with pool_of(3) as pool:
        pool.run(note)
    assert sorted(idents) == [0, 1, 2]
    assert len({threading.get_ident(), *idents.values()}) == 4


class TooHot(Exception):
    """What a thread of these tests fails with."""


def fail_on(*threads: int) -> Any:
    def work(ctx: ThreadContext) -> None:
        if ctx.thread in threads:
            raise TooHot(ctx.thread)

    return work


@pytest.mark.parametrize("thread", [0, 1, 2])
def test_a_failure_comes_out_and_the_pool_continues(thread: int) -> None:
    with pool_of(3) as pool:
        with pytest.raises(TooHot) as failure:
            pool.run(fail_on(thread))
        assert failure.value.args == (thread,)
        pool.run(fail_on())
        claims = np.zeros((3, 1, MOST_TASKS), np.int64)
        pool.run(lambda ctx: claim_all(ctx, np.array([MOST_TASKS]), claims))
    np.testing.assert_array_equal(claims.sum(axis=0), 1)


@pytest.mark.parametrize("threads", [(0, 1), (1, 2), (0, 1, 2)])
def test_a_failure_of_several_threads_comes_out_once(threads: tuple[int, ...]) -> None:
    with pool_of(3) as pool:
        with pytest.raises(TooHot):
            pool.run(fail_on(*threads))
        pool.run(fail_on())


def test_an_interrupt_ends_the_waiting_and_the_next_run_comes_after_the_work() -> None:
    caller, caught, order = threading.main_thread().ident, threading.Event(), []

    def interrupt(ctx: ThreadContext) -> None:
        if ctx.thread == 1:
            signal.pthread_kill(caller, signal.SIGINT)
        caught.wait(timeout=60)
        order.append("interrupted")

    with pool_of(2) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.run(interrupt)
        assert not order
        caught.set()
        pool.run(lambda ctx: order.append("next"))
    assert order == ["interrupted"] * 2 + ["next"] * 2


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    pool = ThreadPool(3)
    pool.run(lambda ctx: None)
    assert threading.active_count() == before + 3
    pool.close()
    assert threading.active_count() == before
    pool.close()  # again is no error


def test_a_closed_pool_runs_nothing() -> None:
    pool, idents = ThreadPool(2), []
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.run(idents.append)
    assert not idents


def test_a_system_without_room_for_threads_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start = threading.active_count(), threading.Thread.start
    started: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    pool = ThreadPool(4)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        with pytest.raises(ResourceError, match="the system allows no 4 more threads"):
            pool.run(lambda ctx: None)
    for thread in started:
        thread.join(timeout=10)
    assert threading.active_count() == before
    seen: list[int] = []
    pool.run(lambda ctx: seen.append(ctx.thread))  # there is room again
    assert sorted(seen) == [0, 1, 2, 3]
    pool.close()
