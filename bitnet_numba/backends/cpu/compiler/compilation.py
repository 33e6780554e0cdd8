"""What this process has compiled, and the line that says so while it takes long."""

import logging
import threading
import time
from typing import Any

from numba.core import event

from bitnet_numba.backends.cpu.compiler import separate
from bitnet_numba.backends.cpu.compiler.compiled import compiled
from bitnet_numba.backends.cpu.compiler.kernel_cache import cache_folder
from bitnet_numba.backends.cpu.compiler.shipped import shipped

_logger = logging.getLogger("bitnet_numba")

NOTICE_DELAY = 1.0
"""Seconds of compiling after which a line says so."""


class Watch(event.Listener):
    """Listens to Numba, under whose global lock one thread compiles at a time; what a function calls is inside it."""

    def __init__(self) -> None:
        self.depth = 0
        self._started: float | None = None
        self._ended = self._since = 0.0
        self._notice: threading.Timer | None = None
        self._has_said = False

    def on_miss(self) -> None:
        """Take note that one of this package's functions is not in the cache, so that it is compiled next."""
        compiled.kernels += 1
        if self._started is None:
            self._begin()

    def on_start(self, event: Any) -> None:
        self.depth += 1

    def on_end(self, event: Any) -> None:
        if self.depth == 1:
            separate.complete()
        self.depth -= 1
        if self.depth == 0 and self._started is not None:
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
        compiled.seconds += self._ended - (self._started or self._ended)
        self._started = None
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None
        if self._has_said:
            _logger.info("%d kernels compiled in %.1f s so far", compiled.kernels, compiled.seconds)

    def _say(self) -> None:
        self._has_said = True
        reason, unfit = cache_folder().reason, shipped().reason
        if reason is None:
            line = "Compiling kernels for this machine (once; later starts take a second or two) ..."
        else:
            line = f"Compiling kernels, at each start, for they cannot be kept: {reason}"
        _logger.warning("%s", line if unfit is None else f"{line} ({unfit})")


watch = Watch()
event.register("numba:compile", watch)
