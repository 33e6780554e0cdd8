"""Persistent workers: a thread pool that stays inside one jitted call and takes a command per step.

Like a persistent GPU kernel it saves the launch. Reacquiring the GIL takes up to 5 ms (the switch interval) when
another Python thread is busy, so only the caller does that, once a step, and with an interval of 1 ms.
"""

from collections.abc import Callable
from typing import Any

from bitnet_numba.after_fork import register_for_forks
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.threads.command_buffer import (
    CLOSED,
    DONE,
    SEQUENCE,
    CommandBuffer,
    close,
    new_command_buffer,
    send,
    wait_until_done,
)
from bitnet_numba.backends.cpu.threads.switch_interval import prompt_return
from bitnet_numba.backends.cpu.threads.thread_pool import Job, ThreadContext, ThreadPool

_WAIT_MICROSECONDS = 100_000  # longest delay of a signal that comes just before the caller falls asleep
_NOT_SENT, _RUNNING, _DONE = range(3)


@jit
def _call(buffer: CommandBuffer, step_input: Any, n_threads: int) -> int:
    if not send(buffer, step_input):
        return _NOT_SENT
    return _DONE if wait_until_done(buffer, n_threads, _WAIT_MICROSECONDS) else _RUNNING


@jit
def _wait_until_done(buffer: CommandBuffer, n_threads: int) -> bool:
    finished: bool = wait_until_done(buffer, n_threads, _WAIT_MICROSECONDS)
    return finished


@jit
def _close(buffer: CommandBuffer) -> None:
    close(buffer)


class PersistentWorkers:
    """A jitted function that every thread of a pool runs once a call, without returning to Python in between.

    Python threads must call it one at a time; the pool runs nothing else meanwhile. ``serve`` takes a
    :class:`ThreadContext`, a :class:`CommandBuffer`, the ``fixed`` arguments and the input of the first call. It begins
    with ``begin``, calls ``finish`` after each call, and continues with ``next_input`` while ``wait_for_call`` is True.
    """

    def __init__(self, pool: ThreadPool, serve: Callable[..., None], *fixed: Any) -> None:
        self._pool = pool
        self._serve = serve
        self._fixed = fixed
        self.after_fork()
        register_for_forks(self)

    def after_fork(self) -> None:
        """Forget the threads inside the jitted call, which are the parent's."""
        self._buffer = new_command_buffer(CLOSED)
        self._job: Job | None = None
        self._in_use: object = None

    def call(self, step_input: tuple[Any, ...], in_use: object = None) -> None:
        """Run the function on every thread, and return when all are done; RuntimeError if the thread pool is closed.

        The input, and the owner of memory that it refers to by address, ``in_use``, are kept alive until the next call.
        KeyboardInterrupt ends the waiting at once, not the work; the next call first waits for that work.
        """
        with prompt_return:
            self._wait_for_interrupted()
            self._in_use = (step_input, in_use)
            outcome = _call(self._buffer, step_input, self._pool.n_threads)
            if outcome == _NOT_SENT:
                self._start(step_input, in_use)
            if outcome != _DONE:
                self._wait()

    def close(self) -> None:
        """Let the threads return to the pool; the next call brings them back."""
        _close(self._buffer)

    def release(self) -> None:
        """Drop the fixed arguments and the last input, whose memory is then free; no call is possible after."""
        self._fixed, self._job, self._in_use = (), None, None

    def _wait_for_interrupted(self) -> None:
        """Wait for the previous call if an interrupt ended its waiting."""
        if self._buffer.words[DONE] == self._buffer.words[SEQUENCE] // 2 * self._pool.n_threads:
            return
        if self._job is None:  # interrupted in _start: whether or not the pool has the job, it gets no more calls
            _close(self._buffer)
        else:
            self._wait()

    def _start(self, step_input: tuple[Any, ...], in_use: object) -> None:
        """Bring the threads of the pool into the jitted function, with the input of their first call."""
        serve, fixed = self._serve, self._fixed

        def work(ctx: ThreadContext, _in_use: object = in_use) -> None:
            serve(ctx, buffer, *fixed, step_input)

        _close(self._buffer)
        self._job, buffer = None, new_command_buffer(2)
        self._buffer = buffer
        self._job = self._pool.start(work)

    def _wait(self) -> None:
        """Return when the threads are done with all calls; raise what one of them raised."""
        while not _wait_until_done(self._buffer, self._pool.n_threads):
            if self._job is not None and self._job.failures:
                failure = self._job.failures[0]
                _close(self._buffer)
                self._buffer, self._job = new_command_buffer(CLOSED), None
                raise failure
