"""``tokenize``: both directions, with the embedded model's tokenizer."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke

BOS, EOT = 4092, 4094
TEXT = "Once upon a time, <|eot_id|> é🙂\n end"


def encode(invoke: Invoke, *arguments: str, stdin: str | None = None) -> list[int]:
    result = invoke("tokenize", "-m", "demo", *arguments, stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, "")
    return [int(token) for token in result.stdout.split()]


def test_text_becomes_ids_and_ids_become_the_text(invoke: Invoke) -> None:
    ids = encode(invoke, TEXT)
    assert ids[0] == BOS
    assert BOS not in ids[1:]
    assert EOT not in ids
    decoded = invoke("tokenize", "-m", "demo", "--decode", *map(str, ids))
    assert (decoded.exit_code, decoded.stdout) == (0, f"{TEXT}\n")


@pytest.mark.parametrize("arguments", [[], ["-"], ["--file", "-"]])
def test_input_comes_through_a_pipe(arguments: list[str], invoke: Invoke) -> None:
    ids = encode(invoke, *arguments, stdin=f"{TEXT}\n")
    assert ids == encode(invoke, TEXT)
    decoded = invoke("tokenize", "-m", "demo", "--decode", *arguments, stdin=json.dumps(ids))
    assert decoded.stdout == f"{TEXT}\n"


def test_input_comes_from_a_file(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    assert encode(invoke, "--file", str(tmp_path / "text")) == encode(invoke, TEXT)


def test_no_bos_leaves_the_first_token_out(invoke: Invoke) -> None:
    assert encode(invoke, TEXT, "--no-bos") == encode(invoke, TEXT)[1:]


def test_special_reads_and_writes_special_tokens(invoke: Invoke) -> None:
    ids = encode(invoke, "Hi<|eot_id|>", "--special")
    assert ids[-1] == EOT
    words = [str(token) for token in ids]
    assert invoke("tokenize", "-m", "demo", "--decode", *words).stdout == "Hi\n"
    assert invoke("tokenize", "-m", "demo", "--decode", "--special", *words).stdout == "<|begin_of_text|>Hi<|eot_id|>\n"


def test_json_holds_both_sides(invoke: Invoke) -> None:
    forth = json.loads(invoke("tokenize", "-m", "demo", "--json", "Hi there").stdout)
    assert forth["text"] == "Hi there"
    assert forth["tokens"][0] == "<|begin_of_text|>"
    assert "".join(forth["tokens"][1:]) == "HiĠthere"
    back = json.loads(invoke("tokenize", "-m", "demo", "--json", "--decode", json.dumps(forth["token_ids"])).stdout)
    assert back == forth


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--decode", "97", "x"], 1, "id 2: 'x' is not a token id"),
        (["--decode", "9" * 5000], 1, "is not a token id"),
        (["--decode", "1.5"], 1, "id 1: '1.5' is not a token id"),
        (["--decode", " "], 1, "id 1: '' is not a token id"),
        (["--decode", "4096"], 2, "token 4096: not in the vocabulary of 4,096 tokens"),
        (["a", "b"], 2, "The text must be one argument"),
        (["--decode", "--no-bos", "1"], 2, "--no-bos"),
        ([""], 1, "the text is empty"),
        (["x", "-m", "/no/such/model.gguf"], 1, "/no/such/model.gguf: no such model"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], status: int, message: str, invoke: Invoke) -> None:
    result = invoke("tokenize", *arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_files_of_other_systems(source: str, invoke: Invoke, tmp_path: Path) -> None:
    data = "\ufeffa\r\nb\r\n".encode()
    (tmp_path / "text.txt").write_bytes(data)
    arguments = ["--file", str(tmp_path / "text.txt")] if source == "file" else ["-"]
    result = invoke("tokenize", "-m", "demo", "--json", *arguments, stdin=data)
    assert json.loads(result.stdout)["text"] == "a\nb"
