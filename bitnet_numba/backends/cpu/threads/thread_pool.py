"""The threads that share one jitted call: barriers made of atomics, and tasks that are claimed and stolen.

A thread pool enters a jitted function together, once per step of the model, without the interpreter's lock; inside, no thread
returns to Python. No threading layer is needed, and a thread that loses its core loses only the tasks it holds.
"""

import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from bitnet_numba.backends.cpu.threads.atomics import LINE, fetch_add, load_acquire, pause, yield_core

SPINS = 500  # some 20 us of waiting before a core is given back: a barrier is shorter, a lost core is longer
_LISTEN_SECONDS = 0.1  # a signal that comes just before the wait begins does not end it: the next round hears it


class ThreadContext(NamedTuple):
    """What a thread knows of the thread pool while it works.

    Attributes
    ----------
    sync : int64[2 + 3 * n_threads, 8]
        A cache line each: row 0 counts arrivals at barriers; then two banks of ``n_threads`` task counters, used by
        alternate phases; then each thread's own count of phases.
    thread, n_threads : int
        This thread's number, and how many there are.
    """

    sync: npt.NDArray[np.int64]
    thread: int
    n_threads: int


# ---- inside jitted code ----------------------------------------------------------------------------------------------
@register_jitable
def barrier(ctx: ThreadContext) -> None:
    """Wait until every thread of the thread pool has come here; the next phase of tasks begins."""
    sync, n_threads = ctx.sync, ctx.n_threads
    own = 1 + 2 * n_threads + ctx.thread
    phase = sync[own, 0]
    if ctx.thread == 0:  # the other bank was last used in the phase before this one: everybody has left it
        for victim in range(n_threads):
            sync[1 + (phase + 1) % 2 * n_threads + victim, 0] = 0
    sync[own, 0] = phase + 1
    fetch_add(sync, 0)
    spins = 0
    while load_acquire(sync, 0) < (phase + 1) * n_threads:
        spins += 1
        if spins < SPINS:
            pause()
        else:
            yield_core()


@register_jitable
def claim(ctx: ThreadContext, n_tasks: int) -> int:
    """Return a task of this phase that nobody else has, or -1 when none is left.

    Each thread takes the tasks of its own contiguous share in order, then what others have left of theirs.
    """
    sync, n_threads = ctx.sync, ctx.n_threads
    bank = 1 + sync[1 + 2 * n_threads + ctx.thread, 0] % 2 * n_threads
    for distance in range(n_threads):
        victim = (ctx.thread + distance) % n_threads
        first = n_tasks * victim // n_threads
        end = n_tasks * (victim + 1) // n_threads
        task: int = first + fetch_add(sync, (bank + victim) * LINE)
        if task < end:
            return task
    return -1


@register_jitable
def slots_end(ctx: ThreadContext, n_tokens: int) -> int:
    """Return where the slots end that this thread fills, from ``ctx.thread`` on in steps of ``ctx.n_threads``.

    A slot is a token, shared out among the threads; but a single token has a slot for every thread, its own copy.
    """
    return n_tokens if n_tokens > 1 else ctx.thread + 1


@register_jitable
def meet_for(ctx: ThreadContext, n_tokens: int) -> None:
    """Wait for the slots that others fill; a single token's are all one's own."""
    if n_tokens > 1:
        barrier(ctx)


# ---- outside ---------------------------------------------------------------------------------------------------------
def _new_sync(n_threads: int) -> npt.NDArray[np.int64]:
    return np.zeros((2 + 3 * n_threads, LINE), np.int64)


def alone() -> ThreadContext:
    """Return the place of the only member of a thread pool, for work that needs no other thread."""
    return ThreadContext(_new_sync(1), 0, 1)


class Job:
    """Work for the thread pool, and how it ended."""

    def __init__(self, work: Callable[[ThreadContext], None]) -> None:
        self.work = work
        self.failures: list[BaseException] = []
        self.finished = threading.Lock()
        self.finished.acquire()


class ThreadPool:
    """Threads that wait in Python, and run one function together when asked.

    The caller is not one of them: Python raises KeyboardInterrupt in the main thread only, so no interrupt can take a
    thread away from a barrier where others wait for it.

    Parameters
    ----------
    n_threads : int
        How many share the work.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._sync = _new_sync(n_threads)
        self._queues: list[queue.SimpleQueue[Job | None]] = [queue.SimpleQueue() for _ in range(n_threads)]
        self._arrivals = queue.SimpleQueue[None]()
        self._threads = [
            threading.Thread(target=self._lead if thread == 0 else self._follow, args=(thread,), daemon=True)
            for thread in range(n_threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Callable[[ThreadContext], None]) -> None:
        """Call ``work`` on every thread of the thread pool, and return when all are done.

        An interrupt ends the waiting at once, not the work; a next run begins when the thread pool is done with this one.

        Parameters
        ----------
        work : callable
            Takes a :class:`ThreadContext`. Every thread must meet the same barriers in it.

        Raises
        ------
        RuntimeError
            If the thread pool has been closed.
        """
        job = self.start(work)
        while not job.finished.acquire(timeout=_LISTEN_SECONDS):
            pass
        if job.failures:
            raise job.failures[0]

    def start(self, work: Callable[[ThreadContext], None]) -> Job:
        """Let the thread pool call ``work`` when it is done with what came before, and do not wait.

        Raises
        ------
        RuntimeError
            If the thread pool has been closed.
        """
        if not self._threads:
            raise RuntimeError("the thread pool is closed")
        job = Job(work)
        self._queues[0].put(job)
        return job

    def close(self) -> None:
        """End the thread pool's threads when they have done their work; it cannot run again."""
        if self._threads:
            self._queues[0].put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _lead(self, thread: int) -> None:
        """Take jobs in their order, each together with all followers."""
        while True:
            job = self._queues[thread].get()
            for follower in self._queues[1:]:
                follower.put(job)
            if job is None:
                return
            self._work(job, thread)
            for _ in self._queues[1:]:
                self._arrivals.get()
            job.finished.release()
            del job  # and with it the arrays that it holds

    def _follow(self, thread: int) -> None:
        while (job := self._queues[thread].get()) is not None:
            self._work(job, thread)
            del job
            self._arrivals.put(None)

    def _work(self, job: Job, thread: int) -> None:
        try:
            job.work(ThreadContext(self._sync, thread, self.n_threads))
        except BaseException as failure:  # the caller's to handle, whatever it is
            job.failures.append(failure)
