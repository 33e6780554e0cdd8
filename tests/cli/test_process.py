"""What only a process of its own can show: pipes that close, signals, a terminal."""

import os
import pty
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "tests.cli.fake_process"]


@contextmanager
def running(*arguments: str, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """Start the program; it does not survive a test that fails."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stdin=stdin, stdout=pipe, stderr=pipe)
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_reader_that_leaves_ends_the_program_quietly() -> None:
    with running("run", "x") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(6) == b"0 1 2 "
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


@pytest.mark.parametrize("command", [["run", "x"], ["chat"]])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_program_without_a_traceback(command: list[str], number: int, status: int) -> None:
    with running(*command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Hello\n")
        process.stdin.flush()
        assert process.stdout.read(2) == b"0 "
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert errors.strip() == b""
        assert process.returncode == status


def test_text_that_the_terminal_cannot_show_is_replaced() -> None:
    done = subprocess.run(
        [*COMMAND, "run", "x"],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "ANSWER": "é!"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"?!\n"


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">&-", "standard output is closed"),
        (">/dev/full", "standard output: cannot be written (No space left on device)"),
    ],
)
def test_output_that_cannot_be_written_is_an_error(redirection: str, message: str) -> None:
    line = f"{shlex.join(COMMAND)} run x --max-tokens 1 {redirection}"
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("run", 2, "There is no prompt"),
        ("run -", 1, "standard input is closed"),
        ("chat", 1, "standard input is closed"),
    ],
)
def test_a_closed_input_is_an_error(command: str, status: int, message: str) -> None:
    line = f"{shlex.join(COMMAND)} {command} <&-"
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert done.stderr.startswith(f"error: {message}")


READY = "\x1b[?2004h"  # the terminal is asked to bracket what is pasted: a prompt begins


class Terminal:
    """A program at a terminal, and what it writes there."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._unread = ""
        self._channel, far_end = pty.openpty()
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment},
            stdin=far_end,
            stdout=far_end,
            stderr=far_end,
        )
        os.close(far_end)

    def type(self, text: str) -> None:
        os.write(self._channel, text.encode())

    def interrupt(self) -> None:
        """Do what the terminal of a shell does on Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def read_until(self, wanted: str, timeout: float = 30) -> str:
        """Read until ``wanted`` has come; fail when the program ends before, or is silent for so many seconds."""
        text, self._unread = self._unread, ""
        while wanted not in text:
            if not select.select([self._channel], [], [], timeout)[0]:
                raise TimeoutError(f"waited for {wanted!r} after {text!r}")
            text += os.read(self._channel, 4096).decode()
        before, _, self._unread = text.partition(wanted)
        return before

    def status(self) -> int:
        """Wait for the end and return the exit status."""
        return self._process.wait(30)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._channel)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """Start a chat at a terminal, and wait for its first prompt."""
    started = Terminal("chat", XDG_STATE_HOME=str(tmp_path / "state"))
    try:
        started.read_until(READY)
        yield started
    finally:
        started.close()


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("Hello\r")
    terminal.read_until("10 11 12 ")
    terminal.interrupt()
    terminal.read_until(READY)
    terminal.type(f"/save {tmp_path}/chat.json\r")
    terminal.read_until("saved 1 turn to ")
    assert '"role": "assistant",\n    "content": "0 1 2 ' in (tmp_path / "chat.json").read_text(encoding="utf-8")
    terminal.read_until(READY)
    terminal.type("\x04")  # Ctrl-D
    assert terminal.status() == 0


def test_ctrl_c_at_the_prompt_drops_the_line(terminal: Terminal) -> None:
    terminal.type("Hel")
    terminal.read_until("Hel")
    terminal.type("\x03")
    terminal.read_until(READY)
    terminal.type("/exit\r")
    assert terminal.status() == 0


def test_an_error_at_a_terminal_leaves_the_conversation_open(terminal: Terminal) -> None:
    terminal.type("/save /no/such/place\r")
    terminal.read_until("error: ")
    terminal.read_until(READY)
    terminal.type("/exit\r")
    assert terminal.status() == 0


def test_pasted_lines_are_one_turn_and_history_is_the_owners(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("\x1b[200~one\rtwo\x1b[201~\r")
    terminal.read_until("10 11 12 ")
    terminal.interrupt()
    terminal.read_until(READY)
    terminal.type(f"/save {tmp_path}/chat.json\r")
    terminal.read_until("saved 1 turn to ")
    assert '"content": "one\\ntwo"' in (tmp_path / "chat.json").read_text(encoding="utf-8")
    terminal.read_until(READY)
    terminal.type("\x04")  # Ctrl-D
    assert terminal.status() == 0
    kept = tmp_path / "state" / "bitnet-numba" / "chat_history"
    assert "+one\n+two\n" in kept.read_text(encoding="utf-8")
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
