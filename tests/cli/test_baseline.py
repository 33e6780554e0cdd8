"""``baseline``: the commands on the embedded model."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitnet_numba.demo import demo_model_path
from bitnet_numba.evidence.baselines.record import read_baseline
from bitnet_numba.evidence.documents import write_document
from tests.cli.conftest import Invoke
from tests.docs.markdown import ROOT, code_blocks
from tests.tiny import toy_model

COMMITTED = ROOT / "docs" / "baselines" / "bitnet-demo-5.8m-i2_s-gguf.json"


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
    assert invoke("quantize", str(demo_model_path()), "-o", str(other), "--type", "tq2_0").exit_code == 0
    result = invoke("baseline", "verify", str(page), str(other))
    assert result.exit_code == 15
    assert "fingerprints.sha256: is " in result.stdout
    assert "model.variant: is 'tq2_0'" in result.stdout
    assert "probes" not in result.stdout  # the same weights


def test_update_deprecate_and_list(invoke: Invoke, page: Path) -> None:
    again = invoke("baseline", "create", "demo")
    assert (again.exit_code, "'baseline update'" in again.stderr) == (2, True)
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
    revived = invoke("baseline", "update", str(page), "demo", "--reason", "back")
    assert (revived.exit_code, "is deprecated" in revived.stderr) == (2, True)


def test_the_steps_of_a_page_work_when_pasted(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of the page, for a model that was named from another one."""
    (tmp_path / "my models").mkdir()
    shutil.copy(demo_model_path(), tmp_path / "my models" / "a.gguf")
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "my pages" / "a b.md"
    monkeypatch.setenv("BITNET_GGUF", "my models/a.gguf")
    assert invoke("baseline", "create", "-o", "my pages/a b.md").exit_code == 0
    monkeypatch.delenv("BITNET_GGUF")
    monkeypatch.chdir(page.parent)
    [block] = code_blocks(page, "sh")
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    assert all("../my models/a.gguf" in command for command in commands)
    results = [invoke(*command) for command in commands]
    assert [result.exit_code for result in results] == [0] * len(commands)
    assert (results[0].stdout, results[-1].stdout[:9]) == ("PASS  a b.json\n", "CONFIRMED")
    probes = [probe["text"] for probe in read_baseline(page.with_suffix(".json"))["probes"]]
    answers = [result.stdout for command, result in zip(commands, results, strict=True) if command[0] == "run"]
    assert all(text in answer for text, answer in zip(probes, answers, strict=True))


@pytest.mark.parametrize("name", ["README.md", "README.json", "README.receipt.json"])
def test_no_file_is_replaced(name: str, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    result = invoke("baseline", "create", "demo", "-o", str(tmp_path / "README.md"))
    assert (result.exit_code, f"{name}: exists" in result.stderr) == (2, True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("reason", ["", " ", "a\n## Model", "x" * 1001])
def test_a_reason_is_one_line(reason: str, invoke: Invoke, tmp_path: Path) -> None:
    path = shutil.copy(COMMITTED, tmp_path)
    for command in (["update", path, "demo"], ["deprecate", path]):
        result = invoke("baseline", *command, "--reason", reason)
        assert (result.exit_code, "one line" in result.stderr) == (2, True)


def test_a_list_leaves_out_other_files_and_names_damaged_ones(invoke: Invoke, tmp_path: Path) -> None:
    for path in (COMMITTED, COMMITTED.with_suffix(".md"), COMMITTED.with_suffix(".receipt.json")):
        shutil.copy(path, tmp_path)
    shutil.copy(COMMITTED.with_suffix(".receipt.json"), tmp_path / "20261201-cpu.json")
    (tmp_path / "README.md").write_text("# Baselines")
    result = invoke("baseline", "list", str(tmp_path), "--json")
    [entry] = json.loads(result.stdout)["baselines"]
    assert (result.exit_code, entry["file"], entry["status"]) == (0, COMMITTED.name, "active")
    (tmp_path / "a.md").touch()
    (tmp_path / "a.json").write_text("{}")
    result = invoke("baseline", "list", str(tmp_path), "--json")
    assert [entry["status"] for entry in json.loads(result.stdout)["baselines"]] == ["damaged", "active"]
    assert (result.exit_code, "a.json" in result.stderr) == (15, True)


def test_a_stranger_s_file_steers_no_terminal(invoke: Invoke, tmp_path: Path) -> None:
    strange: Any = read_baseline(COMMITTED)
    rms = {**strange["layernorm"]["rms"], "\x1b[31m\nPASS": 1.0}
    strange["layernorm"]["rms"] = dict(sorted(rms.items()))
    strange["status"] = "deprecated"
    strange["changelog"].append({"date": "2026-12-01", "change": "deprecated: \x9b2J\u2028error: x"})
    write_document(tmp_path / "a.json", strange)
    result = invoke("baseline", "verify", str(tmp_path / "a.json"), "demo")
    assert (result.exit_code, len(result.stdout.splitlines()), len(result.stderr.splitlines())) == (15, 2, 1)
    assert (result.stdout + result.stderr).replace("\n", "").isprintable()


def test_a_page_of_other_bytes_was_edited(invoke: Invoke, tmp_path: Path) -> None:
    shutil.copy(COMMITTED, tmp_path)
    page = (tmp_path / COMMITTED.name).with_suffix(".md")
    for data in (b"", b"\xff", COMMITTED.with_suffix(".md").read_bytes() + b"\n"):
        page.write_bytes(data)
        result = invoke("baseline", "verify", str(page), "demo")
        assert (result.exit_code, "it was edited" in result.stdout) == (15, True)


def test_a_short_context_is_filled(invoke: Invoke, tmp_path: Path) -> None:
    model, page = toy_model(max_seq_len=64).gguf().write(tmp_path / "a.gguf"), tmp_path / "page.md"
    assert invoke("baseline", "create", str(model), "-o", str(page)).exit_code == 0
    receipt = json.loads(page.with_suffix(".receipt.json").read_bytes())
    assert receipt["prompt_tokens"] + receipt["tokens_generated"] == 64
    assert invoke("baseline", "verify", str(page), str(model)).exit_code == 0


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
