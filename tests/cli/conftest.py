"""Fixtures for the command line: a fake model, and a runner that keeps stdout and stderr apart."""

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bitnet_numba_cli.main import cli
from tests.cli.fake import FakeModel, install

Invoke = Callable[..., Result]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """Put a fake in the place of the model that commands load."""
    fake = FakeModel()
    install(monkeypatch, fake)
    return fake


@pytest.fixture
def invoke() -> Invoke:
    """Give a function that runs a command line and lets bugs through as exceptions."""

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        options: dict[str, Any] = {"catch_exceptions": False}
        return CliRunner().invoke(cli, arguments, input=stdin, **options)

    return run
