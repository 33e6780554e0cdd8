"""A team that stays in jitted code between its calls, so that none of its threads needs the interpreter's lock.

Beside a busy Python thread, each time that the lock is taken costs 5 ms. Here the calling thread takes it once a call,
when it comes back; the team's threads sleep where they are until the arguments of the next call lie in a box.
"""

import threading
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import register_jitable

from bitnet_numba.kernels.jit import jit
from bitnet_numba.simd.operation import I64, Builder, Value, address, array_op
from bitnet_numba.simd.team import Crew, Job, Team
from bitnet_numba.simd.waiting import LINE, fetch_add, load_acquire, sleep_while, store_release, wake_all

STAGE, DONE, KIND = 0, LINE, 2 * LINE  # where the numbers of a mail's words begin, each in a cache line of its own
BOX_BYTES = 16384
_LISTEN_MICROSECONDS = 100_000  # how long a signal may wait that comes just before the calling thread falls asleep
_SLEEP_MICROSECONDS = 60_000_000
_NOBODY, _RUNNING, _FINISHED = range(3)
_DISMISSED = 1


class Mail(NamedTuple):
    """What the calling thread and the team write to each other from the start of the team's stay to its dismissal.

    Attributes
    ----------
    words : int64[3 * 8]
        A cache line each. ``STAGE`` is twice the number of calls so far, and one more when the team has been dismissed;
        ``DONE`` counts the threads that have finished calls; ``KIND`` stands for the type of a call's arguments.
    box : uint8[BOX_BYTES]
        The arguments of the last call.
    """

    words: npt.NDArray[np.int64]
    box: npt.NDArray[np.uint8]


# ---- the box ---------------------------------------------------------------------------------------------------------
@array_op
def _put(_: Any, box: types.Array, value: types.BaseTuple) -> Any:
    """Write a tuple into the box as it stands in registers: arrays as addresses and lengths."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        b.store(args[1], _in_box(context, b, signature, args[0], args[1].type))
        return context.get_dummy_value()

    return types.void(box, value), lower


@array_op
def _taken(_: Any, box: types.Array, like: types.BaseTuple) -> Any:
    """Return the tuple in the box, of the type of another."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        return b.load(_in_box(context, b, signature, args[0], args[1].type))

    return like(box, like), lower


@array_op
def _kind(_: Any, value: types.BaseTuple) -> Any:
    """Return a number that stands for a tuple's type."""
    number = zlib.crc32(str(value).encode())

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        return ir.Constant(I64, number)

    return types.int64(value), lower


def _in_box(context: Any, b: Builder, signature: Any, box: Value, kind: Any) -> Value:
    if context.get_abi_sizeof(kind) > BOX_BYTES:
        raise NotImplementedError(f"arguments of {context.get_abi_sizeof(kind)} bytes, the box holds {BOX_BYTES}")
    return address(context, b, signature.args[0], box, ir.Constant(I64, 0), kind)


# ---- the team's side -------------------------------------------------------------------------------------------------
@register_jitable
def begin(mail: Mail, arguments: Any) -> None:
    """Say which type of arguments this stay can take, before its first call."""
    mail.words[KIND] = _kind(arguments)


@register_jitable
def finish(crew: Crew, mail: Mail, n_calls: int) -> None:
    """Tell the calling thread that this one is done."""
    if fetch_add(mail.words, DONE) + 1 == n_calls * crew.n_threads:
        wake_all(mail.words, DONE)


@register_jitable
def is_called(mail: Mail, n_calls: int) -> bool:
    """Sleep until a next call comes, or the dismissal; tell which."""
    while load_acquire(mail.words, STAGE) == 2 * n_calls:
        sleep_while(mail.words, STAGE, 2 * n_calls, _SLEEP_MICROSECONDS)
    return load_acquire(mail.words, STAGE) == 2 * (n_calls + 1)


