"""Comparison of two benchmarks, metric by metric: regressions, improvements, and limits of a thresholds file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bitnet_numba.errors import EvidenceError
from bitnet_numba.evidence.documents import read_document
from bitnet_numba.evidence.schema import check_form, read_schema

Benchmark = dict[str, Any]
Status = Literal["regression", "improvement", "same"]

DEFAULT_THRESHOLD: Final = 0.15
IMPROVEMENT: Final = 0.05
HIGHER_IS_BETTER: Final = frozenset(("tokens_per_sec", "prefill_tokens_per_sec", "bandwidth_share"))
METRICS: Final = {
    "warmup_ms": "timing",
    "prefill_ms": "timing",
    "decode_ms": "timing",
    "total_ms": "timing",
    "tokens_per_sec": "performance",
    "ms_per_token": "performance",
    "prefill_tokens_per_sec": "performance",
    "bytes_per_token": "memory",
    "bandwidth_share": "memory",
    "peak_rss_mb": "memory",
}
"""Each metric, and the section of a benchmark that it stands in."""

SHARES: Final = ("bytes_per_token", "bandwidth_share")
"""What two machines can be compared by."""

_LIMITS: Final = {
    "warmup_ms_max": "warmup_ms",
    "prefill_ms_max": "prefill_ms",
    "total_ms_max": "total_ms",
    "throughput_min": "tokens_per_sec",
}
_MACHINE: Final = ("CPU_BRAND", "INSTRUCTION_SET", "NUM_THREADS", "OS")


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of two benchmarks.

    Attributes
    ----------
    metric : str
    current, baseline : float
    change : float
        ``current / baseline - 1``.
    threshold : float
        Change for the worse that is a regression.
    limit : float or None
        Absolute limit of a thresholds file, which the current value must keep.
    status : {"regression", "improvement", "same"}
    """

    metric: str
    current: float
    baseline: float
    change: float
    threshold: float
    limit: float | None
    status: Status


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark strictly.

    Raises
    ------
    EvidenceUnreadableError
        If the file is no JSON object.
    EvidenceError
        If it is not what ``bench run --json`` writes, with the reasons.
    """
    return _read(path, "benchmark.schema.json", "benchmark")


def read_thresholds(path: Path) -> dict[str, Any]:
    """Read a thresholds file: ``regression_thresholds``, absolute limits, and ``relative``, changes by metric."""
    return _read(path, "thresholds.schema.json", "thresholds", canonical=False)


def thresholds_of(benchmark: Benchmark) -> dict[str, Any]:
    """Return the thresholds file of a recorded benchmark: 15 % worse than it."""
    limits = {}
    for name, metric in _LIMITS.items():
        value = _value(benchmark, metric)
        factor = 1 - DEFAULT_THRESHOLD if metric in HIGHER_IS_BETTER else 1 + DEFAULT_THRESHOLD
        limits[name] = round(value * factor, 3)
    return {"regression_thresholds": limits}


def compare_benchmarks(
    current: Benchmark, baseline: Benchmark, thresholds: Mapping[str, Any] | None = None
) -> list[Change]:
    """Return each metric's change; of two machines, only what can be compared across them."""
    chosen = thresholds or {}
    names = METRICS if same_machine(current, baseline) else SHARES
    return [_change(name, current, baseline, chosen) for name in names]


def same_machine(current: Benchmark, baseline: Benchmark) -> bool:
    """Return whether two benchmarks ran on a CPU of one kind, with as many threads."""
    return all(current["machine"].get(name) == baseline["machine"].get(name) for name in _MACHINE)


def notes(current: Benchmark, baseline: Benchmark) -> Iterator[str]:
    """Yield what makes a comparison weaker than it looks."""
    if not same_machine(current, baseline):
        yield "other machines, or other numbers of threads: only bytes and shares of the memory's speed are compared"
    if current["model"]["sha256"] != baseline["model"]["sha256"]:
        yield "other model files"
    if (current["prompt_tokens"], current["tokens"]) != (baseline["prompt_tokens"], baseline["tokens"]):
        yield "other numbers of tokens: times are not of the same work"
    if current["model"]["is_test_model"]:
        yield "a test model, below 1 GB: its speed says little about larger ones"


def _read(path: Path, schema: str, what: str, *, canonical: bool = True) -> dict[str, Any]:
    document, data = read_document(path)
    form = read_schema("bitnet_numba.evidence.benchmarks", schema)
    findings = check_form(document, data if canonical else None, form, what)
    if findings:
        raise EvidenceError(f"{path}: {'; '.join(map(str, findings[:8]))}")
    return document


def _change(name: str, current: Benchmark, baseline: Benchmark, thresholds: Mapping[str, Any]) -> Change:
    new, old = _value(current, name), _value(baseline, name)
    threshold = float(thresholds.get("relative", {}).get(name, DEFAULT_THRESHOLD))
    limits = thresholds.get("regression_thresholds", {})
    limit = next((limits[key] for key, metric in _LIMITS.items() if metric == name and key in limits), None)
    change = new / old - 1 if old else 0.0 if new == old else float("inf")
    worse = -change if name in HIGHER_IS_BETTER else change
    breaks_limit = limit is not None and (new < limit if name in HIGHER_IS_BETTER else new > limit)
    status: Status = "same"
    if worse > threshold or breaks_limit:
        status = "regression"
    elif -worse > IMPROVEMENT:
        status = "improvement"
    return Change(name, new, old, change, threshold, limit, status)


def _value(benchmark: Benchmark, metric: str) -> float:
    return float(benchmark[METRICS[metric]][metric])
