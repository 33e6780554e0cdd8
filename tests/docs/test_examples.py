"""Run the examples of the documentation with the embedded model and compare their output with the pages."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import bitnet_numba
from bitnet_numba_cli.main import cli
from tests.docs.markdown import ROOT, code_blocks, commands_and_output

HOW_TO = ROOT / "docs" / "how-to" / "use-from-python.md"
TEMPLATES = ROOT / "docs" / "how-to" / "chat-with-templates.md"
ONNX = ROOT / "docs" / "how-to" / "export-to-onnx-or-torch.md"
EXPORT = ROOT / "docs" / "how-to" / "export-a-model.md"
QUANTIZE = ROOT / "docs" / "how-to" / "quantize.md"
SMOOTHNESS = ROOT / "docs" / "how-to" / "measure-smoothness.md"
COMPARE = ROOT / "docs" / "how-to" / "compare-models-and-engines.md"
BASELINE = ROOT / "docs" / "how-to" / "pin-a-baseline.md"
SPEED = ROOT / "docs" / "how-to" / "measure-and-compare-speed.md"
PROOF = ROOT / "docs" / "how-to" / "prove-an-answer.md"
TUTORIAL = ROOT / "docs" / "tutorials" / "first-steps.md"


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile the kernels once, so that no command prints a note about it."""
    bitnet_numba.load("demo").close()


@pytest.fixture(autouse=True)
def embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the user's variables from the environment of the examples."""
    for name in ("BITNET_GGUF", "BITNET_SEED"):
        monkeypatch.delenv(name, raising=False)


def test_the_readme_s_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = code_blocks(ROOT / "README.md", "python")
    exec(compile(example, "README.md", "exec"), {})
    fact, _, story = capsys.readouterr().out.partition("\n")
    assert fact.startswith(" Paris.")
    assert len(story.split()) > 10


def test_the_tutorial_s_program_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    [program] = code_blocks(TUTORIAL, "python")
    exec(compile(program, TUTORIAL.name, "exec"), {})
    assert capsys.readouterr().out in code_blocks(TUTORIAL, "text")


def test_the_examples_for_python_print_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Each block of code is followed by one of output, except the first, which loads the model."""
    names: dict[str, Any] = {}
    first, *examples = code_blocks(HOW_TO, "python")
    exec(compile(first, HOW_TO.name, "exec"), names)
    with names["model"]:
        printed = [_run(example, HOW_TO, names, capsys) for example in examples]
    assert printed == code_blocks(HOW_TO, "text")


def _run(code: str, page: Path, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    exec(compile(code, page.name, "exec"), names)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "n_examples"), [(TUTORIAL, 4), (TEMPLATES, 4), (EXPORT, 2), (QUANTIZE, 3), (COMPARE, 2)]
)
def test_commands_print_what_is_shown(
    page: Path, n_examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of commands print the output shown below them."""
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    for template in code_blocks(page, "jinja"):
        (tmp_path / "my.jinja").write_text(template, encoding="utf-8")
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside.\n"
    (tmp_path / "story.txt").write_text(story, "utf-8")
    monkeypatch.chdir(tmp_path)
    examples = commands_and_output(page)
    assert len(examples) == n_examples
    for commands, shown in examples:
        done = [CliRunner().invoke(cli, shlex.split(command)[1:]) for command in commands.splitlines()]
        assert "".join(each.stdout for each in done) == shown


def test_the_examples_for_onnx_print_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed = [_run(example, ONNX, names, capsys) for example in code_blocks(ONNX, "python")]
    _, *shown = code_blocks(ONNX, "text")  # the first is of a command, with the version of the runtime
    assert printed == shown


def test_an_answer_is_proved_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [program] = code_blocks(PROOF, "python")
    exec(compile(program, PROOF.name, "exec"), {})
    outputs = []
    for command in code_blocks(PROOF, "sh"):
        done = CliRunner().invoke(cli, shlex.split(command)[1:])
        assert done.exit_code == 0, command
        outputs.append(done.stdout)
    assert code_blocks(PROOF, "text") == [outputs[1]]
    assert '"confirmed": true' in outputs[2]


def test_a_baseline_is_pinned_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = []
    for block in code_blocks(BASELINE, "sh")[1:]:  # the first is of a file that the reader has
        done = [CliRunner().invoke(cli, shlex.split(command)[1:]) for command in block.splitlines()]
        assert all(each.exit_code == 0 for each in done), block
        outputs.append("".join(each.stdout for each in done))
    assert code_blocks(BASELINE, "text") == [outputs[0]]
    assert outputs[1].startswith("CONFIRMED  demo.receipt.json")


def test_speed_is_measured_and_compared_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [limits] = code_blocks(SPEED, "json")
    (tmp_path / "limits.json").write_text(limits, "utf-8")
    for command in "".join(code_blocks(SPEED, "sh")).splitlines():
        done = CliRunner().invoke(cli, shlex.split(command)[1:])
        assert done.exit_code == 0, (command, done.output)
    assert done.stdout.startswith("| metric | current | baseline | change | |")


@pytest.mark.slow  # compiles the kernels of smoothness
def test_smoothness_is_measured_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    monkeypatch.chdir(tmp_path)
    [(commands, shown)] = commands_and_output(SMOOTHNESS)
    assert CliRunner().invoke(cli, shlex.split(commands)[1:]).stdout == shown
    [program] = code_blocks(SMOOTHNESS, "python")
    assert _run(program, SMOOTHNESS, {}, capsys) == code_blocks(SMOOTHNESS, "text")[-1]
