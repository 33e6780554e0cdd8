"""What this process has compiled, and the line that says so while it takes long."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from numba.core import event

from bitnet_numba.backends.cpu.compiler.function_cache import FunctionCache
from bitnet_numba.backends.cpu.compiler.kernel_cache import cache_folder

_logger = logging.getLogger("bitnet_numba")

NOTICE_DELAY = 1.0
"""Seconds of compiling after which a line says so."""


@dataclass
class Compilation:
    """Kernels that were compiled rather than loaded, and the seconds that took."""

    kernels: int = 0
    seconds: float = 0.0


compiled = Compilation()
"""Of this process, so far."""


class _Watch(event.Listener):
    """Listens to Numba, under whose global lock one thread compiles at a time; what a function calls is inside it."""

    def __init__(self) -> None:
        self._depth = 0
        self._started = self._ended = self._since = 0.0
        self._notice: threading.Timer | None = None
        self._has_said = False

    def on_start(self, event: Any) -> None:
        if not _is_kernel(event):
            return
        compiled.kernels += 1
        self._depth += 1
        if self._depth == 1:
            self._begin()

    def on_end(self, event: Any) -> None:
        if not _is_kernel(event):
            return
        self._depth -= 1
        if self._depth == 0:
            self._end()

    def _begin(self) -> None:
        self._started = time.monotonic()
        if self._started - self._ended > NOTICE_DELAY:  # not one of several, each of them short
            self._since, self._has_said = self._started, False
        if self._has_said:
            return
        self._notice = threading.Timer(max(0.0, self._since + NOTICE_DELAY - self._started), self._say)
        self._notice.daemon = True
        try:
            self._notice.start()
        except RuntimeError:  # no thread to be had: say it early
            self._say()

    def _end(self) -> None:
        self._ended = time.monotonic()
        compiled.seconds += self._ended - self._started
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None
        if self._has_said:
            _logger.info("%d kernels compiled in %.1f s so far", compiled.kernels, compiled.seconds)

    def _say(self) -> None:
        self._has_said = True
        reason = cache_folder().reason
        if reason is None:
            _logger.warning("Compiling kernels for this machine (once; later starts take a second or two) ...")
        else:
            _logger.warning("Compiling kernels, at each start, for they cannot be kept: %s", reason)


def _is_kernel(event: Any) -> bool:
    return isinstance(event.data["dispatcher"]._cache, FunctionCache)


def watch() -> None:
    """Begin to count; called once, before anything is compiled."""
    event.register("numba:compile", _Watch())
