"""The console report: the metrics in sections between rules of 80 characters."""

from collections.abc import Mapping
from typing import Any

RULE = "=" * 80
TITLE = "BASELINE METRICS ESTABLISHED"
LEVELS = ((0.90, "excellent"), (0.82, "good"), (0.65, "baseline"))
POOR = "poor"
N_DETAILED = 5
CAVEAT = "The score describes parameters, not quality: constant parameters always score 1.0."


def interpretation(score: float) -> str:
    """Return the word for a score."""
    return next((word for least, word in LEVELS if score >= least), POOR)


def console_text(report: Mapping[str, Any]) -> str:
    """Return the report as text."""
    lines = [RULE, TITLE, RULE, *_head(report), ""]
    for title, section in _sections(report).items():
        lines += [title, *(f"  {line}" for line in section), ""]
    return "\n".join(map(_printable, [*lines[:-1], RULE])) + "\n"


def _printable(line: str) -> str:
    return line if line.isprintable() else ascii(line)[1:-1]


def _head(report: Mapping[str, Any]) -> list[str]:
    kind = "ternary (absmean)" if report["quantizer"] == "ternary" else f"{report['bit_width']} bits"
    effective, asked = report["num_time_groups_effective"], report["num_time_groups"]
    return [
        f"Model: {report['model_name']}",
        f"Quantizer: {kind}, range {report['range']}, group size {report['group_size'] or 'none'}",
        f"Groups: {effective} of {asked} asked for, by {report['grouping']} ({report['grouping_reason']})",
        f"Tensors: {report['quantized_tensor_count']} quantized, {len(report['kept_tensors'])} kept",
        *(f"Note: {note}" for note in report["notes"]),
    ]


def _sections(report: Mapping[str, Any]) -> dict[str, list[str]]:
    sections = {
        "Markov Smoothness Metrics": [
            f"Smoothness score: {report['smoothness_score']:.4f}",
            f"Violations: {report['violation_count']} of {len(report['boundary_scores'])} boundaries",
            f"Violations in single layers: {report['layer_violation_count']}",
            f"Swap penalty: {_penalties(report['swap_penalty_db'])}",
        ],
        "Boundary Score Statistics": [
            f"{name.capitalize()}: {report[f'{name}_boundary_score']:.4f}" for name in ("min", "max", "mean", "std")
        ],
        "Quantization Quality": [
            f"Cosine similarity: {report['cosine_similarity']:.4f} (weighted {report['cosine_weighted']:.4f},"
            f" least {report['cosine_min']:.4f} in {report['cosine_min_tensor']})",
            f"SQNR: {_decibel(report['sqnr_db'])}, relative MSE {report['relative_mse']:.4g}",
            f"Compression: {report['compression_ratio']:.2f}x,"
            f" {report['effective_bits_per_weight']:.3f} bits a quantized weight",
            f"Model size: {report['model_size_mb']:.2f} MB",
        ],
        "Common Violation Patterns": list(report["common_violation_patterns"]),
        "Detailed Violations": _details(report["violations"]),
    }
    for key, title in (("smoothing", "Phase 2, Boundary Smoothing"), ("optimization", "Phase 3, Optimization")):
        if key in report:
            sections[title] = _phase(report[key])
    if "accuracy" in report:
        sections["Accuracy"] = _accuracy(report["accuracy"])
    sections["Interpretation"] = [f"Smoothness: {interpretation(report['smoothness_score'])}", CAVEAT]
    return sections


def _details(violations: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"Boundary {each['boundary_idx']}: scale jump {100 * each['scale_jump']:.1f}%,"
        f" zero point jump {100 * each['zero_point_jump']:.1f}%, {each['severity']}"
        for each in violations[:N_DETAILED]
    ]
    if len(violations) > N_DETAILED:
        lines.append(f"and {len(violations) - N_DETAILED} more")
    return lines or ["none"]


def _penalties(values: list[float | None]) -> str:
    return ", ".join("exact with its own only" if value is None else f"{value:.3f} dB" for value in values) or "none"


def _decibel(value: float | None) -> str:
    return "exact" if value is None else f"{value:.2f} dB"


def _phase(section: Mapping[str, Any]) -> list[str]:
    lines = [f"{'Accepted' if section['accepted'] else 'Not used'}: {section['reason']}"]
    for name, after in section.get("after", {}).items():
        before = section["before"][name]
        values = ["exact" if value is None else f"{value:.4g}" for value in (before, after)]
        lines.append(f"{name}: {values[0]} before, {values[1]} after")
    return lines


def _accuracy(accuracy: Mapping[str, Any]) -> list[str]:
    return [
        f"Perplexity: {accuracy['perplexity_source']:.3f} source, {accuracy['perplexity_quantized']:.3f} quantized",
        f"Mean token KL: {accuracy['mean_token_kl']:.4g} nats over {accuracy['tokens']} tokens",
        f"Same likeliest token: {100 * accuracy['top1_agreement']:.1f}%",
        accuracy["note"],
    ]
