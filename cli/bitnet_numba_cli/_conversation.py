"""A conversation with a model: its turns, the answer in progress, and the slash commands of ``chat``."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_numba_cli import _text, _ui

if TYPE_CHECKING:
    from bitnet_numba import GenerationResult, LanguageModel

HELP = """\
/help         show this
/clear        forget the conversation, but not the system message
/system TEXT  set the system message; without TEXT, remove it
/save FILE    save the conversation as JSON
/stats        show the speed of the last answer
/exit         leave (so does Ctrl-D)
Ctrl-C        stop the answer"""


class Conversation:
    """The turns of a user and a model, after a system message; ``sampling`` are the arguments of every generation."""

    def __init__(self, model: "LanguageModel", sampling: Mapping[str, Any], system: str | None) -> None:
        self._model = model
        self._sampling = sampling
        self._system = system
        self._turns: list[dict[str, str]] = []
        self._last_result: GenerationResult | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: _ui.say(HELP),
            "/clear": lambda _: self._turns.clear(),
            "/system": self._set_system,
            "/save": self._save,
            "/stats": lambda _: self._show_stats(),
        }

    def answer(self, text: str, stopped: threading.Event) -> None:
        """Print the model's answer to a user's turn.

        ``stopped`` ends the answer after the token in progress; what was printed stays in the conversation. A turn that
        fails, say because the context is full, is forgotten.
        """
        messages = [*self.messages(), {"role": "user", "content": text}]
        answer: list[str] = []
        self._last_result = None
        for chunk in self._model.stream_chat(messages, **self._sampling):
            answer.append(chunk.text)
            _text.write(chunk.text)
            self._last_result = chunk.result
            if stopped.is_set():
                break
        _text.write("\n")
        self._turns += [messages[-1], {"role": "assistant", "content": "".join(answer)}]

    def run_command(self, line: str) -> None:
        """Run a slash command."""
        name, _, argument = line.partition(" ")
        if name not in self._commands:
            _ui.say(f"{name}: no such command; /help lists them")
            return
        self._commands[name](argument.strip())

    def messages(self) -> list[dict[str, str]]:
        """Return the conversation as chat messages, the system message first."""
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        return [*system, *self._turns]

    def _set_system(self, text: str) -> None:
        self._system = text or None

    def _save(self, name: str) -> None:
        if not name:
            _ui.say("/save: name a file")
            return
        with _text.write_file(Path(name)) as file:
            file.write(json.dumps(self.messages(), ensure_ascii=False, indent=2).encode() + b"\n")

    def _show_stats(self) -> None:
        _ui.say("no finished answer" if self._last_result is None else _ui.timings(self._last_result))
