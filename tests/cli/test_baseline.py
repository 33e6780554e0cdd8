"""``baseline``: the commands on the embedded model."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke


@pytest.fixture
def page(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert invoke("baseline", "create", "demo", "--commit", "abc").exit_code == 0
    return Path("docs/baselines/bitnet-demo-5.8m-i2_s-gguf.md")


def test_a_baseline_passes_until_something_changes(invoke: Invoke, page: Path) -> None:
    assert {path.suffix for path in page.parent.iterdir()} == {".md", ".json"}
    assert invoke("baseline", "verify", str(page), "demo").stdout.startswith("PASS")
    assert invoke("receipt", "verify", str(page.with_suffix(".receipt.json"))).exit_code == 0
    page.write_text(page.read_text("utf-8").replace("Paris", "Rome"), "utf-8")
    result = invoke("baseline", "verify", str(page), "-m", "demo", "--json")
    assert result.exit_code == 15
    [difference] = json.loads(result.stdout)["differences"]
    assert "it was edited" in difference


def test_another_model_differs(invoke: Invoke, page: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    assert invoke("quantize", _demo(), "-o", str(other), "--type", "tq2_0").exit_code == 0
    result = invoke("baseline", "verify", str(page), str(other))
    assert result.exit_code == 15
    assert "fingerprints.sha256: is " in result.stdout
    assert "model.variant: is 'tq2_0'" in result.stdout
    assert "probes" not in result.stdout  # the same weights


def _demo() -> str:
    from bitnet_numba.demo import demo_model_path

    return str(demo_model_path())


def test_update_deprecate_and_list(invoke: Invoke, page: Path) -> None:
    again = invoke("baseline", "create", "demo")
    assert (again.exit_code, "'baseline update' changes it" in again.stderr) == (2, True)
    assert invoke("baseline", "update", str(page), "demo").exit_code == 2  # without a reason
    assert invoke("baseline", "update", str(page), "demo", "--reason", "why not").exit_code == 0
    assert invoke("baseline", "deprecate", str(page), "--reason", "old").exit_code == 0
    assert page.read_text("utf-8").startswith("# [DEPRECATED]")
    assert "- " in page.read_text("utf-8").splitlines()[-1]
    verified = invoke("baseline", "verify", str(page), "demo")
    assert (verified.exit_code, "deprecated: old" in verified.stderr) == (0, True)
    [entry] = json.loads(invoke("baseline", "list", "--json").stdout)["baselines"]
    assert (entry["file"], entry["status"]) == (page.with_suffix(".json").name, "deprecated")
    assert "deprecated" in invoke("baseline", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["verify", "missing.json", "demo"], 2, "no such file"),
        (["list", "missing"], 2, "no such folder"),
        (["create", "demo", "-o", "page.txt"], 2, "name a .md file"),
        (["create", "missing.gguf"], 1, "no such model"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], status: int, message: str, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("baseline", *arguments)
    assert (result.exit_code, result.stderr.count("error: ")) == (status, 1)
    assert message in result.stderr


def test_corrections_are_refused_in_ci(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("BITNET_FIX_LN_SCALE", "1")
    result = invoke("baseline", "create", "demo")
    assert (result.exit_code, "BITNET_FIX_LN_SCALE" in result.stderr) == (3, True)
