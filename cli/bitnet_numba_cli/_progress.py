"""How far something long has come, on stderr: one line that changes at a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from bitnet_numba.files import human_size
from bitnet_numba_cli import _ui

if TYPE_CHECKING:
    from bitnet_numba.hub.transfer import Progress

TERMINAL_INTERVAL = 0.2  # seconds
LOG_INTERVAL = 10.0


class ProgressLine:
    """Shows a download; use it in a ``with`` statement, so that the line is finished at the end."""

    def __init__(self) -> None:
        self._terminal = _ui.stderr_is_terminal()
        self._last = -LOG_INTERVAL
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, progress: "Progress") -> None:
        """Show how far a download has come, unless that was done just now."""
        now = time.monotonic()
        if progress.done != progress.total and now - self._last < (
            TERMINAL_INTERVAL if self._terminal else LOG_INTERVAL
        ):
            return
        self._last = now
        line = describe(progress)
        if self._terminal:
            click.echo(f"\r{line:<{self._width}}", err=True, nl=False)
            self._width = len(line)
        else:
            _ui.say(line)

    def say(self, text: str) -> None:
        """Write a line of its own."""
        self.clear()
        _ui.say(text)

    def clear(self) -> None:
        """Remove the line that changes."""
        if self._width:
            click.echo(f"\r{' ' * self._width}\r", err=True, nl=False)
            self._width = 0


def describe(progress: "Progress") -> str:
    """Say in one line how far a download has come, how fast it is, and how long the rest will take."""
    parts = [f"{progress.name}: {human_size(progress.done)}"]
    if progress.total:
        parts[0] += f" of {human_size(progress.total)} ({100 * progress.done / progress.total:.0f} %)"
    if progress.rate:
        parts.append(f"{human_size(int(progress.rate))}/s")
    if progress.seconds_left:
        parts.append(f"{_duration(progress.seconds_left)} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
