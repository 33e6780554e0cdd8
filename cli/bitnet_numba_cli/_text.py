"""Text that comes in and goes out: prompts from arguments, files and pipes; answers to stdout; files written whole."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import click

from bitnet_numba.errors import BitNetError
from bitnet_numba.files import atomic_write

STDIN = "-"


def read_text(argument: str | None, file: Path | None, what: str) -> str:
    """Return the text of the argument, of the file, or of standard input.

    Standard input is read where the argument is ``-``, and where neither argument nor file is given and standard input
    is no terminal. One newline at the end of a file or of standard input belongs to the file and is dropped.

    Parameters
    ----------
    argument : str or None
        The text itself, or ``-``.
    file : Path or None
        The file that holds the text; ``-`` is standard input.
    what : str
        What the text is, for messages: ``prompt``.

    Raises
    ------
    click.UsageError
        If there is no text, or two.
    BitNetError
        If the file cannot be read, or the text is empty or not UTF-8.
    """
    if argument is not None and file is not None:
        raise click.UsageError(f"The {what} is given twice, as an argument and with --file; give one")
    if argument is not None and argument != STDIN:
        text = _check_argument(argument, what)
    elif file is not None and str(file) != STDIN:
        text = _decode(_read_file(file), str(file)).removesuffix("\n")
    elif argument is None and file is None and stdin_is_terminal():
        raise click.UsageError(f"There is no {what}; give it as an argument, with --file, or through a pipe")
    else:
        text = _decode(_stdin().read(), "standard input").removesuffix("\n")
    if not text:
        raise BitNetError(f"the {what} is empty; give at least one character")
    return text


def stdin_is_terminal() -> bool:
    """Say whether a person types standard input; a closed one counts as a terminal that nobody sits at."""
    return sys.stdin is None or sys.stdin.isatty()


def stdin_lines() -> Iterator[str]:
    """Yield the lines of standard input without their newlines.

    Raises
    ------
    BitNetError
        If a line is not UTF-8, or standard input is closed.
    """
    for number, line in enumerate(_stdin(), start=1):
        yield _decode(line, f"standard input, line {number}").removesuffix("\n").removesuffix("\r")


def write_text(text: str) -> None:
    """Write to stdout at once, unchanged: ``click.echo`` would remove escape sequences on the way into a pipe.

    Raises
    ------
    BrokenPipeError
        If the reader of a pipe has left.
    BitNetError
        If stdout is closed, or its disk is full.
    """
    if sys.stdout is None:
        raise BitNetError("standard output is closed; open it, or send it to /dev/null")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon(sys.stdout)
        raise BitNetError(f"standard output: cannot be written ({error.strerror}); send it elsewhere") from error


def abandon(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere: Python flushes it while it exits, and that must not fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def write_json(value: Mapping[str, Any]) -> None:
    """Write one JSON object in one line to stdout."""
    write_text(json.dumps(value) + "\n")


def check_target(path: Path) -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold.

    Raises
    ------
    BitNetError
        If its folder does not exist or takes no files, or the path is a folder or a link.
    """
    if path.is_symlink() or path.is_dir():
        raise BitNetError(f"{path}: is a folder or a symbolic link; name a plain file")
    if not path.parent.is_dir():
        raise BitNetError(f"{path.parent}: no such folder; create it first")
    if not os.access(path.parent, os.W_OK):
        raise BitNetError(f"{path.parent}: not writable; choose another folder")


@contextmanager
def write_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears whole or not at all, as :func:`bitnet_numba.files.atomic_write` does.

    SIGTERM takes back what is written, too.

    Raises
    ------
    BitNetError
        If the file cannot be written there.
    """
    with orderly_end(), atomic_write(path) as file:
        yield file


@contextmanager
def orderly_end() -> Iterator[None]:
    """Turn SIGTERM inside the block into an exception, which removes unfinished files on its way."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise BitNetError("standard input is closed; open it, or give the text as an argument")
    return sys.stdin.buffer


def _check_argument(argument: str, what: str) -> str:
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        raise BitNetError(f"the {what}: character {error.start} is not UTF-8; convert the text first") from error
    return argument


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BitNetError(f"{path}: cannot be read ({error.strerror}); name a text file") from error


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BitNetError(f"{place}: byte {error.start} is not UTF-8; convert the text first") from error
