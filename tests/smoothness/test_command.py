"""``bitnet-numba smoothness`` as people run it: flags, files, console text, log, errors and exit codes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bitnet_numba_cli.main import cli
from tests.docs.markdown import ROOT
from tests.smoothness.models import calibration, dream, normal, one_file

pytestmark = pytest.mark.slow  # compiling takes some seconds


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: Any, command: str = "smoothness") -> Result:
    return CliRunner().invoke(cli, [command, *map(str, arguments)], catch_exceptions=False)


def test_the_flags_of_the_quick_start(tmp_path: Path) -> None:
    model = dream().write(tmp_path / "dream", n_shards=4)
    flags = ["--model", model, "--output", "dream-2bit", "--bit-width", 2, "--num-time-groups", 4]
    flags += [
        "--smoothness-threshold",
        0.3,
        "--report",
        "baseline_metrics.json",
        "--html-report",
        "m.html",
        "--verbose",
    ]
    done = run(*flags)
    assert done.exit_code == 0
    assert "Quantized 21 tensors" in done.stderr
    report = json.loads(Path("baseline_metrics.json").read_text())
    assert report["model_name"] == "dream"
    assert Path("m.html").read_text().startswith("<!doctype html>")
    assert "dream-2bit" in [path.name for path in tmp_path.iterdir()]
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_the_console_report_has_its_sections_and_the_log_the_time_of_every_line(tmp_path: Path) -> None:
    weights = normal((16, 16))
    weights[8:] *= 9
    done = run(one_file(tmp_path / "m", {"w": weights}), "-o", "out", command="metrics")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[1], lines[2], lines[-1]) == ("=" * 80, "BASELINE METRICS ESTABLISHED", "=" * 80, "=" * 80)
    titles = ["Markov Smoothness Metrics", "Boundary Score Statistics", "Quantization Quality"]
    titles += ["Common Violation Patterns", "Detailed Violations", "Interpretation"]
    assert [line for line in lines if line in titles] == titles
    assert any(line.startswith("  Boundary 1: scale jump ") and line.endswith(", high") for line in lines)
    log = Path("baseline_metrics.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in log)
    assert [line[20:] for line in log[-len(lines) :]] == lines
    assert done.stderr == ""


def test_the_embedded_model_s_checkpoint() -> None:
    done = run(ROOT / "bench" / "demo_model" / "checkpoint", "-o", "out", "--ternary", "--report", "r.json")
    assert done.exit_code == 0
    report = json.loads(Path("r.json").read_text())
    assert (report["grouping"], report["quantized_tensor_count"]) == ("depth", 42)
    assert 0.8 < report["cosine_similarity"] < 0.9


def test_the_change_of_the_engine_s_predictions_is_measured() -> None:
    checkpoint = ROOT / "bench" / "demo_model" / "checkpoint"
    Path("story.txt").write_text("Once upon a time there was a little girl. She liked to play in the park.")
    reports = {}
    for name, flags in {"ternary": ["--ternary"], "two": ["--bit-width", 2], "eight": ["--bit-width", 8]}.items():
        done = run(checkpoint, "-o", "out", "--text", "story.txt", *flags)
        assert "Accuracy" in done.stdout.splitlines()
        reports[name] = json.loads(Path("baseline_metrics.json").read_text())["accuracy"]
    assert reports["ternary"]["mean_token_kl"] < 1e-3  # what the engine itself would make of the master weights
    assert reports["ternary"]["top1_agreement"] == 1.0
    assert reports["eight"]["mean_token_kl"] < reports["two"]["mean_token_kl"]
    assert reports["eight"]["tokens"] > 10
    assert "absmean" in reports["two"]["note"]


# ---- errors ----------------------------------------------------------------------------------------------------------
def failed(done: Result, words: str, status: int = 1) -> None:
    """Check for one line on stderr, and that no report was written."""
    assert (done.exit_code, done.stdout) == (status, "")
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert not Path("baseline_metrics.json").exists()
    assert not Path("out").exists()


def test_a_missing_model() -> None:
    failed(run("nowhere", "-o", "out"), "error: Model not found: nowhere\n")
    assert Path("baseline_metrics.log").read_text().endswith("error: Model not found: nowhere\n")


def test_a_folder_without_safetensors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    failed(run("empty", "-o", "out"), "error: No safetensors files found in empty\n")


@pytest.mark.parametrize(("name", "flags"), [("norm.weight", []), ("dense", ["--ternary"])])
def test_a_model_without_a_chain(tmp_path: Path, name: str, flags: list[str]) -> None:
    model = one_file(tmp_path / "m", {name: normal((4, 4))})
    failed(run(model, "-o", "out", *flags), "error: No thermodynamic metrics in result\n")


def test_a_weight_that_is_not_a_number(tmp_path: Path) -> None:
    model = one_file(tmp_path / "m", {"bad one": np.full((2, 2), np.nan, np.float32)})
    failed(run(model, "-o", "out"), "tensor 'bad one' holds NaN or infinity")


@pytest.mark.parametrize("flag", ["--report", "--html-report"])
def test_a_report_that_cannot_be_written(tmp_path: Path, flag: str) -> None:
    model = one_file(tmp_path / "m", {"w": normal((4, 4))})
    failed(run(model, "-o", "out", flag, tmp_path), "is a folder")
    failed(run(model, "-o", "out", flag, tmp_path / "no" / "such.json"), "no such directory")


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--model", "m"],
        ["--bit-width", "3"],
        ["--num-time-groups", "0"],
        ["--num-time-groups", "101"],
        ["--group-size", "48"],
        ["--smoothness-threshold", "-1"],
        ["--grouping", "timesteps"],
        ["--grouping", "rows", "--calibration", "samples.jsonl"],
        ["--ternary", "--bit-width", "4"],
        ["--ternary", "--range", "mse"],
        ["--strength", "1.5"],
        ["--window", "0"],
    ],
)
def test_wrong_usage_ends_with_status_2(tmp_path: Path, flags: list[str]) -> None:
    one_file(tmp_path / "m", {"w": normal((4, 4))})
    calibration(tmp_path / "samples.jsonl")
    model = ["m", "-o", "out"] if flags else ["-o", "out"]
    failed(run(*model, *flags), "error: ", status=2)


@pytest.mark.parametrize("threshold", ["nan", "inf"])
def test_a_threshold_that_is_not_finite_is_wrong_usage(tmp_path: Path, threshold: str) -> None:
    model = one_file(tmp_path / "m", {"w": normal((4, 4))})
    failed(run(model, "-o", "out", "--smoothness-threshold", threshold), "error: ", status=2)


def test_text_for_a_model_that_the_engine_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Once upon a time.")
    failed(run(dream().write(tmp_path / "dream"), "-o", "out", "--text", "story.txt"), "error: ")
