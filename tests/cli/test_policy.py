"""``policy check`` and ``policy suggest``."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.validate.sabotages import SABOTAGES
from tests.validate.spoilt import spoilt

RULES = "version: 1\nrules:\n  b: {ln: [{pattern: x, min: 0, max: 1}]}\n  a: {ln: [{pattern: y, min: 0, max: 1}]}\n"


def test_a_suggestion_passes_the_check(invoke: Invoke, tmp_path: Path) -> None:
    bad = spoilt(tmp_path / "bad.gguf", SABOTAGES["norms times 0.02"].spoil)
    suggested = invoke("policy", "suggest", str(bad))
    assert suggested.exit_code == 0
    assert suggested.stdout.startswith("# Suggested by 'bitnet-numba policy suggest' for ")
    file = tmp_path / "policy.yml"
    file.write_text(suggested.stdout, encoding="utf-8")
    checked = invoke("policy", "check", str(file), "--json")
    summary = json.loads(checked.stdout)
    assert (summary["kind"], summary["models"], summary["corrections"]) == ("corrections", 1, 1)
    assert "models: 1\n" in invoke("policy", "check", str(file)).stdout


def test_rulesets_can_be_checked_too(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(RULES, encoding="utf-8")
    summary = json.loads(invoke("policy", "check", str(file), "--json").stdout)
    assert (summary["kind"], summary["rulesets"]) == ("rulesets", ["a", "b"])


@pytest.mark.parametrize("text", [RULES.replace("min: 0", "min: 2"), "version: 1\nmodels: []\n", "[1]", ""])
def test_a_wrong_policy_is_one_line_and_status_1(invoke: Invoke, tmp_path: Path, text: str) -> None:
    file = tmp_path / "policy.yml"
    file.write_text(text, encoding="utf-8")
    result = invoke("policy", "check", str(file))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {file}: ")
    assert result.stderr.count("\n") == 1


def test_nothing_is_suggested_for_a_healthy_model(invoke: Invoke) -> None:
    result = invoke("policy", "suggest", "demo")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "nothing suspicious that a correction could mend\n"


def test_the_group_alone_shows_its_help(invoke: Invoke) -> None:
    result = invoke("policy")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "suggest" in result.stderr
