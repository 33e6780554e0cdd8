"""The GIL's switch interval: how long another Python thread may compute before it must give the lock up."""

import sys
import threading
from types import TracebackType

from bitnet_numba.after_fork import register_for_forks

SHORT = 1000  # microseconds; Python's default of 5000 is a quarter of a token's time


class PromptReturn:
    """A context manager at whose end the GIL is needed: it lowers the switch interval to 1 ms.

    Python has one interval for all threads, and reads it when a thread begins to wait. The end of the last block
    restores the old value, unless somebody else has set another one meanwhile. A shorter interval is left alone.
    """

    def __init__(self) -> None:
        self._n_inside = 0
        self._before = 0
        self._lock = threading.Lock()
        register_for_forks(self)

    def after_fork(self) -> None:
        """Take back what blocks of other threads set, which do not end in this process."""
        self._lock = threading.Lock()
        if self._n_inside and self._before > SHORT and _interval() == SHORT:
            _set_interval(self._before)
        self._n_inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._n_inside += 1
            if self._n_inside == 1:
                self._before = _interval()
                if self._before > SHORT:
                    _set_interval(SHORT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0 and self._before > SHORT and _interval() == SHORT:
                _set_interval(self._before)


def _interval() -> int:
    return round(1e6 * sys.getswitchinterval())


def _set_interval(microseconds: int) -> None:
    sys.setswitchinterval((microseconds + 0.5) / 1e6)  # Python truncates to microseconds


prompt_return = PromptReturn()
