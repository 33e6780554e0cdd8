"""``chat``: a conversation in the terminal, or through a pipe, a line a turn."""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from bitnet_numba.errors import BitNetError
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._conversation import Conversation
from bitnet_numba_cli._model import loaded
from bitnet_numba_cli._options import (
    PATH,
    loading_arguments,
    loading_options,
    model_by_name,
    sampling_arguments,
    sampling_options,
)

LEAVE = ("/exit", "/quit")
BLOCK = '"""'


@click.command("chat", short_help="Talk with a model.")
@click.option("--system", metavar="TEXT", help="System message before the first turn.")
@click.option("--load", "saved", type=PATH, metavar="FILE", help="Go on with a conversation that /save wrote.")
@click.option("--history/--no-history", default=True, help="Keep what is typed at a terminal for later conversations.")
@model_by_name
@loading_options
@sampling_options
def command(system: str | None, saved: Path | None, history: bool, **options: Any) -> None:
    """Talk with a model, which remembers the conversation.

    Ctrl-C stops an answer, Ctrl-D leaves, and /help lists the commands: /clear, /system, /retry, /undo, /save, /load,
    /stats, /exit. Pasted lines are one turn, and so are the lines between two lines of three quotation marks.

    Where a conversation fills the context, its oldest turns are no longer sent to the model; the system message stays.

    If standard input is a pipe, every line is one turn, stdout holds only the answers, and the first error ends the
    conversation.
    """
    loading, sampling = loading_arguments(options), sampling_arguments(options)
    interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    with loaded(loading) as model:
        conversation = Conversation(model, sampling, system)
        if saved is not None:
            conversation.load(saved)
        if interactive:
            _talk(conversation, history)
        else:
            _answer_lines(conversation)


def _talk(conversation: Conversation, keeps_history: bool) -> None:
    """Talk at a terminal; errors and Ctrl-C end an answer, not the conversation."""
    from bitnet_numba_cli._terminal import history_file, typed_lines  # here: other commands start without it

    _ui.say("Type a message; /help lists the commands, Ctrl-D leaves.")
    for turn in _turns(typed_lines(history_file() if keeps_history else None)):
        if turn.strip() in LEAVE:
            break
        try:
            with _stop_on_interrupt() as stopped:
                _take_turn(conversation, turn, stopped)
        except KeyboardInterrupt:
            _ui.say("")
        except BitNetError as error:
            _ui.say(f"error: {error}")


def _answer_lines(conversation: Conversation) -> None:
    """Answer the lines of a pipe or a file; errors and Ctrl-C end the program."""
    for turn in _turns(_text.stdin_lines()):
        if turn.strip() in LEAVE:
            break
        _take_turn(conversation, turn, threading.Event())


def _turns(lines: Iterable[str]) -> Iterator[str]:
    """Join the lines from one that begins with three quotation marks to one that ends with them."""
    block: list[str] | None = None
    for line in lines:
        if block is None:
            if not line.startswith(BLOCK):
                yield line
                continue
            block, line = [], line.removeprefix(BLOCK)
        if line.endswith(BLOCK):
            yield "\n".join([*block, line.removesuffix(BLOCK)]).strip("\n")
            block = None
        else:
            block.append(line)
    if block:  # the end came before the closing marks
        yield "\n".join(block).strip("\n")


def _take_turn(conversation: Conversation, turn: str, stopped: threading.Event) -> None:
    if turn.startswith("/") and "\n" not in turn:
        conversation.run_command(turn.strip(), stopped)
    elif turn.strip():
        conversation.answer(turn, stopped)


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
