"""Typed turns at a terminal, with line editing, pasted lines and history; the only importer of prompt_toolkit."""

import os
from collections.abc import Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

from bitnet_numba.files import open_regular
from bitnet_numba_cli import _ui

PROMPT = "> "
MAX_HISTORY_BYTES = 1 << 20


def typed_lines(history: Path | None, *, keys: Input | None = None, screen: Output | None = None) -> Iterator[str]:
    """Yield what is typed until Ctrl-D; Ctrl-C drops it. Pasted lines, and those after Alt-Enter, are one text.

    ``history`` is a file that keeps what was typed, for its owner alone; None keeps it until the end.
    """
    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    kept = _history(history)
    session: PromptSession[str] = PromptSession(PROMPT, history=kept, key_bindings=bindings, input=keys, output=screen)
    while True:
        try:
            yield session.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def history_file() -> Path:
    """Return where the history is kept, as the XDG base directories have it."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local/state") / "bitnet-numba" / "chat_history"


def _history(path: Path | None) -> History:
    """Open a history file, shorter if it has become long; without one where the file system does not allow it."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        with open_regular(path) as file:
            end = file.seek(0, os.SEEK_END)
            if end > MAX_HISTORY_BYTES:
                file.seek(end - MAX_HISTORY_BYTES // 2)
                kept = file.read().partition(b"\n\n# ")[2]  # an entry begins with an empty line and its time
                path.write_bytes(b"\n# " + kept)
    except OSError as error:
        _ui.say(f"note: {path}: history is not kept ({error.strerror})")
        return InMemoryHistory()
    return FileHistory(path)
