"""A conversation with a model: its turns, the answer in progress, and the slash commands of ``chat``."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_numba.errors import FormatError
from bitnet_numba.options import SamplingParams
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._progress import token_progress

if TYPE_CHECKING:
    from bitnet_numba import GenerationResult, LanguageModel

HELP = """\
/help         show this
/retry        answer the last turn again
/undo         forget the last turn and its answer
/clear        forget the conversation, but not the system message
/system TEXT  set the system message; without TEXT, remove it
/save FILE    save the conversation as JSON
/load FILE    go on with a saved conversation
/stats        show the speed of the last answer
/exit         leave (so does Ctrl-D)
Ctrl-C        stop the answer"""
_CUT = {
    "length": "note: the answer was cut at --max-tokens {}; raise it, or ask for the rest",
    "context": "note: the answer was cut where the context ends; older turns are dropped from now on",
}


class Conversation:
    """The turns of a user and a model, after a system message; ``sampling`` are the arguments of every generation."""

    def __init__(self, model: "LanguageModel", sampling: Mapping[str, Any], system: str | None) -> None:
        self._model = model
        self._sampling = sampling
        self._system = system
        self._turns: list[dict[str, str]] = []
        self._n_dropped = 0  # turns that the model is no longer sent, since they filled the context
        self._last_result: GenerationResult | None = None
        self._commands: dict[str, Callable[[str, threading.Event], None]] = {
            "/help": lambda *_: _ui.say(HELP),
            "/retry": lambda _, stopped: self._retry(stopped),
            "/undo": lambda *_: self._undo(),
            "/clear": lambda *_: self._clear(),
            "/system": lambda text, _: self._set_system(text),
            "/save": lambda name, _: self._save(name),
            "/load": lambda name, _: self.load(Path(name)) if name else _ui.say("/load: name a file"),
            "/stats": lambda *_: self._show_stats(),
        }

    def answer(self, text: str, stopped: threading.Event) -> None:
        """Print the model's answer to a user's turn.

        ``stopped`` ends the answer after the token in progress; what was printed stays in the conversation. A turn that
        fails, say because it does not fit the context, is forgotten.
        """
        turn = {"role": "user", "content": text}
        prompt_ids = self._prompt_ids(turn)
        answer: list[str] = []
        self._last_result = None
        with token_progress() as on_progress:
            for chunk in self._model.stream(prompt_ids, on_progress=on_progress, **self._sampling):
                answer.append(chunk.text)
                _text.write(chunk.text)
                self._last_result = chunk.result
                if stopped.is_set():
                    break
        _text.write("\n")
        self._turns += [turn, {"role": "assistant", "content": "".join(answer)}]
        if self._last_result is not None and self._last_result.finish_reason in _CUT:
            limit = self._sampling.get("max_tokens", SamplingParams().max_tokens)
            _ui.say(_CUT[self._last_result.finish_reason].format(limit))

    def run_command(self, line: str, stopped: threading.Event) -> None:
        """Run a slash command."""
        name, _, argument = line.partition(" ")
        if name not in self._commands:
            _ui.say(f"{name}: no such command; /help lists them")
            return
        self._commands[name](argument.strip(), stopped)

    def messages(self) -> list[dict[str, str]]:
        """Return the conversation as chat messages, the system message first."""
        return [*self._system_message(), *self._turns]

    def load(self, path: Path) -> None:
        """Go on with a conversation that ``/save`` wrote; BitNetError if the file holds anything else."""
        from bitnet_numba.formats.json_file import as_object  # here, so that the help text does not pay for it

        messages = [as_object(f"{path}: message {number}", each) for number, each in enumerate(_saved(path))]
        roles = [message.text("role") for message in messages]
        has_system = roles[:1] == ["system"]
        if roles[has_system:] != ["user", "assistant"] * (len(roles[has_system:]) // 2):
            raise FormatError(f"{path}: expected turns of user and assistant in turn, after a system message or none")
        texts = [message.text("content") for message in messages]
        self._system = texts[0] if has_system else None
        self._turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)][has_system:]
        self._n_dropped = 0
        _ui.say(f"loaded {_count(self._turns)} from {path}")

    # ---- what fits the context ---------------------------------------------------------------------------------------
    def _prompt_ids(self, turn: dict[str, str]) -> list[int]:
        """Return the conversation's tokens, without the oldest turns if it leaves no room for an answer.

        Where turns are dropped, half of the context becomes free: the next ones then find their prefix in the cache.
        """
        context = self._model.max_context
        wanted = self._sampling.get("max_tokens", SamplingParams().max_tokens)
        room = context - min(wanted, context // 4)
        n_dropped = self._n_dropped
        ids = self._sent(turn, n_dropped)
        while len(ids) > room and n_dropped < len(self._turns):
            n_dropped, room = n_dropped + 2, context // 2
            ids = self._sent(turn, n_dropped)
        if n_dropped > self._n_dropped and len(ids) <= context:  # else the turn alone is too long
            self._n_dropped = n_dropped
            _ui.say(f"note: the context is full; no longer sent: the oldest {_count(self._turns[:n_dropped])}")
        return ids

    def _sent(self, turn: dict[str, str], n_dropped: int) -> list[int]:
        return self._model.chat_ids([*self._system_message(), *self._turns[n_dropped:], turn])

    def _system_message(self) -> list[dict[str, str]]:
        return [] if self._system is None else [{"role": "system", "content": self._system}]

    # ---- commands ----------------------------------------------------------------------------------------------------
    def _retry(self, stopped: threading.Event) -> None:
        if not self._turns:
            _ui.say("/retry: there is no turn to answer")
            return
        *before, turn, _ = self._turns
        kept, self._turns = self._turns, before
        try:
            self.answer(turn["content"], stopped)
        except BaseException:
            self._turns = kept
            raise

    def _undo(self) -> None:
        if not self._turns:
            _ui.say("/undo: there is no turn to forget")
            return
        self._turns = self._turns[:-2]
        self._n_dropped = min(self._n_dropped, len(self._turns))
        _ui.say(f"forgot the last turn; {_count(self._turns)} left")

    def _clear(self) -> None:
        _ui.say(f"forgot {_count(self._turns)}")
        self._turns, self._n_dropped = [], 0

    def _set_system(self, text: str) -> None:
        self._system = text or None
        _ui.say("the system message is set" if text else "there is no system message now")

    def _save(self, name: str) -> None:
        if not name:
            _ui.say("/save: name a file")
            return
        with _text.write_file(Path(name)) as file:
            file.write(json.dumps(self.messages(), ensure_ascii=False, indent=2).encode() + b"\n")
        _ui.say(f"saved {_count(self._turns)} to {name}")

    def _show_stats(self) -> None:
        _ui.say("no finished answer" if self._last_result is None else _ui.timings(self._last_result))


def _saved(path: Path) -> list[object]:
    """Return the elements of a JSON array."""
    try:
        messages = json.loads(_text.read_text(None, path, "conversation"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is not JSON ({error}); name a file that /save wrote") from error
    if not isinstance(messages, list):
        raise FormatError(f"{path}: expected an array of messages; name a file that /save wrote")
    return messages


def _count(turns: list[dict[str, str]]) -> str:
    n = len(turns) // 2
    return f"{n} turn{'' if n == 1 else 's'}"
