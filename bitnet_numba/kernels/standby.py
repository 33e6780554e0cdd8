"""A team that stays in jitted code between its calls, so that none of its threads needs the interpreter's lock.

Beside a busy Python thread, taking the lock costs what Python lets that one go on for. Here the calling thread takes it
once a call, when it comes back, and is not kept waiting long; the team's threads sleep where they are until the
argument of the next call lies in a box.
"""

import threading
from collections.abc import Callable
from typing import Any

from bitnet_numba.kernels.jit import jit
from bitnet_numba.simd.interpreter import prompt_return
from bitnet_numba.simd.mail import DISMISSED, DONE, STAGE, Mail, dismiss, new_mail, send, wait_until_done
from bitnet_numba.simd.team import Crew, Job, Team

_LISTEN_MICROSECONDS = 100_000  # how long a signal may wait that comes just before the calling thread falls asleep
_NOBODY, _RUNNING, _FINISHED = range(3)


@jit
def _call(mail: Mail, argument: Any, n_threads: int) -> int:
    if not send(mail, argument):
        return _NOBODY
    return _FINISHED if wait_until_done(mail, n_threads, _LISTEN_MICROSECONDS) else _RUNNING


@jit
def _wait_until_done(mail: Mail, n_threads: int) -> bool:
    finished: bool = wait_until_done(mail, n_threads, _LISTEN_MICROSECONDS)
    return finished


@jit
def _dismiss(mail: Mail) -> None:
    dismiss(mail)


class Standby:
    """One jitted function that a team runs again and again.

    Parameters
    ----------
    team : Team
        Runs nothing else as long as it stands by.
    serve : callable
        Takes a :class:`Crew`, a :class:`Mail`, what never changes, and the argument of the first call. It begins with
        :func:`bitnet_numba.simd.mail.begin`, calls ``finish`` after each call, and goes on with ``next_argument`` as
        long as ``wait_for_call`` says.
    *fixed
        What never changes.
    """

    def __init__(self, team: Team, serve: Callable[..., None], *fixed: Any) -> None:
        self._team = team
        self._serve = serve
        self._fixed = fixed
        self._turn = threading.Lock()
        self._mail = new_mail(DISMISSED)
        self._stay: Job | None = None
        self._in_use: object = None

    def call(self, argument: tuple[Any, ...], in_use: object = None) -> None:
        """Run the function on every thread of the team, and return when all are done.

        An interrupt ends the waiting at once, not the work; a next call begins when the team is done with this one.

        Parameters
        ----------
        argument : tuple
            Of a type that Numba knows. It is kept until the next call.
        in_use : object, optional
            What else must be kept so long: memory that it names by its address.

        Raises
        ------
        RuntimeError
            If the team has been closed.
        """
        with self._turn, prompt_return:
            self._settle()
            self._in_use = (argument, in_use)
            outcome = _call(self._mail, argument, self._team.n_threads)
            if outcome == _NOBODY:
                self._begin_stay(argument, in_use)
            if outcome != _FINISHED:
                self._wait()

    def close(self) -> None:
        """Send the threads back to where a team's threads wait; a next call fetches them again."""
        with self._turn:
            _dismiss(self._mail)

    def _settle(self) -> None:
        """Wait for a call before this one whose waiting was interrupted."""
        if self._mail.words[DONE] == self._mail.words[STAGE] // 2 * self._team.n_threads:
            return
        if self._stay is None:  # interrupted while the stay began: whether or not the team knows of it, it is the last
            _dismiss(self._mail)
        else:
            self._wait()

    def _begin_stay(self, argument: tuple[Any, ...], in_use: object) -> None:
        serve, fixed = self._serve, self._fixed

        def work(crew: Crew, _in_use: object = in_use) -> None:
            serve(crew, mail, *fixed, argument)

        _dismiss(self._mail)
        self._stay, mail = None, new_mail(2)
        self._mail = mail
        try:
            self._stay = self._team.start(work)
        except RuntimeError:
            self._mail = new_mail(DISMISSED)
            raise

    def _wait(self) -> None:
        """Return when the team is done with all calls."""
        while not _wait_until_done(self._mail, self._team.n_threads):
            if self._stay is not None and self._stay.failures:
                failure = self._stay.failures[0]
                _dismiss(self._mail)
                self._mail, self._stay = new_mail(DISMISSED), None
                raise failure
