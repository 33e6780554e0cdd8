"""``chat`` through a pipe: a line a turn, and the slash commands."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke, install
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
        ("/load", "/load: name a file"),
        ("/retry", "/retry: there is no turn to answer"),
        ("/undo", "/undo: there is no turn to forget"),
        ("Hello\n/undo", "forgot the last turn; 0 turns left"),
        ("Hello\n/clear", "forgot 1 turn"),
        ("/system Be brief", "the system message is set"),
        ("/system", "there is no system message now"),
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


def test_undo_and_retry(invoke: Invoke, model: ScriptedModel) -> None:
    invoke("chat", stdin="Hi\n/undo\nHello\n/retry\nMore\n")
    more = {"role": "user", "content": "More"}
    assert model.conversations == [[{"role": "user", "content": "Hi"}], [USER], [USER], [USER, ANSWER, more]]


def test_a_saved_conversation_goes_on(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ScriptedModel(" Paris.\nYes"))
    path = tmp_path / "chat.json"
    first = invoke("chat", "--system", "Be brief", stdin=f"Hello\n/save {path}\n")
    assert f"saved 1 turn to {path}" in first.stderr
    system = {"role": "system", "content": "Be brief"}
    expected = [system, USER, ANSWER, {"role": "user", "content": "More"}]
    for arguments, stdin in ((["--load", str(path)], "More\n"), ([], f"/load {path}\nMore\n")):
        model = ScriptedModel(" Paris.\nYes", max_context=1000)
        install(monkeypatch, model)
        result = invoke("chat", *arguments, stdin=stdin)
        assert (result.exit_code, f"loaded 1 turn from {path}" in result.stderr) == (0, True)
        assert model.conversations[-1] == expected


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{}", "expected an array of messages"),
        ("[1]", "message 0"),
        ('[{"role": "user"}, {"role": "assistant", "content": "a"}]', "message 0: content is missing"),
        ('[{"role": "user", "content": 1}, {"role": "assistant", "content": "a"}]', "content is 1, expected a string"),
        ('[{"role": "user", "content": "a"}]', "expected turns of user and assistant"),
        ('[{"role": "assistant", "content": "a"}, {"role": "user", "content": "a"}]', "expected turns"),
        ('[{"role": "tool", "content": "a"}]', "expected turns"),
        ("[" * 10_000, "is not JSON"),
        ("[{", "is not JSON"),
        ("", "empty"),
    ],
)
def test_a_file_that_is_no_conversation_is_refused(
    contents: str, message: str, invoke: Invoke, model: ScriptedModel, tmp_path: Path
) -> None:
    path = tmp_path / "chat.json"
    path.write_text(contents, "utf-8")
    result = invoke("chat", "--load", str(path), stdin="Hello\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_lines_between_three_quotation_marks_are_one_turn(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel(" Paris.\nYes", max_context=1000)
    install(monkeypatch, model)
    invoke("chat", stdin='"""\none\n\n/two\n"""\n"""three"""\nlast\n"""open\nend')
    turns = [conversation[-1]["content"] for conversation in model.conversations]
    assert turns == ["one\n\n/two", "three", "last", "open\nend"]


def test_a_full_context_drops_the_oldest_turns_and_keeps_the_system_message(
    invoke: Invoke, model: ScriptedModel, tmp_path: Path
) -> None:
    path = tmp_path / "chat.json"
    stdin = "".join(f"turn {n}\n" for n in range(5)) + f"/save {path}\n"
    result = invoke("chat", "--system", "S", "--max-tokens", "12", stdin=stdin)
    assert result.exit_code == 0
    assert "note: the context is full; no longer sent: the oldest 2 turns" in result.stderr
    sent = model.conversations[-1]
    assert sent[0] == {"role": "system", "content": "S"}
    assert sent[1]["role"] == "user"
    assert sent[-1]["content"] == "turn 4"
    assert len(sent) < 10
    assert len(json.loads(path.read_text("utf-8"))) == 11


@pytest.mark.parametrize(
    ("arguments", "turn", "note"),
    [(["--max-tokens", "3"], "Hello", "cut at --max-tokens 3"), ([], "x" * 85, "cut where the context ends")],
)
def test_an_answer_that_is_cut_says_so(
    arguments: list[str], turn: str, note: str, invoke: Invoke, model: ScriptedModel
) -> None:
    assert note in invoke("chat", *arguments, stdin=f"{turn}\n").stderr


def test_wrong_sampling_is_refused_before_loading(invoke: Invoke, model: ScriptedModel) -> None:
    result = invoke("chat", "--top-k", "-1", stdin="Hello\n")
    assert (result.exit_code, model.loaded_with) == (2, {})
