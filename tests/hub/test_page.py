"""The page on pulling shows what the commands say."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from bitnet_numba.demo import demo_model_path
from bitnet_numba_cli.main import cli
from tests.docs.markdown import ROOT, code_blocks, commands_and_output
from tests.hub.server import FakeHub, dies_after, status

PAGE = ROOT / "docs" / "how-to" / "pull-behind-a-proxy-or-air-gap.md"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")


def said(command: str) -> str:
    return CliRunner().invoke(cli, command.split()[1:], catch_exceptions=False).stderr


def test_offline_says_what_is_shown() -> None:
    [(command, shown)] = commands_and_output(PAGE)
    assert said(command) == shown


def test_running_a_model_that_was_never_pulled_says_what_is_shown() -> None:
    assert said("bitnet-numba run -m microsoft/bitnet-b1.58-2B-4T-gguf x") == code_blocks(PAGE, "text")[0]


def test_a_bad_network_looks_as_shown(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    content = demo_model_path().read_bytes()
    hub.files = {"demo-i2_s.gguf": content}
    hub.fail(dies_after(len(content) // 2), status(503), status(429, Retry_After="2"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr("bitnet_numba.hub.retry.time.sleep", lambda seconds: None)
    *lines, last = code_blocks(PAGE, "text")[1].splitlines()
    found = said("bitnet-numba pull org/model").splitlines()
    assert found[: len(lines)] == lines
    assert found[len(lines)].rpartition(", ")[0] == last.rpartition(", ")[0]  # but for the speed
