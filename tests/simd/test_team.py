"""The team: tasks are claimed once, barriers keep order, failures come out, threads end."""

import signal
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.kernels.jit import jit
from bitnet_numba.simd.team import Crew, Team, barrier, claim, meet_for, slots_end
from tests.kernels.teams import team_of

SIZES = [1, 2, 3, 5]
MOST_TASKS = 40

Longs = npt.NDArray[np.int64]


@jit
def claim_all(crew: Crew, n_tasks: Longs, claims: Longs) -> None:
    """Count in ``claims[thread, phase, task]`` what a thread got: no two threads write the same element."""
    for phase in range(n_tasks.size):
        task = claim(crew, n_tasks[phase])
        while task >= 0:
            claims[crew.thread, phase, task] += 1
            task = claim(crew, n_tasks[phase])
        barrier(crew)


@jit
def count_late(crew: Crew, stamps: Longs, late: Longs) -> None:
    """Count in ``late[thread]`` the writes of a phase that a thread does not see after the barrier."""
    for phase in range(1, late.shape[1]):
        stamps[crew.thread, 0] = phase
        barrier(crew)
        for other in range(crew.n_threads):
            late[crew.thread, phase] += stamps[other, 0] != phase
        barrier(crew)


@jit
def fill_slots(crew: Crew, n_tokens: int, fills: Longs) -> None:
    for slot in range(crew.thread, slots_end(crew, n_tokens), crew.n_threads):
        fills[slot] += 1
    meet_for(crew, n_tokens)


@jit
def claim_one(crew: Crew, n_tasks: int) -> int:
    return claim(crew, n_tasks)


@pytest.mark.parametrize("n_threads", SIZES)
@given(steps=st.lists(st.lists(st.integers(0, MOST_TASKS), min_size=1, max_size=30), min_size=1, max_size=4))
def test_each_task_is_claimed_once(n_threads: int, steps: list[list[int]]) -> None:
    with team_of(n_threads) as team:
        for step in steps:  # the phases of one step follow on those of the last
            claims = np.zeros((n_threads, len(step), MOST_TASKS), np.int64)
            n_tasks = np.array(step)
            team.run(lambda crew, n_tasks=n_tasks, claims=claims: claim_all(crew, n_tasks, claims))
            expected = np.arange(MOST_TASKS) < n_tasks[:, None]
            np.testing.assert_array_equal(claims.sum(axis=0), expected)


def test_work_that_others_leave_is_stolen() -> None:
    crew = Crew(np.zeros((2 + 3 * 3, 8), np.int64), 1, 3)  # thread 1 of 3 comes first, and the others never
    assert [claim_one(crew, 7) for _ in range(9)] == [2, 3, 4, 5, 6, 0, 1, -1, -1]


@pytest.mark.parametrize("n_threads", SIZES)
def test_a_barrier_shows_every_thread_what_the_others_wrote(n_threads: int) -> None:
    stamps, late = np.zeros((n_threads, 8), np.int64), np.zeros((n_threads, 400), np.int64)
    with team_of(n_threads) as team:
        team.run(lambda crew: count_late(crew, stamps, late))
    np.testing.assert_array_equal(stamps[:, 0], 399)
    np.testing.assert_array_equal(late, 0)


@pytest.mark.parametrize("n_threads", SIZES)
@pytest.mark.parametrize("n_tokens", [1, 2, 7])
def test_slots_are_shared_out_but_a_single_token_is_everybodys(n_threads: int, n_tokens: int) -> None:
    fills = np.zeros(max(n_tokens, n_threads), np.int64)
    with team_of(n_threads) as team:
        team.run(lambda crew: fill_slots(crew, n_tokens, fills))
    expected = np.arange(fills.size) < (n_tokens if n_tokens > 1 else n_threads)
    np.testing.assert_array_equal(fills, expected)


def test_every_thread_has_its_own_number_and_the_caller_has_none() -> None:
    places: dict[int, int] = {}

    def note(crew: Crew) -> None:
        places[crew.thread] = threading.get_ident()

    with team_of(3) as team:
        team.run(note)
    assert sorted(places) == [0, 1, 2]
    assert len({threading.get_ident(), *places.values()}) == 4


class TooHot(Exception):
    """What a thread of these tests fails with."""


def fail_on(*threads: int) -> Any:
    def work(crew: Crew) -> None:
        if crew.thread in threads:
            raise TooHot(crew.thread)

    return work


@pytest.mark.parametrize("thread", [0, 1, 2])
def test_a_failure_comes_out_and_the_team_goes_on(thread: int) -> None:
    with team_of(3) as team:
        with pytest.raises(TooHot) as failure:
            team.run(fail_on(thread))
        assert failure.value.args == (thread,)
        team.run(fail_on())
        claims = np.zeros((3, 1, MOST_TASKS), np.int64)
        team.run(lambda crew: claim_all(crew, np.array([MOST_TASKS]), claims))
    np.testing.assert_array_equal(claims.sum(axis=0), 1)


@pytest.mark.parametrize("threads", [(0, 1), (1, 2), (0, 1, 2)])
def test_a_failure_of_several_threads_comes_out_once(threads: tuple[int, ...]) -> None:
    with team_of(3) as team:
        with pytest.raises(TooHot):
            team.run(fail_on(*threads))
        team.run(fail_on())


def test_an_interrupt_ends_the_waiting_and_the_next_run_comes_after_the_work() -> None:
    caller, caught, order = threading.main_thread().ident, threading.Event(), []

    def interrupt(crew: Crew) -> None:
        if crew.thread == 1:
            signal.pthread_kill(caller, signal.SIGINT)
        caught.wait(timeout=60)
        order.append("interrupted")

    with team_of(2) as team:
        with pytest.raises(KeyboardInterrupt):
            team.run(interrupt)
        assert not order
        caught.set()
        team.run(lambda crew: order.append("next"))
    assert order == ["interrupted"] * 2 + ["next"] * 2


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    team = Team(3)
    assert threading.active_count() == before + 3
    team.close()
    assert threading.active_count() == before
    team.close()  # again is no error


def test_a_closed_team_runs_nothing() -> None:
    team, places = Team(2), []
    team.close()
    with pytest.raises(RuntimeError, match="closed"):
        team.run(places.append)
    assert not places
