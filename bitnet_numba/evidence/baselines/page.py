"""A baseline as a Markdown page, for people; the JSON beside it counts."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bitnet_numba.evidence.baselines.record import PROBE_SEED, PROBE_TOKENS, PROBES, Baseline
from bitnet_numba.files import open_regular

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
        "Changelog": [f"- {entry['date']}: {_cell(entry['change'])}" for entry in baseline["changelog"]],
    }
    lines = [f"# {mark}Baseline of {_cell(model['name'])}, {_cell(model['variant'])}", ""]
    link = f"[{_cell(json_name)}]({quote(json_name)})"
    lines += [f"Written by `bitnet-numba baseline`; {link} is what counts.", "", *_call_outs(baseline)]
    for title, body in sections.items():
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines).rstrip() + "\n"


def is_page(path: Path, baseline: Baseline, json_name: str) -> bool:
    """Whether a file is the page that :func:`render_page` gives; BitNetError if it cannot be read."""
    expected = render_page(baseline, json_name).encode()
    with open_regular(path) as file:
        return file.read(len(expected) + 1) == expected


def _call_outs(baseline: Baseline) -> list[str]:
    configuration = baseline["export_configuration"]
    said = {
        "is_test_model": "A **test model**, below 1 GB: its speed says little about larger ones.",
        "is_synthetic": "A **synthetic model**: its weights were not trained, so only its speed has a meaning.",
    }
    return [line for name, text in said.items() if configuration[name] for line in (text, "")]


def _table(facts: Mapping[str, Any]) -> list[str]:
    return ["| field | value |", "|---|---|", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items())]


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
    file, name = shlex.quote(json_name), shlex.quote(model)
    commands = [
        f"bitnet-numba baseline verify {file} {name}",
        f"bitnet-numba inspect {name} --ln-stats",
        *(f"bitnet-numba run -m {name} {shlex.quote(prompt)} -n {PROBE_TOKENS} --greedy" for prompt in PROBES),
        f"bitnet-numba receipt replay {shlex.quote(Path(json_name).stem + '.receipt.json')} -m {name}",
    ]
    return ["In the folder of this page:", "", "```sh", *commands, "```"]


def _cell(value: object) -> str:
    """Return a value for a table: no markup of the value's own takes effect."""
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)
