"""The workflows for users' own CI: well formed, safe to start with any input, and their shell steps work."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.subprocesses import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
BUILD = ROOT / ".github" / "workflows" / "build-and-validate.yml"
INSTALL = "Install"  # the one step that a test replaces: this checkout is what it would install
CORRECTIONS = ("BITNET_CORRECTION_POLICY", "BITNET_ALLOW_RUNTIME_CORRECTIONS", "BITNET_FIX_LN_SCALE")


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def jobs(path: Path) -> list[dict[str, Any]]:
    return list(read(path)["jobs"].values())


def shell_steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path) for step in job["steps"] if "run" in step]


def test_there_are_workflows() -> None:
    assert BUILD in WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_well_formed(path: Path) -> None:
    workflow = read(path)
    assert workflow["name"] == path.stem
    assert workflow["permissions"] == {"contents": "read"}
    for job in jobs(path):
        assert job["timeout-minutes"] > 0
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_shell_steps_are_bash_and_take_no_input_as_code(path: Path) -> None:
    assert all(job["defaults"]["run"]["shell"] == "bash" for job in jobs(path))
    for step in shell_steps(path):
        assert "${{" not in step["run"], "an input would become code: pass it through env"
        subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)


def test_a_run_is_started_by_hand_with_inputs() -> None:
    inputs = read(BUILD)["on"]["workflow_dispatch"]["inputs"]
    assert inputs["model"]["required"]
    assert inputs["type"]["default"] in inputs["type"]["options"]


def test_the_model_is_kept_only_if_every_gate_passed() -> None:
    [job] = jobs(BUILD)
    names = [step.get("name", "") for step in job["steps"]]
    uploads = [step for step in job["steps"] if step.get("uses", "").startswith("actions/upload-artifact")]
    assert [(step["with"]["name"], step.get("if")) for step in uploads] == [("reports", "always()"), ("model", None)]
    last_gate = max(place for place, name in enumerate(names) if name.startswith("Quality gate"))
    assert job["steps"].index(uploads[1]) > last_gate
    assert not any("continue-on-error" in step for step in job["steps"])


# ---- the steps, run --------------------------------------------------------------------------------------------------
class Runner:
    """Runs shell steps as a runner of GitHub does: one bash each, variables handed on through a file.

    Parameters
    ----------
    folder : Path
        For the programs and files of this run.
    inputs : str
        Of the workflow.
    """

    def __init__(self, folder: Path, **inputs: str) -> None:
        [job] = jobs(BUILD)
        self.variables = {name: _expanded(value, inputs) for name, value in job["env"].items()}
        self._handed_on, self.summary = folder / "env", folder / "summary"
        programs = folder / "bin"
        programs.mkdir()
        program = programs / "bitnet-numba"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bitnet_numba "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        self._base = {name: value for name, value in os.environ.items() if name not in CORRECTIONS}
        self._base |= {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}", "CI": "true"}
        self._base |= {"GITHUB_ENV": str(self._handed_on), "GITHUB_STEP_SUMMARY": str(self.summary)}

    def run(self, step: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=ROOT,
            env=self._base | self.variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if self._handed_on.exists():
            self.variables |= dict(line.split("=", 1) for line in self._handed_on.read_text().splitlines())
        return done

    def run_all(self) -> tuple[str, subprocess.CompletedProcess[str]]:
        """Run the steps until one fails; return the name of the last, and what it did."""
        for step in shell_steps(BUILD):
            if step["name"] == INSTALL:
                continue
            done = self.run(step)
            if done.returncode:
                break
        return step["name"], done


def _expanded(value: str, inputs: dict[str, str]) -> str:
    """Put inputs where the workflow names them; there are no secrets here."""
    value = re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda match: inputs[match[1]], value)
    return re.sub(r"\$\{\{ secrets\.\w+ \}\}", "", value)


def test_the_embedded_model_s_checkpoint_passes(tmp_path: Path) -> None:
    runner = Runner(tmp_path, model="bench/demo_model/checkpoint", type="i2_s")
    runner.variables["OUT"] = str(tmp_path / "out")
    step, done = runner.run_all()
    assert done.returncode == 0, f"{step}: {done.stderr}"
    made = {path.name for path in (tmp_path / "out").iterdir()}
    for file in ("clean-f16.gguf", "clean-i2_s.gguf"):
        assert {file, f"{file}.inspect.json", f"{file}.validate.json"} <= made
        assert file in runner.summary.read_text()


def test_a_model_of_the_hub_that_cannot_be_had_stops_the_run(tmp_path: Path) -> None:
    runner = Runner(tmp_path, model="org/no-such-model", type="i2_s")
    runner.variables |= {"OUT": str(tmp_path / "out"), "BITNET_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
    step, done = runner.run_all()
    assert (step, done.returncode) == ("Get the checkpoint", 14)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("variable", CORRECTIONS)
def test_corrections_are_refused(variable: str, tmp_path: Path) -> None:
    runner = Runner(tmp_path, model="bench/demo_model/checkpoint", type="i2_s")
    runner.variables[variable] = "1"
    step, done = runner.run_all()
    assert (step, done.returncode) == ("Refuse corrections", 3)
    assert done.stderr.startswith(f"error: {variable} is set")


def test_an_input_is_never_run_as_code(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    runner = Runner(tmp_path, model=f'x"; touch {trace}; "$(touch {trace})', type="i2_s")
    step, done = runner.run_all()
    assert (step, done.returncode) == ("Get the checkpoint", 2)
    assert not trace.exists()
