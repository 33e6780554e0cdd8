"""The pages on bad files show the output that the commands print for such files."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import bitnet_numba
from bitnet_numba.demo import demo_model_path
from bitnet_numba_cli.main import cli
from tests.docs.markdown import ROOT, commands_and_output
from tests.validate.sabotages import SABOTAGES
from tests.validate.spoilt import spoilt

HOW_TO = ROOT / "docs" / "how-to"
FILES = {
    "small-norms.gguf": "norms times 0.02",
    "inverted.gguf": "scales of attn_q inverted",
    "shuffled.gguf": "layer 3 shuffled",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the broken files of the pages; compiles the kernels."""
    path = tmp_path_factory.mktemp("bad")
    for name, sabotage in FILES.items():
        spoilt(path / name, SABOTAGES[sabotage].spoil)
    (path / "short.gguf").write_bytes(demo_model_path().read_bytes()[:3_000_000])
    bitnet_numba.load("demo").close()
    return path


@pytest.mark.parametrize(("page", "n_examples"), [("validate-a-model.md", 1), ("triage-a-bad-file.md", 5)])
def test_commands_print_what_is_shown(
    page: str, n_examples: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in ("CORRECTION_POLICY", "ALLOW_RUNTIME_CORRECTIONS", "FIX_LN_SCALE", "STRICT_MODE", "GGUF"):
        monkeypatch.delenv(f"BITNET_{name}", raising=False)
    examples = commands_and_output(HOW_TO / page)
    assert len(examples) == n_examples
    for commands, shown in examples:
        done = [CliRunner().invoke(cli, shlex.split(command)[1:]) for command in commands.splitlines()]
        assert "".join(each.stdout for each in done) == shown
