"""How soon a thread gets the interpreter's lock back from another one that computes."""

import sys
import threading
from types import TracebackType

SOON = 1000  # microseconds; Python's own 5000 are a quarter of a token


class PromptReturn:
    """A ``with`` block at whose end the lock is wanted: who holds it then is asked for it after a millisecond.

    Python keeps one such time for all threads, which it looks up when one of them begins to wait. It is as it was when
    the last block ends, unless somebody else has set it meanwhile. Where it is shorter already, it stays.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._before = 0

    def __enter__(self) -> None:
        with self._lock:
            self._n_inside += 1
            if self._n_inside == 1:
                self._before = _interval()
                if self._before > SOON:
                    _set_interval(SOON)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0 and self._before > SOON and _interval() == SOON:
                _set_interval(self._before)


def _interval() -> int:
    return round(1e6 * sys.getswitchinterval())


def _set_interval(microseconds: int) -> None:
    sys.setswitchinterval((microseconds + 0.5) / 1e6)  # Python cuts off what is below a microsecond


prompt_return = PromptReturn()
