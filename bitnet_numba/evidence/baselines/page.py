"""A baseline as a Markdown page, for people; the JSON beside it counts."""

import json
from collections.abc import Mapping
from typing import Any

from bitnet_numba.evidence.baselines.record import PROBE_SEED, PROBE_TOKENS, Baseline

_SAMPLES = 6


def render_page(baseline: Baseline, json_name: str) -> str:
    """Return the page of a baseline whose JSON file has this name."""
    model, prints, notes = baseline["model"], baseline["fingerprints"], baseline["notes"]
    mark = "[DEPRECATED] " if baseline["status"] == "deprecated" else ""
    sections = {
        "Model": _table(model),
        "Fingerprints": _table(prints),
        "Export Configuration": _table(baseline["export_configuration"]),
        "LayerNorm Statistics": _statistics(baseline["layernorm"]),
        "Projection Weights": _statistics(baseline["projection"]),
        "Probe Outputs": _probes(baseline["probes"]),
        "Reproduction Steps": _steps(notes["model_argument"], json_name),
        "Hardware": _table(baseline["hardware"]),
        "Notes": _table(notes),
        "Changelog": [f"- {entry['date']}: {entry['change']}" for entry in baseline["changelog"]],
    }
    lines = [f"# {mark}Baseline of {_cell(model['name'])}, {_cell(model['variant'])}", ""]
    lines += [f"Written by `bitnet-numba baseline`; [{json_name}]({json_name}) is what counts.", ""]
    for title, body in sections.items():
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(facts: Mapping[str, Any]) -> list[str]:
    return ["| field | value |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in facts.items())]


def _statistics(found: Mapping[str, Any]) -> list[str]:
    facts = {
        "ruleset": found["ruleset"],
        "healthy": f"{found['healthy']} of {found['total']}",
        "RMS": f"{found['rms_min']:.6g} to {found['rms_max']:.6g}",
        "suspicious": ", ".join(found["suspicious"]) or "none",
    }
    samples = dict(list(found["rms"].items())[:_SAMPLES])
    return [*_table(facts), "", *_table({name: f"{rms:.9g}" for name, rms in samples.items()})]


def _probes(probes: list[Mapping[str, Any]]) -> list[str]:
    rows = [f"| {_cell(each['prompt'])} | {_cell(json.dumps(each['text']))} |" for each in probes]
    how = f"Greedy, {PROBE_TOKENS} tokens, seed {PROBE_SEED}:"
    return [how, "", "| prompt | text |", "|---|---|", *rows]


def _steps(model: str, json_name: str) -> list[str]:
    commands = [
        f"bitnet-numba baseline verify {json_name} {model}",
        f"bitnet-numba inspect {model} --ln-stats",
        f'bitnet-numba run -m {model} "The capital of France is" -n {PROBE_TOKENS} --seed {PROBE_SEED}',
    ]
    return ["In the folder of this page:", "", "```sh", *commands, "```"]


def _cell(value: object) -> str:
    """Return a value for a table: no markup of the value's own takes effect."""
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)
