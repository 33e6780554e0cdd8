"""The commands with the embedded model: nothing replaced, some of them in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bitnet_numba
from tests.cli.conftest import Invoke

PROMPT = "The capital of France is"
ANSWER = " Paris. France is a country in Europe."


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile the kernels once, so that no command under test has to speak of it."""
    bitnet_numba.load("demo").close()


def bitnet(*arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bitnet_numba", *arguments],
        input=stdin,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_run_writes_the_answer_and_nothing_else() -> None:
    done = bitnet("run", PROMPT)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ANSWER}\n", "")


def test_run_reads_a_pipe_and_prints_json() -> None:
    done = bitnet("run", "--json", "--max-tokens", "3", "--threads", "1", stdin=f"{PROMPT}\n")
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert ANSWER.startswith(result["text"])
    assert len(result["token_ids"]) == result["generation_tokens"] == 3
    assert (result["finish_reason"], result["threads"]) == ("length", 1)
    assert any(kernel.startswith("i2s_gemv_") and calls > 0 for kernel, calls in result["kernels"].items())


def test_the_environment_states_seed_threads_and_model() -> None:
    wild = ("run", "Once", "--json", "--temperature", "2", "--max-tokens", "12")
    first, second = (
        json.loads(bitnet(*wild, BITNET_SEED="5", BITNET_NUM_THREADS=threads).stdout) for threads in ("1", "2")
    )
    assert first["token_ids"] == second["token_ids"]
    assert (first["threads"], second["threads"]) == (1, 2)
    assert bitnet("run", "x", BITNET_GGUF="/no/such.gguf").stderr.startswith("error: /no/such.gguf: no such model")


def test_a_failed_run_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03")
    done = bitnet("run", "x", "-m", str(tmp_path / "bad.gguf"), "--dump-logits", str(tmp_path / "out.npz"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"error: {tmp_path}/bad.gguf")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.gguf"]


def test_stop_and_chat_options_reach_the_model(invoke: Invoke) -> None:
    assert invoke("run", "-m", "demo", PROMPT, "--stop", ". Fra").stdout == " Paris\n"
    assert invoke("run", "-m", "demo", "--chat", "What is the capital of Japan?").stdout == (
        "The capital of Japan is Tokyo.\n"
    )


def test_chat_answers_line_by_line(invoke: Invoke) -> None:
    result = invoke("chat", "-m", "demo", stdin="Hello!\n/clear\nWhat is the capital of Japan?\n")
    assert result.stdout == "Hello! How can I help you?\nThe capital of Japan is Tokyo.\n"


def test_a_second_turn_does_not_read_the_first_again(invoke: Invoke) -> None:
    result = invoke("chat", "-m", "demo", stdin="What is the capital of Japan?\n/stats\nHello!\n/stats\n")
    assert result.stdout == "The capital of Japan is Tokyo.\nHello! How can I help you?\n"
    first, second = result.stderr.splitlines()
    assert first.startswith("prompt 18 tokens, ")
    assert second.startswith("prompt 41 tokens (30 cached), ")  # 18, and 12 of the answer


def test_lookup_changes_nothing_but_the_steps(invoke: Invoke) -> None:
    command = ("run", "-m", "demo", "--json", "Max is a big dog. Max likes to play. Max is a")
    plain, guessed = (json.loads(invoke(*command, *more).stdout) for more in ((), ("--lookup", "8")))
    assert guessed["text"] == plain["text"]
    assert 0 < guessed["accepted_tokens"] <= guessed["draft_tokens"]
    assert plain["draft_tokens"] == plain["cached_tokens"] == 0


def test_keys_and_values_may_be_int8(invoke: Invoke) -> None:
    result = invoke("run", "-m", "demo", PROMPT, "--kv-type", "int8", "--json")
    assert json.loads(result.stdout)["text"].startswith(" Paris")


def test_dumped_logits_are_those_of_the_library(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    assert invoke("run", "-m", "demo", PROMPT, "--max-tokens", "2", "--dump-logits", str(path)).exit_code == 0
    with bitnet_numba.load("demo") as model, np.load(path) as saved:
        prompt = model.tokenize(PROMPT)
        assert saved["tokens"].tolist() == prompt + model.generate(PROMPT, max_tokens=2).token_ids
        np.testing.assert_array_equal(saved["logits"], model.logits(saved["tokens"]))
        assert saved["logits"][len(prompt) - 1].argmax() == saved["tokens"][len(prompt)]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--chat", "--chat-template", "fancy"], 1, "fancy: no such template"),
        (["--max-context", "4"], 1, "the prompt has 6 tokens, the context holds 4"),
        (["--max-context", "513"], 2, "max_context=513: the model holds 1 to 512 positions"),
        (["--threads", "0"], 2, "threads=0: expected a whole number from 1 to 256"),
        (["-m", "/no/such/place"], 1, "/no/such/place: no such model; name a .gguf file"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], status: int, message: str, invoke: Invoke) -> None:
    result = invoke("run", PROMPT, *arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
