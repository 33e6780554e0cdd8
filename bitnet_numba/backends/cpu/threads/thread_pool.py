"""The thread pool of the forward pass: barriers made of atomics, and tasks that are claimed and stolen.

All threads enter a jitted function together, without the GIL, and share its work by :func:`claim`; no threading layer
such as OpenMP or TBB is needed. A thread that loses its core only delays the tasks it holds.
"""

import functools
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from bitnet_numba.after_fork import register_for_forks
from bitnet_numba.backends.cpu.array_types import Int64s
from bitnet_numba.backends.cpu.threads.atomics import LINE, fetch_add, load_acquire, pause, yield_core
from bitnet_numba.errors import ResourceError, UnsupportedError

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


@functools.cache
def _require_real_threads() -> None:
    """Raise an UnsupportedError where a package such as gevent has replaced threads by its own, which take turns."""
    native: list[int] = []
    probe = threading.Thread(target=lambda: native.append(threading.get_native_id()), daemon=True)
    probe.start()
    probe.join()
    if native == [threading.get_native_id()]:
        raise UnsupportedError(
            "Python's threads are replaced by ones that take turns (gevent, eventlet), so none can wait for another; "
            "load the model in a process without them, or use patch_all(thread=False)"
        )


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


_Queues = list[queue.SimpleQueue[Job | None]]


class ThreadPool:
    """Threads that run one function together, and wait in Python between two runs.

    The caller is not one of them: Python raises KeyboardInterrupt only in the main thread, so it never takes a thread
    away from a barrier where others wait for it. They start with the first work; a forked child starts its own.
    ResourceError where the system allows no more threads.
    """

    def __init__(self, n_threads: int) -> None:
        _require_real_threads()
        self.n_threads = n_threads
        self._is_closed = False
        self._threads: list[threading.Thread] = []
        self.after_fork()
        register_for_forks(self)

    def after_fork(self) -> None:
        """Forget the threads, which are the parent's, and what they were doing."""
        self._sync = _new_sync(self.n_threads)
        self._queues: _Queues = [queue.SimpleQueue() for _ in range(self.n_threads)]
        self._arrivals = queue.SimpleQueue[None]()
        self._threads.clear()

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
        if self._is_closed:
            raise RuntimeError("the thread pool is closed")
        if not self._threads:
            self._start_threads()
        job = Job(work)
        self._queues[0].put(job)
        return job

    def close(self) -> None:
        """End the threads after the work that is queued, and wait for them."""
        threads = list(self._threads)
        self.dismiss()
        for thread in threads:
            thread.join()

    def dismiss(self) -> None:
        """Let the threads end after the work that is queued; returns at once."""
        self._is_closed = True
        if self._threads:
            self._queues[0].put(None)
        self._threads.clear()

    def _start_threads(self) -> None:
        shared = self._queues, self._arrivals  # not those that a forked child or another start has
        threads = [
            threading.Thread(target=self._follow if thread else self._lead, args=(thread, *shared), daemon=True)
            for thread in range(self.n_threads)
        ]
        try:
            for thread in threads:
                thread.start()
        except RuntimeError as error:  # "can't start new thread"
            for own_queue in self._queues:
                own_queue.put(None)  # the lead passes its own on too, which nobody reads
            self.after_fork()
            raise ResourceError(
                f"the system allows no {self.n_threads} more threads; end other programs or ask for fewer"
            ) from error
        self._threads = threads

    def _lead(self, thread: int, queues: _Queues, arrivals: queue.SimpleQueue[None]) -> None:
        """Run jobs in order, each together with all followers."""
        while True:
            job = queues[thread].get()
            for follower in queues[1:]:
                follower.put(job)
            if job is None:
                return
            self._work(job, thread)
            for _ in queues[1:]:
                arrivals.get()
            job.finished.release()
            del job  # releases the arrays that its closure holds

    def _follow(self, thread: int, queues: _Queues, arrivals: queue.SimpleQueue[None]) -> None:
        while (job := queues[thread].get()) is not None:
            self._work(job, thread)
            del job
            arrivals.put(None)

    def _work(self, job: Job, thread: int) -> None:
        try:
            job.work(ThreadContext(self._sync, thread, self.n_threads))
        except BaseException as failure:  # re-raised in the caller
            job.failures.append(failure)
