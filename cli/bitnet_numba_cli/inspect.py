"""``inspect``: the contents of a model's files, and whether its norms and projections look healthy."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitnet_numba.errors import GateError
from bitnet_numba.files import human_size
from bitnet_numba_cli import _text, _ui
from bitnet_numba_cli._options import JSON_OPTION, MODEL_OPTION, PATH, model_by_name

if TYPE_CHECKING:
    from bitnet_numba.validate.inspect import Gate, Inspection, Statistics

MAX_SHOWN = 100  # characters of a metadata value; a chat template has thousands

EXAMPLES = """\b
Examples:
  bitnet-numba inspect model.gguf
  bitnet-numba inspect model.gguf --ln-stats
  BITNET_STRICT_MODE=1 bitnet-numba inspect model.gguf --ln-stats --json
  bitnet-numba inspect model.gguf --ln-stats --gate policy --policy rules.yml
"""


@click.command("inspect", short_help="Show the contents of a model, and check its norms.", epilog=EXAMPLES)
@model_by_name
@MODEL_OPTION
@click.option("--ln-stats", is_flag=True, help="Compute the RMS of every norm and projection, and check them.")
@click.option(
    "--gate",
    type=click.Choice(["none", "auto", "policy"]),
    metavar="none|auto|policy",
    help="Ruleset to check them by: none, the one for architecture and file type, or one of --policy. Implies"
    " --ln-stats. Default: auto.",
)
@click.option("--policy", type=PATH, metavar="FILE", help="A YAML file with rulesets.")
@click.option("--policy-key", metavar="KEY", help="The ruleset in it. Default: the model's architecture.")
@JSON_OPTION
def command(
    model: str | None, ln_stats: bool, gate: "Gate | None", policy: Path | None, policy_key: str | None, as_json: bool
) -> None:
    """Show header, metadata, tensors, sizes and SHA-256 of MODEL, without loading or running it.

    With --ln-stats, also the root mean square of every norm and projection, exact for ternary tensors. A value outside
    the ruleset is suspicious: a warning, or exit status 8 with BITNET_STRICT_MODE. A quantized norm is an error.
    """
    from bitnet_numba.validate.inspect import inspect_model  # here, because it imports numpy

    is_checked = ln_stats or gate is not None
    inspection = inspect_model(model, ln_stats=is_checked, gate=gate or "auto", policy=policy, policy_key=policy_key)
    _text.write(inspection.to_dict() if as_json else _report(inspection))
    _ui.say_notes(inspection.files.notes)
    _report_verdict(inspection)


def _report_verdict(inspection: "Inspection") -> None:
    if inspection.status == "ok":
        return
    suspicious = [tensor.name for tensor in inspection.statistics.tensors if tensor.status == "suspicious"]
    message = (
        f"{inspection.files.path}: {len(suspicious)} tensors outside the ruleset {inspection.statistics.ruleset.name},"
        f" the first is {suspicious[0]}; convert the model again, or bring a ruleset of your own with --gate policy"
    )
    if inspection.status == "failed":
        raise GateError(message)
    _ui.say(f"warning: {message}")


def _report(inspection: "Inspection") -> str:
    files = inspection.files
    model = {"path": files.path, "sha256": inspection.sha256, "architecture": files.architecture, **files.header}
    sizes = {
        role: f"{size['tensors']:>4} tensors  {human_size(size['bytes'])}" for role, size in inspection.sizes().items()
    }
    sections: dict[str, dict[str, object]] = {
        "Model": {name.replace("_", " "): _value(value) for name, value in model.items()},
        "Metadata": {_value(key): _value(value) for key, value in files.metadata.items()},
        "Tensors": {
            name: f"{tensor.type:<6} {' x '.join(map(str, tensor.shape)):<14} {human_size(tensor.n_bytes)}"
            for name, tensor in files.tensors.items()
        },
        "Sizes": dict(sizes),
    }
    if inspection.has_statistics:
        sections |= _statistics(inspection.statistics)
        sections["Verdict"] |= {"strict mode": _value(inspection.strict), "status": inspection.status}
    return _ui.tables(sections)


def _statistics(statistics: "Statistics") -> dict[str, dict[str, object]]:
    sections: dict[str, dict[str, object]] = {}
    verdict: dict[str, object] = {"ruleset": statistics.ruleset.name}
    for kind, title in (("layernorm", "Norms"), ("projection", "Projections")):
        found, suspicious = statistics.of(kind), statistics.of(kind, suspicious=True)
        sections[f"{title} (RMS)"] = {tensor.name: f"{tensor.rms:<10.4g} {tensor.status}" for tensor in found}
        verdict[title.lower()] = f"{len(found)}, {len(suspicious)} suspicious"
    return {**sections, "Verdict": verdict}


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict) and value.keys() == {"type", "length"}:
        return f"{value['length']:,} of {value['type']}"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    shown = text if text.isprintable() else ascii(text)[1:-1]  # a file's texts could hold escape sequences
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