@register_jitable
def next_arguments(mail: Mail, like: Any) -> Any:
    """Return the arguments of the call that has come, of the type of the last one's."""
    return _taken(mail.box, like)


# ---- the calling thread's side ---------------------------------------------------------------------------------------
@jit
def _call(mail: Mail, arguments: Any, n_calls: int, n_threads: int) -> int:
    """Hand the arguments of a call to the threads that stand by, and wait for a while."""
    if load_acquire(mail.words, STAGE) != 2 * (n_calls - 1) or mail.words[KIND] != _kind(arguments):
        return _NOBODY
    _put(mail.box, arguments)
    store_release(mail.words, STAGE, 2 * n_calls)
    wake_all(mail.words, STAGE)
    return _wait(mail, n_calls, n_threads)


@jit
def _wait(mail: Mail, n_calls: int, n_threads: int) -> int:
    """Sleep until all threads are done with a call, or a signal comes, or a while is over."""
    done = load_acquire(mail.words, DONE)
    if done < n_calls * n_threads:
        sleep_while(mail.words, DONE, done, _LISTEN_MICROSECONDS)
        done = load_acquire(mail.words, DONE)
    return _FINISHED if done == n_calls * n_threads else _RUNNING


@jit
def _dismiss(mail: Mail) -> None:
    store_release(mail.words, STAGE, load_acquire(mail.words, STAGE) | 1)
    wake_all(mail.words, STAGE)


def _new_mail(stage: int) -> Mail:
    mail = Mail(np.zeros(3 * LINE, np.int64), np.zeros(BOX_BYTES, np.uint8))
    mail.words[STAGE] = stage
    return mail


class Standby:
    """One jitted function that a team runs again and again.

    Parameters
    ----------
    team : Team
        Runs nothing else as long as it stands by.
    serve : callable
        Takes a :class:`Crew`, a :class:`Mail` and the arguments of the first call. It begins with :func:`begin`, calls
        :func:`finish` after each call, and goes on with :func:`next_arguments` as long as :func:`is_called`.
    """

    def __init__(self, team: Team, serve: Callable[..., None]) -> None:
        self._team = team
        self._serve = serve
        self._turn = threading.Lock()
        self._mail = _new_mail(_DISMISSED)
        self._n_calls = 0
        self._stay: Job | None = None
        self._in_use: object = None

    def call(self, *arguments: Any, in_use: object = None) -> None:
        """Run the function on every thread of the team, and return when all are done.

        An interrupt ends the waiting at once, not the work; a next call begins when the team is done with this one.

        Parameters
        ----------
        *arguments
            Of the types that Numba knows. They are kept until the next call.
        in_use : object, optional
            What else must be kept so long: memory that the arguments name by its address.

        Raises
        ------
        RuntimeError
            If the team has been closed.
        """
        with self._turn:
            if self._mail.words[DONE] < self._n_calls * self._team.n_threads:  # an interrupt has ended the waiting
                self._wait()
            self._in_use = (arguments, in_use)
            self._n_calls += 1
            outcome = _call(self._mail, arguments, self._n_calls, self._team.n_threads)
            if outcome == _NOBODY:
                self._begin_stay(arguments)
            if outcome != _FINISHED:
                self._wait()

    def close(self) -> None:
        """Send the threads back to where a team's threads wait; a next call fetches them again."""
        _dismiss(self._mail)

    def _begin_stay(self, arguments: tuple[Any, ...]) -> None:
        self.close()
        self._mail, self._n_calls = _new_mail(2), 1
        mail = self._mail
        self._stay = self._team.start(lambda crew: self._serve(crew, mail, *arguments))

    def _wait(self) -> None:
        """Return when the team is done with all calls."""
        while _wait(self._mail, self._n_calls, self._team.n_threads) != _FINISHED:
            if self._stay is not None and self._stay.failures:
                failure = self._stay.failures[0]
                self.close()
                self._mail, self._n_calls, self._stay = _new_mail(_DISMISSED), 0, None
                raise failure
