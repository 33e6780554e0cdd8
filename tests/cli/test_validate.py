"""``validate`` on the command line."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.validate.sabotages import SABOTAGES
from tests.validate.spoilt import spoilt


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CORRECTION_POLICY", "ALLOW_RUNTIME_CORRECTIONS", "FIX_LN_SCALE", "STRICT_MODE", "GGUF"):
        monkeypatch.delenv(f"BITNET_{name}", raising=False)


def test_a_healthy_model(invoke: Invoke) -> None:
    result = invoke("validate", "demo", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert [stage["status"] for stage in report["stages"]] == ["passed"] * 6
    assert [stage["code"] for stage in report["stages"]] == [10, 11, 12, 13, 14, 15]
    assert (report["status"], report["ruleset"]) == ("passed", "bitnet-b1.58:i2_s")
    assert report["probe"]["prompt"] + report["probe"]["text"] == "The capital of France is Paris. France is a country"


def test_a_damaged_one(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spoilt(tmp_path / "spoilt.gguf", SABOTAGES["one NaN for a scale"].spoil)
    monkeypatch.setenv("BITNET_GGUF", str(path))
    result = invoke("validate")
    assert result.exit_code == 13
    lines = result.stdout.splitlines()
    assert lines[3] == "13  failed   the model loads, every projection is there and within the ruleset"
    assert lines[4] == "    blk.3.ffn_up.weight: RMS nan, bitnet-b1.58:i2_s expects 0.002 to 0.2"
    assert lines[5].startswith("    does not load: ")
    assert lines[6] == "14  skipped  the model writes"
    assert result.stderr.startswith(f"error: {path}: 2 findings, the first in stage 13; ")


def test_corrections_are_refused_in_ci(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "woodpecker")
    monkeypatch.setenv("BITNET_FIX_LN_SCALE", "on")
    result = invoke("validate", "demo")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "error: BITNET_FIX_LN_SCALE is set: no model is corrected with CI set; unset it\n"
