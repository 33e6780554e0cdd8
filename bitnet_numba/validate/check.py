"""Validation of a model in stages, from its bytes to its generated text; each stage has its own exit code."""

from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

from bitnet_numba.errors import BitNetError, CorrectionRefusedError
from bitnet_numba.generate.load import load_model
from bitnet_numba.model.open import open_source
from bitnet_numba.model.weight_rules import LAYERNORM, PROJECTION
from bitnet_numba.settings import read_settings
from bitnet_numba.validate.inspect import Inspection, Statistics, inspect_model
from bitnet_numba.validate.probe import PROMPT, Probe, probe_model


class Stage(IntEnum):
    """Stages in their order; the number is the exit code if this is the first that fails."""

    INSPECTION = 10
    NORMS = 11
    NORMS_PRESENT = 12
    PROJECTIONS = 13
    PROBE = 14
    LANGUAGE = 15


MEANINGS = {
    Stage.INSPECTION: "the files can be read",
    Stage.NORMS: "every norm is within the ruleset",
    Stage.NORMS_PRESENT: "there are norms",
    Stage.PROJECTIONS: "the model loads, every projection is there and within the ruleset",
    Stage.PROBE: "the model writes",
    Stage.LANGUAGE: "what it writes is language",
}

Status = Literal["passed", "failed", "skipped"]


@dataclass
class Validation:
    """Findings of the stages that ran; an empty list is a stage that passed."""

    model: str
    inspection: Inspection | None = None
    probe: Probe | None = None
    findings: dict[Stage, list[str]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """Return the number of the first stage that failed, or 0."""
        return next((int(stage) for stage in Stage if self.findings.get(stage)), 0)

    def status(self, stage: Stage) -> Status:
        """Return the status of a stage."""
        if stage not in self.findings:
            return "skipped"
        return "failed" if self.findings[stage] else "passed"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict."""
        stages = [
            {"code": int(s), "meaning": meaning, "status": self.status(s), "findings": self.findings.get(s, [])}
            for s, meaning in MEANINGS.items()
        ]
        return {
            "model": self.model,
            "model_sha256": None if self.inspection is None else self.inspection.sha256,
            "ruleset": None if self.inspection is None else self.inspection.statistics.ruleset.name,
            "status": "failed" if self.exit_code else "passed",
            "exit_code": self.exit_code,
            "stages": stages,
            "probe": None if self.probe is None else {"prompt": PROMPT, **asdict(self.probe)},
        }


def validate_model(model: str | Path | None = None, *, tokenizer: Path | None = None) -> Validation:
    """Check a model strictly, deterministically and without correction, from its bytes to its generated text.

    ``model`` is as for :func:`bitnet_numba.load`; ``tokenizer`` is a ``tokenizer.json`` to use instead of the model's.
    Raises a CorrectionRefusedError if a correction variable is set in strict mode or under CI.
    """
    _refuse_corrections()
    validation = Validation(str(model or read_settings().model or "demo"))
    try:
        inspection = inspect_model(model, ln_stats=True, strict=True)
    except BitNetError as error:
        validation.findings[Stage.INSPECTION] = [str(error)]
        return validation
    validation.inspection = inspection
    validation.findings[Stage.INSPECTION] = []
    statistics = inspection.statistics
    n_norms = len(statistics.of(LAYERNORM))
    validation.findings[Stage.NORMS] = _outside(statistics, LAYERNORM)
    validation.findings[Stage.NORMS_PRESENT] = [] if n_norms else [f"{inspection.files.path}: no norm tensors at all"]
    validation.findings[Stage.PROJECTIONS] = _outside(statistics, PROJECTION)
    _run(validation, model, tokenizer)
    return validation


def _refuse_corrections() -> None:
    """Refuse corrections where nobody would see them."""
    settings = read_settings()
    variables = settings.correction_variables()
    if variables and (settings.in_ci or settings.strict):
        where = "with CI set" if settings.in_ci else "in strict mode"
        raise CorrectionRefusedError(f"{variables[0]} is set: no model is corrected {where}; unset it")


def _outside(statistics: Statistics, kind: str) -> list[str]:
    findings = []
    for tensor in statistics.of(kind, suspicious=True):
        bounds = statistics.bounds_of[tensor.name]
        expected = f"{statistics.ruleset.name} expects {bounds.minimum:g} to {bounds.maximum:g}"
        findings.append(f"{tensor.name}: RMS {tensor.rms:.4g}, {expected}")
    return findings


def _run(validation: Validation, model: str | Path | None, tokenizer: Path | None) -> None:
    """Load the model and generate from it; add what fails to the findings."""
    try:
        loaded = load_model(open_source(model, tokenizer))
    except BitNetError as error:
        validation.findings[Stage.PROJECTIONS].append(f"does not load: {error}")
        return
    with loaded:
        try:
            validation.probe = probe_model(loaded)
        except BitNetError as error:
            validation.findings[Stage.PROBE] = [str(error)]
            return
    validation.findings[Stage.PROBE] = []
    validation.findings[Stage.LANGUAGE] = validation.probe.problems
