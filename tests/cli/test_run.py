"""``run``: where the prompt comes from, what is passed on, what goes where."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from bitnet_numba_cli import _ui
from tests.cli.conftest import Invoke, install
from tests.fakes import BOS, VOCAB_SIZE, ScriptedModel


def test_stdout_is_the_generated_text_and_a_newline(invoke: Invoke, model: ScriptedModel) -> None:
    result = invoke("run", "The capital of France is")
    assert (result.exit_code, result.stdout, result.stderr) == (0, " Paris.\nYes\n", "")
    assert model.prompts == [[BOS, *b"The capital of France is"]]
    assert model.backend.closed == 1


def test_generated_escape_sequences_and_unicode_stay_as_they_are(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, ScriptedModel("\x1b[1mé🙂"))
    assert invoke("run", "x").stdout == "\x1b[1mé🙂\n"


@pytest.mark.parametrize("arguments", [[], ["-"], ["--file", "-"]])
def test_the_prompt_comes_through_a_pipe(arguments: list[str], invoke: Invoke, model: ScriptedModel) -> None:
    assert invoke("run", *arguments, stdin="Häl\nlo\n\n").exit_code == 0
    assert model.prompts == [[BOS, *"Häl\nlo\n".encode()]]


def test_the_prompt_comes_from_a_file(invoke: Invoke, model: ScriptedModel, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Once upon\n", encoding="utf-8")
    assert invoke("run", "--file", str(file)).exit_code == 0
    assert model.prompts == [[BOS, *b"Once upon"]]


def test_an_argument_leaves_the_pipe_alone(invoke: Invoke, model: ScriptedModel) -> None:
    invoke("run", "this", stdin="not this")
    assert model.prompts == [[BOS, *b"this"]]


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "message"),
    [
        ([""], None, 1, "the prompt is empty"),
        ([], b"\n", 1, "the prompt is empty"),
        (["-"], b"ab\xff", 1, "standard input: byte 2 is not UTF-8"),
        (["a\udcff"], None, 1, "the prompt: character 1 is not UTF-8"),
        (["--file", "/no/such/file"], None, 1, "/no/such/file: no such file; check the path"),
        (["--file", "/"], None, 1, "/: is not a regular file"),
        (["a", "--file", "b"], None, 2, "given twice"),
        (["a", "--greedy", "--temperature", "0.5"], None, 2, "--greedy contradicts --temperature 0.5"),
        (["a", "--temperature", "-1"], None, 2, "temperature"),
        (["a", "--temperature", "nan"], None, 2, "temperature"),
        (["a", "--top-p", "0"], None, 2, "top_p"),
        (["a", "--max-tokens", "0"], None, 2, "max_tokens"),
        (["a", "--stop", ""], None, 2, "stop"),
        (["a", "--lookup", "16"], None, 2, "lookup=16: expected a whole number from 0 to 15; 0 takes one token a step"),
        (["a", "--threads", "0"], None, 2, "threads=0: expected a whole number from 1 to 256; leave it out for one"),
        (["a", "--head", "int8"], None, 2, "'int8' is not one of 'exact', 'full'"),
        (["a" * 200], None, 1, "the prompt has 201 tokens, the context holds 100: shorten it"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], stdin: bytes | None, status: int, message: str, invoke: Invoke, model: ScriptedModel
) -> None:
    result = invoke("run", *arguments, stdin=stdin)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_options_not_given_leave_the_defaults_to_the_library(invoke: Invoke, model: ScriptedModel) -> None:
    invoke("run", "x")
    assert model.loaded_with == {}
    assert model.sampling == {}


def test_options_are_passed_on(invoke: Invoke, model: ScriptedModel) -> None:
    loading = "-m demo --threads 2 --kv-type f32 --head full --max-context 64 --chat-template raw"
    sampling = (
        "--max-tokens 5 --temperature 0.5 --top-k 4 --top-p 0.9 --min-p 0.1 --repetition-penalty 1.1"
        " --frequency-penalty 0.2 --presence-penalty 0.3 --seed 7 --stop END --stop ."
    )
    assert invoke("run", "x", *loading.split(), *sampling.split()).exit_code == 0
    assert model.loaded_with == {
        "model": "demo",
        "threads": 2,
        "kv_type": "f32",
        "head": "full",
        "max_context": 64,
        "chat_template": "raw",
    }
    assert model.sampling == {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": 0.3,
        "seed": 7,
        "stop": ("END", "."),
    }


def test_greedy_agrees_with_temperature_0(invoke: Invoke, model: ScriptedModel) -> None:
    assert invoke("run", "x", "--greedy", "--temperature", "0").exit_code == 0


def test_chat_makes_the_prompt_a_turn(invoke: Invoke, model: ScriptedModel) -> None:
    invoke("run", "--chat", "Hello")
    assert model.conversations == [[{"role": "user", "content": "Hello"}]]


def test_system_comes_first_and_implies_chat(invoke: Invoke, model: ScriptedModel) -> None:
    invoke("run", "--system", "Be brief", "Hello")
    assert model.conversations == [[{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]]


def test_json_is_the_only_thing_on_stdout(invoke: Invoke, model: ScriptedModel) -> None:
    model.notes = ("no tokenizer.ggml.pre",)
    result = invoke("run", "x", "--json")
    assert json.loads(result.stdout) == {**model.results[-1].to_dict(), "corrections": []}
    assert result.stderr == "note: no tokenizer.ggml.pre\n"


def test_timings_are_written_where_a_person_reads_them_or_asks(
    invoke: Invoke, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = (
        r"prompt 2 tokens, [0-9]+\.[0-9] tokens/s \| answer 11 tokens, [0-9]+\.[0-9] tokens/s"
        r" \| first token after [0-9]+ ms \| ended by stop_token\n"
    )
    assert re.fullmatch(line, invoke("run", "x", "--verbose").stderr)
    install(monkeypatch, ScriptedModel(" Paris.\nYes"))
    assert invoke("run", "x").stderr == ""
    install(monkeypatch, ScriptedModel(" Paris.\nYes"))
    monkeypatch.setattr(_ui, "stderr_is_terminal", lambda: True)
    assert re.fullmatch(line, invoke("run", "x").stderr)


def test_logits_of_prompt_and_answer_are_saved(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.npz"
    install(monkeypatch, ScriptedModel("ab"))
    assert invoke("run", "x", "--dump-logits", str(path)).stdout == "ab\n"
    with np.load(path) as saved:
        assert saved["tokens"].dtype == np.int32
        assert saved["tokens"].tolist() == [BOS, ord("x"), ord("a"), ord("b")]
        assert saved["logits"].dtype == np.float32
        assert saved["logits"].shape == (4, VOCAB_SIZE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.npz"]


def test_logits_end_where_the_context_does(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.npz"
    install(monkeypatch, ScriptedModel("ab", max_context=3))
    assert invoke("run", "x", "--dump-logits", str(path)).exit_code == 0
    with np.load(path) as saved:
        assert saved["tokens"].tolist() == [BOS, ord("x"), ord("a")]


@pytest.mark.parametrize("name", ["missing/out.npz", "folder", "link"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    name: str, invoke: Invoke, model: ScriptedModel, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    result = invoke("run", "x", "--dump-logits", str(tmp_path / name))
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(tmp_path) in result.stderr
    assert model.prompts == []


def test_a_failed_write_is_the_users_error_and_leaves_nothing(
    invoke: Invoke, model: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_disk)
    result = invoke("run", "x", "--dump-logits", str(tmp_path / "out.npz"))
    assert result.exit_code == 1
    assert "out.npz: no room for it (No space left on device)" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_sigterm_while_a_file_is_written_leaves_nothing(
    invoke: Invoke, model: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(np, "savez", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert invoke("run", "x", "--dump-logits", str(tmp_path / "out.npz")).exit_code == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


# ---- names that users of other programs know -------------------------------------------------------------------------
def test_a_prompt_may_be_an_option(invoke: Invoke, model: ScriptedModel) -> None:
    assert invoke("run", "-p", "Hi", "-t", "2").exit_code == 0
    assert model.prompts == [[BOS, *b"Hi"]]
    assert model.loaded_with["threads"] == 2
    twice = invoke("run", "Hi", "--prompt", "Ho")
    assert (twice.exit_code, "given twice" in twice.stderr) == (2, True)


@pytest.mark.parametrize(
    ("flag", "known"),
    [("--temp", "--temperature"), ("--n-predict", "--max-tokens"), ("--ctx-size", "--max-context")],
)
def test_a_flag_of_another_program_is_told_the_right_one(flag: str, known: str, invoke: Invoke) -> None:
    done = invoke("run", flag, "1", "x")
    assert done.exit_code == 2
    assert f"No such option '{flag}'. Did you mean '{known}'?" in done.stderr


def test_biases_and_logprobs_are_options(invoke: Invoke, model: ScriptedModel) -> None:
    done = invoke("run", "x", "--logit-bias", "5=-1.5", "--logit-bias", "7=2", "--logprobs", "2", "--json")
    assert done.exit_code == 0
    assert model.sampling["logit_bias"] == {5: -1.5, 7: 2.0}
    assert len(json.loads(done.stdout)["logprobs"][0]["top"]) == 2
    wrong = invoke("run", "x", "--logit-bias", "five")
    assert (wrong.exit_code, "is no token id and number" in wrong.stderr) == (2, True)
    assert invoke("run", "x", "--logit-bias", "5=1000").exit_code == 2


def test_a_seed_of_greedy_choice_is_told(invoke: Invoke, model: ScriptedModel) -> None:
    assert "--seed has no effect on greedy choice" in invoke("run", "x", "--seed", "3").stderr
    assert "--seed" not in invoke("run", "x", "--seed", "3", "--temperature", "1").stderr


def test_the_version_has_a_short_flag(invoke: Invoke) -> None:
    assert invoke("-V").stdout.startswith("bitnet-numba 0.")
