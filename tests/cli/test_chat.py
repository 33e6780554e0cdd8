"""``chat`` through a pipe: a line a turn, and the slash commands."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.fakes import ScriptedModel

USER = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": " Paris.\nYes"}


def test_every_line_is_a_turn_and_the_model_remembers(invoke: Invoke, model: ScriptedModel) -> None:
    result = invoke("chat", stdin="Hello\n\nAnd now?\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, " Paris.\nYes\n" * 2, "")
    assert model.conversations == [[USER], [USER, ANSWER, {"role": "user", "content": "And now?"}]]
    assert model.backend.closed == 1


def test_options_are_passed_on(invoke: Invoke, model: ScriptedModel) -> None:
    invoke("chat", "-m", "demo", "--max-tokens", "3", "--system", "Be brief", stdin="Hello\n")
    assert model.loaded_with == {"model": "demo"}
    assert model.sampling == {"max_tokens": 3}
    assert model.conversations[0][0] == {"role": "system", "content": "Be brief"}


def test_clear_forgets_the_turns_only(invoke: Invoke, model: ScriptedModel) -> None:
    invoke("chat", "--system", "Be brief", stdin="Hi\n/clear\nHello\n")
    assert model.conversations[1] == [{"role": "system", "content": "Be brief"}, USER]


def test_system_is_set_and_removed(invoke: Invoke, model: ScriptedModel) -> None:
    invoke("chat", stdin="/system  Be brief \nHello\n/clear\n/system\nHello\n")
    assert model.conversations == [[{"role": "system", "content": "Be brief"}, USER], [USER]]


def test_save_writes_the_conversation(invoke: Invoke, model: ScriptedModel, tmp_path: Path) -> None:
    path = tmp_path / "my chat.json"
    invoke("chat", stdin=f"Hello\n/save {path}\n")
    assert json.loads(path.read_text(encoding="utf-8")) == [USER, ANSWER]


@pytest.mark.parametrize("leave", ["/exit", "/quit"])
def test_exit_leaves(leave: str, invoke: Invoke, model: ScriptedModel) -> None:
    assert invoke("chat", stdin=f"{leave}\nHello\n").exit_code == 0
    assert model.conversations == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/help", "/system TEXT  set the system message"),
        ("/stats", "no finished answer"),
        ("Hello\n/stats", "answer 11 tokens, "),
        ("/fly", "/fly: no such command; /help lists them"),
        ("/save", "/save: name a file"),
    ],
)
def test_what_commands_say_goes_to_stderr(line: str, said: str, invoke: Invoke, model: ScriptedModel) -> None:
    result = invoke("chat", stdin=f"{line}\n")
    assert said in result.stderr
    assert result.stdout == ("" if line.startswith("/") else " Paris.\nYes\n")


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("x" * 200, "tokens, the context holds 100: shorten it"),
        (b"ok\nab\xff\n", "standard input, line 2: byte 2 is not UTF-8"),
        ("/save /no/such/folder/chat.json", "/no/such/folder"),
    ],
)
def test_an_error_ends_the_program(stdin: str | bytes, message: str, invoke: Invoke, model: ScriptedModel) -> None:
    result = invoke("chat", stdin=stdin)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_wrong_sampling_is_refused_before_loading(invoke: Invoke, model: ScriptedModel) -> None:
    result = invoke("chat", "--top-k", "-1", stdin="Hello\n")
    assert (result.exit_code, model.loaded_with) == (2, {})
