"""How far something long has come, on stderr: one line that changes at a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from bitnet_numba.files import human_size
from bitnet_numba_cli import _ui

if TYPE_CHECKING:
    from bitnet_numba.formats.gguf_writer import Progress as Writing
    from bitnet_numba.hub.transfer import Progress as Download

TERMINAL_INTERVAL = 0.2  # seconds
LOG_INTERVAL = 10.0


class ProgressLine:
    """A line about what goes on; use it in a ``with`` statement, so that it is taken away at the end."""

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

    def show(self, text: str, *, is_last: bool = False) -> None:
        """Show how far it has come; unless it is the end, not so soon after the last time."""
        now = time.monotonic()
        if not is_last and now - self._last < (TERMINAL_INTERVAL if self._terminal else LOG_INTERVAL):
            return
        self._last = now
        if self._terminal:
            click.echo(f"\r{text:<{self._width}}", err=True, nl=False)
            self._width = len(text)
        else:
            _ui.say(text)

    def say(self, text: str) -> None:
        """Write a line of its own."""
        self.clear()
        _ui.say(text)

    def clear(self) -> None:
        """Remove the line that changes."""
        if self._width:
            click.echo(f"\r{' ' * self._width}\r", err=True, nl=False)
            self._width = 0


# ---- downloads -------------------------------------------------------------------------------------------------------
def show_download(line: ProgressLine, progress: "Download") -> None:
    """Show how far a download has come, from its beginning to its end."""
    line.show(describe_download(progress), is_last=progress.done == progress.total)


def describe_download(progress: "Download") -> str:
    """Say in one line how far a download has come, how fast it is, and how long the rest will take."""
    parts = [f"{progress.name}: {human_size(progress.done)}"]
    if progress.total:
        parts[0] += f" of {human_size(progress.total)} ({100 * progress.done / progress.total:.0f} %)"
    if progress.rate:
        parts.append(f"{human_size(int(progress.rate))}/s")
    if progress.seconds_left:
        parts.append(f"{_duration(progress.seconds_left)} left")
    return ", ".join(parts)


# ---- files that are written ------------------------------------------------------------------------------------------
@contextmanager
def writing(what: str) -> Iterator[Callable[["Writing"], None]]:
    """Give what takes the reports of a writer; what is done before anybody wonders goes without a word."""
    started = time.monotonic()
    patience = TERMINAL_INTERVAL if _ui.stderr_is_terminal() else LOG_INTERVAL
    with ProgressLine() as line:

        def report(progress: "Writing") -> None:
            seconds = time.monotonic() - started
            if seconds >= patience:
                line.show(describe_writing(what, progress, seconds))

        yield report


def describe_writing(what: str, progress: "Writing", seconds: float) -> str:
    """Say in one line how much is written after so long, how long the rest will take, and where it is."""
    parts = [f"{what}: {100 * progress.done / progress.total:.0f} %"]
    if progress.done:
        parts.append(f"{_duration(seconds * (progress.total - progress.done) / progress.done)} left")
    return ", ".join([*parts, progress.tensor])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
