"""A thread pool that stays in jitted code between its calls, so that none of its threads needs the interpreter's lock.

Beside a busy Python thread, taking the lock costs what Python lets that one go on for. Here the calling thread takes it
once a call, when it comes back, and is not kept waiting long; the thread pool's threads sleep where they are until the
argument of the next call lies in a box.
"""

import threading
from collections.abc import Callable
from typing import Any

from bitnet_numba.backends.cpu.kernels.jit import jit
from bitnet_numba.backends.cpu.threads.command_buffer import (
    DISMISSED,
    DONE,
    STAGE,
    CommandBuffer,
    dismiss,
    new_command_buffer,
    send,
    wait_until_done,
)
from bitnet_numba.backends.cpu.threads.switch_interval import prompt_return
from bitnet_numba.backends.cpu.threads.thread_pool import Job, ThreadContext, ThreadPool

_LISTEN_MICROSECONDS = 100_000  # how long a signal may wait that comes just before the calling thread falls asleep
_NOBODY, _RUNNING, _FINISHED = range(3)


@jit
def _call(buffer: CommandBuffer, argument: Any, n_threads: int) -> int:
    if not send(buffer, argument):
        return _NOBODY
    return _FINISHED if wait_until_done(buffer, n_threads, _LISTEN_MICROSECONDS) else _RUNNING


@jit
def _wait_until_done(buffer: CommandBuffer, n_threads: int) -> bool:
    finished: bool = wait_until_done(buffer, n_threads, _LISTEN_MICROSECONDS)
    return finished


@jit
def _dismiss(buffer: CommandBuffer) -> None:
    dismiss(buffer)


class PersistentWorkers:
    """One jitted function that a thread pool runs again and again.

    Parameters
    ----------
    pool : ThreadPool
        Runs nothing else as long as it stands by.
    serve : callable
        Takes a :class:`ThreadContext`, a :class:`CommandBuffer`, what never changes, and the argument of the first call. It begins with
        ``begin``, calls ``finish`` after each call, and goes on with ``next_argument`` as
        long as ``wait_for_call`` says.
    *fixed
        What never changes.
    """

    def __init__(self, pool: ThreadPool, serve: Callable[..., None], *fixed: Any) -> None:
        self._pool = pool
        self._serve = serve
        self._fixed = fixed
        self._turn = threading.Lock()
        self._buffer = new_command_buffer(DISMISSED)
        self._running: Job | None = None
        self._in_use: object = None

    def call(self, argument: tuple[Any, ...], in_use: object = None) -> None:
        """Run the function on every thread of the thread pool, and return when all are done.

        An interrupt ends the waiting at once, not the work; a next call begins when the thread pool is done with this one.

        Parameters
        ----------
        argument : tuple
            Of a type that Numba knows. It is kept until the next call.
        in_use : object, optional
            What else must be kept so long: memory that it names by its address.

        Raises
        ------
        RuntimeError
            If the thread pool has been closed.
        """
        with self._turn, prompt_return:
            self._settle()
            self._in_use = (argument, in_use)
            outcome = _call(self._buffer, argument, self._pool.n_threads)
            if outcome == _NOBODY:
                self._begin_stay(argument, in_use)
            if outcome != _FINISHED:
                self._wait()

    def close(self) -> None:
        """Send the threads back to where a thread pool's threads wait; a next call fetches them again."""
        with self._turn:
            _dismiss(self._buffer)

    def _settle(self) -> None:
        """Wait for a call before this one whose waiting was interrupted."""
        if self._buffer.words[DONE] == self._buffer.words[STAGE] // 2 * self._pool.n_threads:
            return
        if (
            self._running is None
        ):  # interrupted while the stay began: whether or not the thread pool knows of it, it is the last
            _dismiss(self._buffer)
        else:
            self._wait()

    def _begin_stay(self, argument: tuple[Any, ...], in_use: object) -> None:
        serve, fixed = self._serve, self._fixed

        def work(ctx: ThreadContext, _in_use: object = in_use) -> None:
            serve(ctx, buffer, *fixed, argument)

        _dismiss(self._buffer)
        self._running, buffer = None, new_command_buffer(2)
        self._buffer = buffer
        try:
            self._running = self._pool.start(work)
        except RuntimeError:
            self._buffer = new_command_buffer(DISMISSED)
            raise

    def _wait(self) -> None:
        """Return when the thread pool is done with all calls."""
        while not _wait_until_done(self._buffer, self._pool.n_threads):
            if self._running is not None and self._running.failures:
                failure = self._running.failures[0]
                _dismiss(self._buffer)
                self._buffer, self._running = new_command_buffer(DISMISSED), None
                raise failure
