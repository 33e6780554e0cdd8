"""Persistent workers: every call runs once on every thread, whatever comes between two calls."""

import gc
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.threads.atomics import load_acquire, yield_core
from bitnet_numba.backends.cpu.threads.command_buffer import CommandBuffer, begin, finish, next_input, wait_for_call
from bitnet_numba.backends.cpu.threads.persistent_workers import PersistentWorkers
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, ThreadPool, barrier

SIZES = [1, 2, 3, 5]

Longs = npt.NDArray[np.int64]


@jit
def add_up(ctx: ThreadContext, buffer: CommandBuffer, step_input: tuple[int, Longs]) -> None:
    """Add ``amount`` to the thread's own number, between two barriers."""
    begin(buffer, step_input)
    n_calls = 1
    while True:
        amount, numbers = step_input
        barrier(ctx)
        numbers[ctx.thread] += amount
        barrier(ctx)
        finish(ctx, buffer, n_calls)
        if not wait_for_call(buffer, n_calls):
            return
        step_input = next_input(buffer, step_input)
        n_calls += 1


@jit
def wait_at_gate(ctx: ThreadContext, buffer: CommandBuffer, step_input: tuple[Longs, Longs]) -> None:
    """Count in ``passed`` who has passed the gate, which opens at one."""
    begin(buffer, step_input)
    n_calls = 1
    while True:
        gate, passed = step_input
        while load_acquire(gate, 0) == 0:
            yield_core()
        passed[ctx.thread] += 1
        finish(ctx, buffer, n_calls)
        if not wait_for_call(buffer, n_calls):
            return
        step_input = next_input(buffer, step_input)
        n_calls += 1


@contextmanager
def workers_of(n_threads: int, serve: object = add_up) -> Iterator[PersistentWorkers]:
    pool = ThreadPool(n_threads)
    workers = PersistentWorkers(pool, serve)  # type: ignore[arg-type]
    try:
        yield workers
    finally:
        workers.close()
        pool.close()


@pytest.mark.parametrize("n_threads", SIZES)
@given(amounts=st.lists(st.integers(-9, 9), min_size=1, max_size=40), pause=st.integers(0, 40))
def test_every_call_runs_once_on_every_thread(n_threads: int, amounts: list[int], pause: int) -> None:
    with workers_of(n_threads) as workers:
        numbers = np.zeros((len(amounts), n_threads), np.int64)
        for call, amount in enumerate(amounts):
            if call == pause:
                workers.close()  # it comes back by itself
            workers.call((amount, numbers[call]))
            assert (numbers[call] == amount).all()  # when the call returns, not some time later
        np.testing.assert_array_equal(numbers, np.array(amounts)[:, None].repeat(n_threads, 1))


def test_the_threads_stay_where_they_are_between_calls() -> None:
    arrived = []

    def serve(ctx: ThreadContext, buffer: CommandBuffer, step_input: tuple[int, Longs]) -> None:
        arrived.append(ctx.thread)
        add_up(ctx, buffer, step_input)

    with workers_of(2, serve) as workers:
        for _ in range(5):
            workers.call((1, np.zeros(2, np.int64)))
        assert sorted(arrived) == [0, 1]  # each entered once


def test_inputs_of_another_type_are_not_taken_for_those_of_before() -> None:
    with workers_of(2) as workers:
        rows = np.zeros((2, 2), np.int64)
        workers.call((1, rows[0]))
        workers.call((2, rows[:, 1]))  # strided
        workers.call((np.int32(4), rows[0]))
        np.testing.assert_array_equal(rows, [[5, 7], [0, 2]])


@contextmanager
def interrupted() -> Iterator[None]:
    """Send an interrupt into a block, which it must end."""
    timer = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    timer.join()


@pytest.mark.parametrize("stays", [False, True])
def test_an_interrupt_ends_the_waiting_and_the_next_call_comes_after_the_work(stays: bool) -> None:
    gate, passed = np.ones(1, np.int64), np.zeros((3, 2), np.int64)
    with workers_of(2, wait_at_gate) as workers:
        workers.call((gate, passed[0]))  # an interrupt of the compiler may be lost
        if not stays:
            workers.close()
        gate[0] = 0
        with interrupted():
            workers.call((gate, passed[1]))
        assert not passed[1].any()
        gate[0] = 1
        workers.call((gate, passed[2]))
        np.testing.assert_array_equal(passed, 1)


def test_what_a_call_uses_is_kept_as_long_as_an_interrupted_one_may_run() -> None:
    class Memory:
        pass

    gate, passed, memory = np.ones(1, np.int64), np.zeros(2, np.int64), Memory()
    alive = weakref.ref(memory)
    with workers_of(2, wait_at_gate) as workers:
        workers.call((gate, passed))
        gate[0] = 0
        with interrupted():
            workers.call((gate, passed), in_use=[memory])
        del memory
        gc.collect()
        assert alive() is not None
        gate[0] = 1
        workers.call((gate, passed))
        assert alive() is None


def test_a_failure_comes_out_and_the_next_call_runs() -> None:
    fails = [True]

    def serve(ctx: ThreadContext, buffer: CommandBuffer, step_input: tuple[int, Longs]) -> None:
        if fails[0]:
            raise ArithmeticError(ctx.thread)
        add_up(ctx, buffer, step_input)

    with workers_of(3, serve) as workers:
        numbers = np.zeros(3, np.int64)
        with pytest.raises(ArithmeticError):
            workers.call((1, numbers))
        fails[0] = False
        workers.call((1, numbers))
        np.testing.assert_array_equal(numbers, 1)


def test_a_closed_pool_takes_no_calls() -> None:
    with workers_of(2) as workers:
        numbers = np.zeros(2, np.int64)
        workers.call((1, numbers))
    for _ in range(2):  # the second does not wait for the first
        with pytest.raises(RuntimeError, match="closed"):
            workers.call((1, numbers))
    np.testing.assert_array_equal(numbers, 1)
