"""Retries with exponential back-off, as downloads need them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bitnet_numba.errors import BitNetError, RateLimitError

Say = Callable[[str], None]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to retry; times in seconds."""

    attempts: int = 6  # before a failure is final; counted anew whenever bytes arrived
    first_wait: float = 1.0  # before the second attempt; each later wait is twice as long
    longest_wait: float = 60.0  # where the server sends no ``Retry-After``
    longest_retry_after: float = 300.0  # where it does; a longer one makes the failure final
    timeout: float = 10.0  # without a byte from the server before an attempt fails

    def wait(self, failures: int) -> float:
        """Return the seconds to wait after this number of failures in a row."""
        return float(min(self.first_wait * 2 ** (failures - 1), self.longest_wait))


class TransientError(Exception):
    """A failure to retry: the error to raise in the end, the server's ``Retry-After`` in seconds, and any progress."""

    def __init__(self, error: BitNetError, *, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        self.progressed = False


def with_retries(action: Callable[[], Result], policy: RetryPolicy, say: Say) -> Result:
    """Call ``action`` until it raises no :class:`TransientError`, and tell ``say`` of each retry.

    Raises the error of the last failure.
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
        wait = "some time" if failure.retry_after is None else f"{failure.retry_after:.3g} s"
        return RateLimitError(f"{failure.error}; try again after {wait}, or set HF_TOKEN, which raises the limit")
    tried = f"tried {policy.attempts} times" if policy.attempts > 1 else "tried once"
    return type(failure.error)(f"{failure.error}; {tried}: check the network and the proxy, then start it again")
