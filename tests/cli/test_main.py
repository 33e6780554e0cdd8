"""The command group: help without cost, errors in one line, exit statuses."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

import bitnet_numba_cli
from bitnet_numba.errors import BitNetError, FormatError, ParameterError
from bitnet_numba_cli.main import COMMANDS, cli
from tests.cli.conftest import Invoke
from tests.fakes import ScriptedModel
from tests.subprocesses import ROOT

HEAVY = ("numba", "llvmlite", "numpy", "rich", "tokenizers", "jinja2", "huggingface_hub", "httpx2")


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["--version"], *([name, "-h"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from bitnet_numba_cli.main import main\n"
        f"sys.argv = ['bitnet-numba', *{arguments!r}]\n"
        "try:\n    main()\n"
        f"finally:\n    print(*sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert done.stdout.startswith(("Usage: bitnet-numba", "bitnet-numba 0."))


def test_help_lists_every_command(invoke: Invoke) -> None:
    result = invoke("-h")
    assert result.exit_code == 0
    listed = result.stdout.partition("Commands:\n")[2]
    assert tuple(line.split()[0] for line in listed.splitlines()) == COMMANDS


def test_every_module_of_a_command_is_listed_and_documented() -> None:
    """The recipe 'Add a command': a module, a place in the list, the reference page, and a guide."""
    package = Path(bitnet_numba_cli.__file__).parent
    modules = {path.stem for path in package.glob("*.py") if not path.stem.startswith("_")} - {"main"}
    assert modules == set(COMMANDS)
    context = click.Context(cli)
    guides = [ROOT / "README.md", *(ROOT / "docs" / "how-to").glob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.md")]
    guide = "".join(path.read_text(encoding="utf-8") for path in guides)
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.short_help
        assert f"\n## {name}\n" in reference
        assert f"bitnet-numba {name} " in guide or f"bitnet-numba {name}\n" in guide
    assert cli.get_command(context, "_text") is None


def test_no_command_is_wrong_usage(invoke: Invoke) -> None:
    result = invoke()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: bitnet-numba")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "error: No such command 'fly'; see 'bitnet-numba -h'"),
        (["run", "x", "--top-k", "many"], "'--top-k': 'many' is not a valid integer; see 'bitnet-numba run -h'"),
        (["run", "x", "--kv-type", "f8"], "'--kv-type'"),
        (["run", "x", "--no-such-option"], "--no-such-option"),
        (["run", "x", "y"], "put it into quotes"),
        (["info", "x", "y"], "y"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], message: str, invoke: Invoke) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status"), [(BitNetError("a: b"), 1), (FormatError("byte 4: c"), 1), (ParameterError("d"), 2)]
)
def test_an_error_of_the_user_is_one_line_and_its_status(
    error: BitNetError, status: int, invoke: Invoke, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr("bitnet_numba.load", refuse)
    result = invoke("run", "x")
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", f"error: {error}\n")


def test_a_bug_stays_a_traceback(invoke: Invoke, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitnet_numba.load", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        invoke("run", "x")


def test_interrupt_while_loading_is_status_130(
    invoke: Invoke, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bitnet_numba.load", interrupt)
    result = invoke("run", "x")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "\n")
