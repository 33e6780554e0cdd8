"""The thread pool of the forward pass: barriers made of atomics, and tasks that are claimed and stolen.

All threads enter a jitted function together, without the GIL, and share its work by :func:`claim`; no threading layer
such as OpenMP or TBB is needed. A thread that loses its core only delays the tasks it holds.
"""

import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from bitnet_numba.backends.cpu.array_types import Int64s
from bitnet_numba.backends.cpu.threads.atomics import LINE, fetch_add, load_acquire, pause, yield_core

SPINS = 500  # about 20 us before the core is yielded: most barriers take less, a preempted thread takes longer
_WAIT_SECONDS = 0.1  # longest delay of a signal that comes just before the caller waits


class ThreadContext(NamedTuple):
    """A thread's view of the pool inside jitted code.

    ``sync`` has one cache line a row: row 0 counts arrivals at barriers; then two banks of ``n_threads`` task counters,
    used by alternate phases; then each thread's own phase number. A phase ends at a barrier.
    """

    sync: Int64s  # [2 + 3 * n_threads, 8]
    thread: int  # index of this thread
    n_threads: int


# ---- inside jitted code ----------------------------------------------------------------------------------------------
@register_jitable
def barrier(ctx: ThreadContext) -> None:
    """Wait until every thread has arrived; the next phase of tasks begins."""
    sync, n_threads = ctx.sync, ctx.n_threads
    own = 1 + 2 * n_threads + ctx.thread
    phase = sync[own, 0]
    if ctx.thread == 0:  # the other bank was last used in the previous phase, which every thread has left
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
    """Return the index of an unclaimed task of this phase, or -1 if none is left.

    Each thread claims its own contiguous share in order, then steals from the others.
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
    """Return the end of this thread's range of slots; its start is ``ctx.thread``, its step ``ctx.n_threads``.

    A slot is a token; a single token has one slot for every thread, each with a copy of its own.
    """
    return n_tokens if n_tokens > 1 else ctx.thread + 1


@register_jitable
def barrier_if_many(ctx: ThreadContext, n_tokens: int) -> None:
    """Barrier between writing slots and reading all of them; none for a single token's, which each thread copies."""
    if n_tokens > 1:
        barrier(ctx)


# ---- outside ---------------------------------------------------------------------------------------------------------
def _new_sync(n_threads: int) -> Int64s:
    return np.zeros((2 + 3 * n_threads, LINE), np.int64)


def alone() -> ThreadContext:
    """Return the context of a pool of one thread, the caller."""
    return ThreadContext(_new_sync(1), 0, 1)


class Job:
    """A function for every thread of the pool, and what it raised."""

    def __init__(self, work: Callable[[ThreadContext], None]) -> None:
        self.work = work
        self.failures: list[BaseException] = []
        self.finished = threading.Lock()
        self.finished.acquire()


class ThreadPool:
    """Threads that run one function together, and wait in Python between two runs.

    The caller is not one of them: Python raises KeyboardInterrupt only in the main thread, so it never takes a thread
    away from a barrier where others wait for it.
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
        """Call ``work`` on every thread, and return when all are done; raise what one of them raised.

        Every thread must reach the same barriers in it. KeyboardInterrupt ends the waiting at once, not the work; the
        next run starts after that work.
        """
        job = self.start(work)
        while not job.finished.acquire(timeout=_WAIT_SECONDS):
            pass
        if job.failures:
            raise job.failures[0]

    def start(self, work: Callable[[ThreadContext], None]) -> Job:
        """Queue ``work`` for every thread, and return at once; RuntimeError if the pool is closed."""
        if not self._threads:
            raise RuntimeError("the thread pool is closed")
        job = Job(work)
        self._queues[0].put(job)
        return job

    def close(self) -> None:
        """End the threads after the work that is queued."""
        if self._threads:
            self._queues[0].put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _lead(self, thread: int) -> None:
        """Run jobs in order, each together with all followers."""
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
            del job  # releases the arrays that its closure holds

    def _follow(self, thread: int) -> None:
        while (job := self._queues[thread].get()) is not None:
            self._work(job, thread)
            del job
            self._arrivals.put(None)

    def _work(self, job: Job, thread: int) -> None:
        try:
            job.work(ThreadContext(self._sync, thread, self.n_threads))
        except BaseException as failure:  # re-raised in the caller
            job.failures.append(failure)
