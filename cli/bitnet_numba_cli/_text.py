"""Input and output of commands: prompts from arguments, files and pipes; results to stdout; files written whole."""

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
from bitnet_numba.files import atomic_write, open_regular

STDIN = "-"
MAX_FILE_BYTES = 64 << 20  # the longest text that a tokenizer takes, in UTF-8
_BYTE_ORDER_MARK = "\ufeff"


# ---- input -----------------------------------------------------------------------------------------------------------
def read_text(argument: str | None, file: Path | None, what: str) -> str:
    """Return the text of the argument, of the file, or of standard input; ``what`` names it in messages: ``prompt``.

    Standard input is read if the argument or the file is ``-``, or if neither is given and standard input is no
    terminal. In a file and in standard input CR LF becomes LF, and a byte order mark and one last newline are dropped.
    """
    if argument is not None and file is not None:
        raise click.UsageError(f"The {what} is given twice, as an argument and with --file; give one")
    if argument is not None and argument != STDIN:
        text = _check_argument(argument, what)
    elif file is not None and str(file) != STDIN:
        text = _file_text(_read_file(file), str(file))
    elif argument is None and file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise click.UsageError(f"There is no {what}; give it as an argument, with --file, or through a pipe")
    else:
        text = _file_text(_stdin().read(), "standard input")
    if not text:
        raise BitNetError(f"the {what} is empty; give at least one character")
    return text


def stdin_lines() -> Iterator[str]:
    """Yield the lines of standard input without their newlines."""
    for number, line in enumerate(_stdin(), start=1):
        text = _decode(line, f"standard input, line {number}").removesuffix("\n").removesuffix("\r")
        yield text.removeprefix(_BYTE_ORDER_MARK) if number == 1 else text


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
    with open_regular(path) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BitNetError(f"{path}: more than {MAX_FILE_BYTES:,} bytes; name a text file")
    return data


def _file_text(data: bytes, source: str) -> str:
    """Decode a file as text editors of any system write it."""
    text = _decode(data, source).removeprefix(_BYTE_ORDER_MARK)
    return text.replace("\r\n", "\n").removesuffix("\n")


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BitNetError(f"{source}: byte {error.start} is not UTF-8; convert the text first") from error


# ---- output ----------------------------------------------------------------------------------------------------------
def write(result: str | Mapping[str, Any]) -> None:
    """Write text, or a mapping as one line of JSON, to stdout at once.

    Text is written as it is: ``click.echo`` would remove escape sequences on the way into a pipe.
    """
    if sys.stdout is None:
        raise BitNetError("standard output is closed; open it, or send it to /dev/null")
    try:
        sys.stdout.write(result if isinstance(result, str) else json.dumps(result) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # handled where the command ends
        raise
    except OSError as error:
        discard_buffer(sys.stdout)
        raise BitNetError(f"standard output: cannot be written ({error.strerror}); send it elsewhere") from error


def discard_buffer(stream: TextIO) -> None:
    """Send what a stream still buffers to /dev/null, so that Python's flush at exit does not fail once more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


@contextmanager
def write_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears whole or not at all, also after SIGTERM."""
    with removal_on_sigterm(), atomic_write(path) as file:
        yield file


@contextmanager
def removal_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM inside the block into an exception, so that unfinished files are removed."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
