"""Progress of long work on stderr: one line that is rewritten on a terminal, a line now and then elsewhere."""

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
LOG_INTERVAL = 10.0  # seconds
TOKEN_DELAY = 1.0  # seconds that tokens may take before its progress is shown


class ProgressLine:
    """A progress line; a ``with`` statement removes it at the end."""

    def __init__(self) -> None:
        self._terminal = _ui.stderr_is_terminal()
        self.interval = TERMINAL_INTERVAL if self._terminal else LOG_INTERVAL
        self._last = -self.interval
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, text: str, *, is_last: bool = False) -> None:
        """Show the progress, at most once an interval and at the end."""
        now = time.monotonic()
        if not is_last and now - self._last < self.interval:
            return
        self._last = now
        if self._terminal:
            click.echo(f"\r{text:<{self._width}}", err=True, nl=False)
            self._width = len(text)
        else:
            _ui.say(text)

    def say(self, text: str) -> None:
        """Replace the progress by a line that stays."""
        self.clear()
        _ui.say(text)

    def clear(self) -> None:
        """Remove the progress."""
        if self._width:
            click.echo(f"\r{' ' * self._width}\r", err=True, nl=False)
            self._width = 0


# ---- downloads -------------------------------------------------------------------------------------------------------
def show_download(line: ProgressLine, progress: "Download") -> None:
    """Show the progress of a download."""
    line.show(describe_download(progress), is_last=progress.done == progress.total)


def describe_download(progress: "Download") -> str:
    """Return size, rate and time left of a download in one line."""
    parts = [f"{progress.name}: {human_size(progress.done)}"]
    if progress.total:
        parts[0] += f" of {human_size(progress.total)} ({100 * progress.done / progress.total:.0f} %)"
    if progress.rate:
        parts.append(f"{human_size(int(progress.rate))}/s")
    if progress.seconds_left:
        parts.append(f"{_duration(progress.seconds_left)} left")
    return ", ".join(parts)


# ---- written files ---------------------------------------------------------------------------------------------------
@contextmanager
def writing(what: str) -> Iterator[Callable[["Writing"], None]]:
    """Give a callback that shows the progress of a writer; work that ends within an interval shows none."""
    started = time.monotonic()
    with ProgressLine() as line:

        def report(progress: "Writing") -> None:
            seconds = time.monotonic() - started
            if seconds >= line.interval:
                line.show(describe_writing(what, progress, seconds))

        yield report


def describe_writing(what: str, progress: "Writing", seconds: float) -> str:
    """Return share, time left and current tensor in one line."""
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


@contextmanager
def token_progress(what: str = "reading the prompt") -> "Iterator[Callable[[int, int], None]]":
    """Yield what shows how many tokens are done, if they take over a second."""
    started = time.monotonic()
    with ProgressLine() as line:

        def show(done: int, total: int) -> None:
            if done == total:
                line.clear()
            elif time.monotonic() - started >= TOKEN_DELAY:
                line.show(f"{what}: {done:,} of {total:,} tokens")

        yield show
