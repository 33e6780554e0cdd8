"""Benchmarks: what a run records, and what a comparison finds."""

import copy
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

import bitnet_numba
from bitnet_numba.errors import BitNetError, EvidenceError, ParameterError
from bitnet_numba.evidence.benchmarks.compare import (
    METRICS,
    SHARES,
    compare_benchmarks,
    notes,
    read_benchmark,
    read_thresholds,
    thresholds_of,
)
from bitnet_numba.evidence.benchmarks.report import as_junit, as_markdown, as_text
from bitnet_numba.evidence.benchmarks.run import run_benchmark
from bitnet_numba.evidence.documents import dump, write_document
from bitnet_numba.evidence.facts import identify
from bitnet_numba.evidence.verify import verify_document

Benchmark = dict[str, Any]


@pytest.fixture(scope="module")
def measured() -> tuple[Benchmark, dict[str, Any]]:
    with bitnet_numba.load("demo", cached_prefixes=0) as model:
        return run_benchmark(model, identify(model), tokens=32, warmup_tokens=2)


@pytest.fixture
def benchmark(measured: tuple[Benchmark, dict[str, Any]]) -> Benchmark:
    return copy.deepcopy(measured[0])


def test_a_run_records_what_it_did(measured: tuple[Benchmark, dict[str, Any]], tmp_path: Path) -> None:
    found, receipt = measured
    assert (found["tokens"], found["model"]["is_test_model"]) == (32, True)
    timing, speed, memory = found["timing"], found["performance"], found["memory"]
    assert timing["total_ms"] == pytest.approx(timing["prefill_ms"] + timing["decode_ms"], abs=0.01)
    assert speed["tokens_per_sec"] == pytest.approx(31 / timing["decode_ms"] * 1000, rel=0.01)
    assert memory["achieved_gb_per_second"] == pytest.approx(
        memory["bytes_per_token"] * speed["tokens_per_sec"] / 1e9, abs=2e-3
    )
    assert memory["bandwidth_share"] == receipt["performance_baseline"]["bandwidth_utilization"]
    assert found["kernels"] == receipt["kernels"]
    assert receipt["performance_baseline"]["warmup_ms"] == timing["warmup_ms"]
    assert len(receipt["token_ids"]) == 32
    assert verify_document(receipt, dump(receipt)).passed
    write_document(tmp_path / "a.json", found)
    assert read_benchmark(tmp_path / "a.json") == found


def test_fewer_tokens_than_asked_fail() -> None:
    with bitnet_numba.load("demo", cached_prefixes=0, max_context=20) as model:
        with pytest.raises(BitNetError, match="tokens were decoded: the context is full"):
            run_benchmark(model, identify(model), tokens=32, warmup_tokens=1)
        with pytest.raises(ParameterError, match="tokens=1"):
            run_benchmark(model, identify(model), tokens=1)


def changed(benchmark: Benchmark, metric: str, factor: float) -> Benchmark:
    other = copy.deepcopy(benchmark)
    section = other[METRICS[metric]]
    section[metric] = type(section[metric])(section[metric] * factor)
    return other


@pytest.mark.parametrize("metric", METRICS)
def test_worse_is_a_regression_and_better_an_improvement(benchmark: Benchmark, metric: str) -> None:
    higher_is_better = metric.endswith("per_sec") or metric == "bandwidth_share"
    for factor, status in ((1.2, "regression"), (1.1, "same"), (0.97, "same"), (0.9, "improvement")):
        applied = 1 / factor if higher_is_better else factor
        changes = compare_benchmarks(changed(benchmark, metric, applied), benchmark)
        found = {change.metric: change.status for change in changes}
        assert found[metric] == status, factor
        assert set(found) == set(METRICS)
        assert {name for name, each in found.items() if each != "same"} <= {metric}


def test_thresholds_decide(benchmark: Benchmark) -> None:
    slower = changed(benchmark, "tokens_per_sec", 0.8)
    tolerant = {"relative": {"tokens_per_sec": 0.25}}
    assert all(change.status != "regression" for change in compare_benchmarks(slower, benchmark, tolerant))
    strict = {"relative": {"tokens_per_sec": 0.01}}
    assert "regression" in {
        c.status for c in compare_benchmarks(changed(benchmark, "tokens_per_sec", 0.98), benchmark, strict)
    }
    limits = thresholds_of(benchmark)
    speed = benchmark["performance"]["tokens_per_sec"]
    assert limits["regression_thresholds"]["throughput_min"] == round(0.85 * speed, 3)
    assert set(limits["regression_thresholds"]) == {"warmup_ms_max", "prefill_ms_max", "total_ms_max", "throughput_min"}
    absolute = {"regression_thresholds": {"throughput_min": 2 * speed}}
    [found] = [c for c in compare_benchmarks(benchmark, benchmark, absolute) if c.status == "regression"]
    assert (found.metric, found.limit) == ("tokens_per_sec", 2 * speed)


def test_other_machines_are_compared_by_shares(benchmark: Benchmark) -> None:
    other = copy.deepcopy(benchmark)
    other["machine"]["CPU_BRAND"] = "another"
    assert [change.metric for change in compare_benchmarks(other, benchmark)] == list(SHARES)
    assert any("other machines" in note for note in notes(other, benchmark))
    other["tokens"], other["model"]["sha256"] = 64, "0" * 64
    assert len(list(notes(other, benchmark))) == 4


def test_reports(benchmark: Benchmark) -> None:
    changes = compare_benchmarks(changed(benchmark, "tokens_per_sec", 0.5), benchmark)
    report = ElementTree.fromstring(as_junit(changes, ["<note>"]))
    assert (report.get("tests"), report.get("failures")) == (str(len(METRICS)), "1")
    [failure] = report.iter("failure")
    assert "-50.0%" in str(failure.get("message"))
    assert "| tokens_per_sec |" in as_markdown(changes, [])
    text = as_text(changes, ["one"])
    assert max(map(len, text.splitlines())) <= 80
    assert "regression" in text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("timing/prefill_ms", 0.0),
        ("timing/decode_ms", 0.0),
        ("performance/tokens_per_sec", 5),
        ("tokens", 1),
        ("model/sha256", "x"),
        ("kernels", []),
        ("schema_version", "2"),
    ],
)
def test_another_form_is_refused(benchmark: Benchmark, path: str, value: Any, tmp_path: Path) -> None:
    *parents, last = path.split("/")
    inner = benchmark
    for part in parents:
        inner = inner[part]
    inner[last] = value
    write_document(tmp_path / "a.json", benchmark)
    with pytest.raises(EvidenceError, match=path.replace("/", ".")):
        read_benchmark(tmp_path / "a.json")


def test_thresholds_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"relative": {"tokens_per_sec": 0.1}}', "utf-8")  # as people write it
    assert read_thresholds(path) == {"relative": {"tokens_per_sec": 0.1}}
    for wrong in ('{"relative": {"speed": 1}}', '{"limits": {}}', '{"regression_thresholds": {"throughput_min": -1}}'):
        path.write_text(wrong, "utf-8")
        with pytest.raises(EvidenceError):
            read_thresholds(path)
