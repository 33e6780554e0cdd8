"""``chat``: a conversation in the terminal, or through a pipe, a line a turn."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import Any

import click

from bitnet_numba.errors import BitNetError
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._conversation import Conversation
from bitnet_numba_cli._model import loaded
from bitnet_numba_cli._options import loading_arguments, loading_options, sampling_arguments, sampling_options

PROMPT = "> "
LEAVE = ("/exit", "/quit")


@click.command("chat", short_help="Talk with a model.")
@click.option("--system", metavar="TEXT", help="System message before the first turn.")
@loading_options
@sampling_options
def command(system: str | None, **options: Any) -> None:
    """Talk with a model, which remembers the conversation.

    Ctrl-C stops an answer, Ctrl-D leaves, and /help lists the commands: /clear, /system, /save, /stats, /exit.

    If standard input is a pipe, every line is one turn, stdout holds only the answers, and the first error ends the
    conversation.
    """
    loading, sampling = loading_arguments(options), sampling_arguments(options)
    interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    with loaded(loading) as model:
        conversation = Conversation(model, sampling, system)
        if interactive:
            _talk(conversation)
        else:
            _answer_lines(conversation)


def _talk(conversation: Conversation) -> None:
    """Talk at a terminal; errors and Ctrl-C end an answer, not the conversation."""
    _ui.say("Type a message; /help lists the commands, Ctrl-D leaves.")
    for line in _typed_lines():
        if line.strip() in LEAVE:
            break
        try:
            with _stop_on_interrupt() as stopped:
                _take_turn(conversation, line, stopped)
        except KeyboardInterrupt:
            _ui.say("")
        except BitNetError as error:
            _ui.say(f"error: {error}")


def _answer_lines(conversation: Conversation) -> None:
    """Answer the lines of a pipe or a file; errors and Ctrl-C end the program."""
    for line in _text.stdin_lines():
        if line.strip() in LEAVE:
            break
        _take_turn(conversation, line, threading.Event())


def _take_turn(conversation: Conversation, line: str, stopped: threading.Event) -> None:
    if line.startswith("/"):
        conversation.run_command(line.strip())
    elif line.strip():
        conversation.answer(line, stopped)


def _typed_lines() -> Iterator[str]:
    """Yield the typed lines until Ctrl-D, with line editing if Python has it; Ctrl-C drops the line."""
    with suppress(ImportError):
        import_module("readline")  # gives input() its editing
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            _ui.say("")
        except EOFError:
            _ui.say("")
            return


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that the current step can end; a second one interrupts it."""
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, previous)
