"""``bench``: run, compare and thresholds on the embedded model."""

import json
from pathlib import Path

from bitnet_numba.evidence.benchmarks.compare import read_benchmark
from bitnet_numba.evidence.documents import write_document
from tests.cli.conftest import Invoke
from tests.tiny import toy_model


def test_a_run_is_compared_with_an_earlier_one(invoke: Invoke, tmp_path: Path) -> None:
    now, before, receipt = (tmp_path / name for name in ("now.json", "before.json", "receipt.json"))
    done = invoke("bench", "run", "demo", "--tokens", "16", "--json", str(now), "--receipt", str(receipt))
    assert (done.exit_code, "decode reaches" in done.stdout, "a test model" in done.stderr) == (0, True, True)
    assert read_benchmark(now)["tokens"] == 16
    assert invoke("receipt", "replay", str(receipt)).exit_code == 0
    faster = read_benchmark(now)
    faster["performance"]["tokens_per_sec"] *= 2
    write_document(before, faster)
    compared = invoke("bench", "compare", str(now), str(before), "--format", "json")
    assert (compared.exit_code, json.loads(compared.stdout)["verdict"]) == (17, "regression")
    for form in ("human", "junit", "markdown"):
        assert "tokens_per_sec" in invoke("bench", "compare", str(before), str(before), "--format", form).stdout
    limits = tmp_path / "limits.json"
    limits.write_text(invoke("bench", "thresholds", str(before)).stdout, "utf-8")
    assert invoke("bench", "compare", str(now), str(before), "--thresholds", str(limits)).exit_code == 17
    assert invoke("bench", "compare", str(before), str(before), "--thresholds", str(limits)).exit_code == 0
    small = invoke("bench", "run", "demo", "--min-size", "1GB")
    assert (small.exit_code, "3,450,368 bytes, expected at least 1,000,000,000" in small.stderr) == (13, True)
    missing = invoke("bench", "compare", str(now), str(tmp_path / "missing.json"))
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)


def test_a_synthetic_model_is_called_so(invoke: Invoke, tmp_path: Path) -> None:
    contents = toy_model().gguf()
    contents.metadata["general.name"] = "random 2B-4T"
    model, figures = contents.write(tmp_path / "a.gguf"), tmp_path / "a.json"
    done = invoke("bench", "run", str(model), "--tokens", "8", "--warmup-tokens", "2", "--json", str(figures))
    assert (done.exit_code, "a synthetic model" in done.stderr) == (0, True)
    assert read_benchmark(figures)["model"]["is_synthetic"]
