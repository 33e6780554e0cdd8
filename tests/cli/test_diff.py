"""``diff`` and ``score`` on the embedded model."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Invoke
from tests.tiny import toy_checkpoint


def test_a_model_agrees_with_its_own_dump(invoke: Invoke, tmp_path: Path) -> None:
    dump = tmp_path / "a.npz"
    invoke("run", "demo", "Once upon a time", "-n", "9", "--dump-logits", str(dump))
    result = invoke("diff", "demo", "--reference", str(dump), "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 0
    assert facts["parity"]["status"] == "passed"
    assert (facts["max_difference"], facts["exact_match_rate"], facts["first_divergence"]) == (0, 1, None)
    with np.load(dump) as arrays:
        logits = arrays["logits"].copy()
        logits[4] = -logits[4]
        np.savez(dump, tokens=arrays["tokens"], logits=logits)
    other = invoke("diff", "demo", "--reference", str(dump))
    assert other.exit_code == 15
    assert other.stdout.startswith("FAILED\n")
    assert "they part             at position 4" in other.stdout


def test_two_models_are_compared(invoke: Invoke) -> None:
    result = invoke("diff", "demo", "demo", "--tokens", "12")
    assert result.exit_code == 0
    assert result.stdout.startswith("PASSED\n  positions             12\n")
    assert "greedy text parts     nowhere" in result.stdout


def test_models_of_other_tokenizers_are_refused(invoke: Invoke, tmp_path: Path) -> None:
    toy_checkpoint().write(tmp_path / "toy")
    result = invoke("diff", "demo", str(tmp_path / "toy"), "--tokens", "8")
    assert result.exit_code == 2
    assert "its tokenizer gives other tokens" in result.stderr


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "demo", "--reference", "x.npz"]])
def test_one_thing_to_compare_with_is_wanted(invoke: Invoke, arguments: list[str]) -> None:
    result = invoke("diff", *arguments)
    assert result.exit_code == 2
    assert "Give two models, or one model and --reference" in result.stderr


def test_score(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text("Once upon a time, there was a little girl named Lily.\n", "utf-8")
    result = invoke("score", "demo", "--file", str(path), "--json")
    facts = json.loads(result.stdout)
    assert (result.exit_code, facts["windows"]) == (0, 1)
    assert 1 < facts["perplexity"] < 5
    piped = invoke("score", "-m", "demo", "--window", "8", stdin=path.read_text("utf-8"))
    assert "windows of up to 8 tokens, stride 4" in piped.stdout


def test_a_model_named_twice_is_refused(invoke: Invoke) -> None:
    for command in ("score", "inspect", "validate", "info", "compile", "chat"):
        result = invoke(command, "demo", "-m", "demo", stdin="text")
        assert (result.exit_code, "The model is named twice" in result.stderr) == (2, True)


def test_a_model_can_be_named_before_the_text_or_as_an_option(invoke: Invoke, tmp_path: Path) -> None:
    ids = invoke("tokenize", "demo", "Hi").stdout
    assert ids == invoke("tokenize", "-m", "demo", "-p", "Hi").stdout == invoke("tokenize", "Hi").stdout
    assert invoke("inspect", "-m", "demo").stdout == invoke("inspect", "demo").stdout
    result = invoke("run", "-m", "demo", "one", "two")
    assert (result.exit_code, "put it into quotes" in result.stderr) == (2, True)
    result = invoke("run", "-m", "demo", "demo", "two")
    assert (result.exit_code, "named twice" in result.stderr) == (2, True)
    result = invoke("run", "two", "-p", "three")
    assert (result.exit_code, "given twice" in result.stderr) == (2, True)
    expected = invoke("run", "Once upon", "-n", "3").stdout
    assert invoke("run", "demo", "-p", "Once upon", "-n", "3").stdout == expected
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Once upon", "utf-8")
    assert invoke("run", "demo", "--file", str(prompt), "-n", "3").stdout == expected
    model = tmp_path / "model.gguf"
    model.touch()
    result = invoke("run", str(model), stdin="Once upon")
    assert (result.exit_code, "is a model, and no prompt: name it with -m" in result.stderr) == (2, True)
