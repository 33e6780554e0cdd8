"""A baseline: fingerprints, norms, projections and probe texts of a model, recorded and compared field by field."""

import importlib.metadata
import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bitnet_numba.errors import EvidenceError, ParameterError, excerpt
from bitnet_numba.evidence.baselines.export_record import read_export_record
from bitnet_numba.evidence.claims import Finding
from bitnet_numba.evidence.documents import dump, read_document
from bitnet_numba.evidence.facts import ModelIdentity, call_outs, environment
from bitnet_numba.evidence.schema import check_form, read_schema
from bitnet_numba.generate.language_model import LanguageModel
from bitnet_numba.model.weight_rules import LAYERNORM, PROJECTION
from bitnet_numba.validate.inspect import Inspection

SCHEMA_VERSION: Final = "1.0.0"
PROBES: Final = ("The capital of France is", "Once upon a time", "def factorial(n):")
PROBE_TOKENS: Final = 8
PROBE_SEED: Final = 42
RMS_TOLERANCE: Final = 1e-9  # relative: sums of squares are added in another order on other CPUs
UNKNOWN: Final = "not recorded"
_COMPARED: Final = ("model", "fingerprints", "layernorm", "projection", "probes")

Baseline = dict[str, Any]


def record_baseline(
    model: LanguageModel,
    identity: ModelIdentity,
    inspection: Inspection,
    *,
    name: str,
    commit: str = UNKNOWN,
    tokens_per_second: float,
) -> Baseline:
    """Return the baseline of a loaded model.

    Parameters
    ----------
    model : LanguageModel
        Loaded without corrections.
    identity : ModelIdentity
    inspection : Inspection
        Of the same files, with the RMS of norms and projections.
    name : str
        How commands name the model in the folder of the page.
    commit : str
        The commit of this program.
    tokens_per_second : float
        Of the benchmark whose receipt lies beside the baseline.

    Raises
    ------
    EvidenceError
        If a name does not fit into a baseline, or the record of an export beside the file is of another one.
    """
    facts = model.info()["model"]
    meta = read_export_record(Path(facts["path"]), identity.sha256)
    exporter = " ".join(meta[part] for part in ("converter", "converter_version") if part in meta)
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    baseline: Baseline = {
        "schema_version": SCHEMA_VERSION,
        "status": "active",
        "model": {
            "name": model.config.name,
            "variant": _variant(facts["tensor_types"]),
            "format": str(inspection.files.header.get("format", "safetensors")),
            "architecture": model.config.architecture,
            "layers": model.config.n_layers,
            "export_date": meta.get("export_date", UNKNOWN),
            "exporter": exporter or UNKNOWN,
        },
        "fingerprints": {
            "file": Path(facts["path"]).name,
            "sha256": identity.sha256,
            "size_bytes": identity.size_bytes,
            "tokenizer_sha256": identity.tokenizer_sha256,
            "vocab_size": model.tokenizer.vocab_size,
        },
        "export_configuration": {
            "source": meta.get("source", UNKNOWN),
            "source_revision": meta.get("source_revision", UNKNOWN),
            "precision": meta.get("precision", UNKNOWN),
            "layernorm_format": meta.get("layernorm_format", UNKNOWN),
            **call_outs(model, identity),
        },
        "layernorm": _statistics(inspection, LAYERNORM),
        "projection": _statistics(inspection, PROJECTION),
        "probes": [_probe(model, prompt) for prompt in PROBES],
        "hardware": dict(sorted({**environment(model.threads), "INSTRUCTION_SET": model.isa}.items())),
        "notes": {
            "date": today,
            "commit": commit,
            "version": importlib.metadata.version("bitnet-numba"),
            "model_argument": name,
            "tokens_per_second": round(tokens_per_second, 3),
        },
        "changelog": [{"date": today, "change": "created"}],
    }
    _check_form(baseline, dump(baseline), model.config.name)
    return baseline


def read_baseline(path: Path) -> Baseline:
    """Read a baseline strictly.

    Raises
    ------
    EvidenceUnreadableError
        If the file is no JSON object.
    EvidenceError
        If it has not the form of a baseline, with every reason.
    """
    baseline, data = read_document(path)
    _check_form(baseline, data, str(path))
    return baseline


