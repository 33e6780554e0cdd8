"""Fixtures for the command line: a fake model, and a runner that keeps stdout and stderr apart."""

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

import bitnet_numba
from bitnet_numba_cli.main import cli
from tests.fakes import ScriptedModel

Invoke = Callable[..., Result]


def install(patch: pytest.MonkeyPatch, model: ScriptedModel) -> None:
    """Make ``bitnet_numba.load`` return a fake."""

    def load(name: str | None = None, **options: Any) -> ScriptedModel:
        model.loaded_with = {"model": name, **options} if name is not None else options
        return model

    patch.setattr(bitnet_numba, "load", load)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    """Put a fake in the place of the model that commands load."""
    fake = ScriptedModel(" Paris.\nYes", max_context=100)
    install(monkeypatch, fake)
    return fake


@pytest.fixture
def invoke() -> Invoke:
    """Give a function that runs a command line and lets bugs through as exceptions."""

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        options: dict[str, Any] = {"catch_exceptions": False}
        return CliRunner().invoke(cli, arguments, input=stdin, **options)

    return run
