"""Trying again: how often, and how long to wait in between."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bitnet_numba.errors import BitNetError, RateLimitError

Say = Callable[[str], None]

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when something is tried again.

    Attributes
    ----------
    attempts : int
        How often something is tried before its failure counts. It starts anew whenever bytes have come.
    first_wait : float
        Seconds before the second attempt; each later wait is twice as long.
    longest_wait : float
        Seconds, where the server does not say how long to wait.
    longest_retry_after : float
        Seconds, where it does. A server that asks for more ends the attempts.
    timeout : float
        Seconds for which a server may be silent.
    """

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_retry_after: float = 300.0
    timeout: float = 10.0

    def wait(self, failures: int) -> float:
        """Return how many seconds to wait after so many failures in a row."""
        return float(min(self.first_wait * 2 ** (failures - 1), self.longest_wait))


class TransientError(Exception):
    """Something that may go well the next time.

    Parameters
    ----------
    error : BitNetError
        What the user is told when it never does.
    retry_after : float, optional
        How many seconds the server wants to be left alone.
    progressed : bool
        Whether bytes have come before it failed.
    """

    def __init__(self, error: BitNetError, *, retry_after: float | None = None, progressed: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        self.progressed = progressed


def with_retries(action: Callable[[], _Result], policy: RetryPolicy, say: Say) -> _Result:
    """Do something until it goes well, or has failed too often.

    Parameters
    ----------
    action : callable
        Raises :class:`TransientError` for what may go well the next time.
    policy : RetryPolicy
    say : callable
        Told of every failure that is followed by another attempt.

    Raises
    ------
    BitNetError
        The last failure's.
    """
    failures = 0
    while True:
        try:
            return action()
        except TransientError as failure:
            failures = 1 if failure.progressed else failures + 1
            wait = policy.wait(failures) if failure.retry_after is None else failure.retry_after
            if failures >= policy.attempts or wait > max(policy.longest_wait, policy.longest_retry_after):
                raise _final(failure, policy) from None
            say(f"{failure.error}; trying again in {wait:.3g} s (attempt {failures + 1} of {policy.attempts})")
            time.sleep(wait)


def _final(failure: TransientError, policy: RetryPolicy) -> BitNetError:
    if isinstance(failure.error, RateLimitError):
        wish = "some time" if failure.retry_after is None else f"{failure.retry_after:.3g} s"
        return RateLimitError(f"{failure.error}; try again after {wish}, or set HF_TOKEN, which raises the limit")
    tried = f"tried {policy.attempts} times" if policy.attempts > 1 else "tried once"
    return type(failure.error)(f"{failure.error}; {tried}: check the network and the proxy, then start it again")