def compare_baseline(recorded: Baseline, observed: Baseline) -> list[Finding]:
    """Return each field of a recorded baseline that a model no longer has."""
    return [finding for section in _COMPARED for finding in _changes(section, recorded[section], observed[section])]


def updated(recorded: Baseline, observed: Baseline, reason: str) -> Baseline:
    """Return what was observed, with the history of what was recorded and the reason of the change.

    Raises
    ------
    ParameterError
        If the recorded baseline is deprecated.
    """
    check_updatable(recorded)
    entry = {"date": observed["notes"]["date"], "change": f"updated: {reason}"}
    return {**observed, "changelog": [*recorded["changelog"], entry]}


def check_updatable(recorded: Baseline) -> None:
    """Refuse to bring a deprecated baseline back to life; ParameterError says why it was deprecated."""
    if recorded["status"] == "deprecated":
        why = excerpt(recorded["changelog"][-1]["change"])
        raise ParameterError(f"the baseline is deprecated ({why}); make a new one with 'baseline create'")


def deprecated(recorded: Baseline, reason: str) -> Baseline:
    """Return a baseline that nobody should compare with any more."""
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    entry = {"date": today, "change": f"deprecated: {reason}"}
    return {**recorded, "status": "deprecated", "changelog": [*recorded["changelog"], entry]}


def default_name(baseline: Baseline) -> str:
    """Return the file name of a baseline's page: ``<model>-<variant>-<format>.md``."""
    model = baseline["model"]
    parts = model["name"], model["variant"], model["format"].partition("_")[0]
    plain = (re.sub(r"[^A-Za-z0-9._+]+", "-", part).strip("-.") for part in parts)
    return f"{'-'.join(filter(None, plain))}.md"


# ---- parts -----------------------------------------------------------------------------------------------------------
def _variant(tensor_types: Iterable[str]) -> str:
    """Return the types of quantized tensors, or those of all where none is quantized."""
    quantized = [name for name in tensor_types if name not in ("F32", "F16", "BF16")]
    return "+".join(sorted(quantized or tensor_types)).lower()


def _check_form(baseline: Baseline, data: bytes, place: str) -> None:
    schema = read_schema("bitnet_numba.evidence.baselines", "baseline.schema.json")
    findings = check_form(baseline, data, schema, "baseline")
    if findings:
        raise EvidenceError(f"{place}: {'; '.join(map(str, findings[:8]))}")


def _statistics(inspection: Inspection, kind: str) -> dict[str, Any]:
    tensors = inspection.statistics.of(kind)
    suspicious = inspection.statistics.of(kind, suspicious=True)
    values = [tensor.rms for tensor in tensors]
    return {
        "ruleset": inspection.statistics.ruleset.name,
        "total": len(tensors),
        "healthy": len(tensors) - len(suspicious),
        "suspicious": [tensor.name for tensor in suspicious],
        "rms_min": min(values, default=0.0),
        "rms_max": max(values, default=0.0),
        "rms": {tensor.name: tensor.rms for tensor in sorted(tensors, key=lambda tensor: tensor.name)},
    }


def _probe(model: LanguageModel, prompt: str) -> dict[str, Any]:
    result = model.generate(prompt, max_tokens=PROBE_TOKENS, temperature=0, seed=PROBE_SEED)
    return {"prompt": prompt, "text": result.text, "token_ids": result.token_ids}


def _changes(place: str, recorded: object, observed: object) -> Iterator[Finding]:
    """Yield each value that differs; numbers with a fraction may differ by a rounding."""
    if isinstance(recorded, dict) and isinstance(observed, dict):
        for name in dict.fromkeys([*recorded, *observed]):
            yield from _changes(f"{place}.{name}", recorded.get(name), observed.get(name))
    elif isinstance(recorded, list) and isinstance(observed, list) and len(recorded) == len(observed):
        for index, (old, new) in enumerate(zip(recorded, observed, strict=True)):
            yield from _changes(f"{place}[{index}]", old, new)
    elif isinstance(recorded, float) and isinstance(observed, float):
        if not math.isclose(recorded, observed, rel_tol=RMS_TOLERANCE):
            yield Finding(place, f"is {observed:.9g}, the baseline says {recorded:.9g}")
    elif recorded != observed:
        yield Finding(place, f"is {observed!r}, the baseline says {recorded!r}"[:400])
