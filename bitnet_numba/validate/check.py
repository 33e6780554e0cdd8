"""Is a model what it should be? Stages from its bytes to the text it writes, each with an exit code of its own."""

from dataclasses import asdict, dataclass, field
from enum import IntEnum
from functools import partial
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
    """The stages in their order; a number is the exit code of the first that fails."""

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
    """What the stages found.

    Attributes
    ----------
    model : str
        As the user named it.
    inspection : Inspection or None
    probe : Probe or None
    findings : dict of Stage to list of str
        Of the stages that ran; an empty list is a stage passed.
    """

    model: str
    inspection: Inspection | None = None
    probe: Probe | None = None
    findings: dict[Stage, list[str]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The number of the first stage that failed; 0 if all passed."""
        return next((int(stage) for stage in Stage if self.findings.get(stage)), 0)

    def status(self, stage: Stage) -> Status:
        """Tell how a stage went."""
        if stage not in self.findings:
            return "skipped"
        return "failed" if self.findings[stage] else "passed"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        statistics = None if self.inspection is None else self.inspection.statistics
        stages = [
            {
                "code": int(stage),
                "meaning": meaning,
                "status": self.status(stage),
                "findings": self.findings.get(stage, []),
            }
            for stage, meaning in MEANINGS.items()
        ]
        return {
            "model": self.model,
            "model_sha256": None if self.inspection is None else self.inspection.sha256,
            "ruleset": None if statistics is None else statistics.ruleset.name,
            "status": "failed" if self.exit_code else "passed",
            "exit_code": self.exit_code,
            "stages": stages,
            "probe": None if self.probe is None else {"prompt": PROMPT, **asdict(self.probe)},
        }


def validate_model(model: str | Path | None = None, *, tokenizer: Path | None = None) -> Validation:
    """Check a model strictly, deterministically and without any correction, from its bytes to its text.

    Parameters
    ----------
    model : str, Path or None
        As :func:`bitnet_numba.load` takes it.
    tokenizer : Path, optional
        A ``tokenizer.json`` in the place of the model's own.

    Returns
    -------
    Validation
        With all that was found; stages that could not run for an earlier failure are not among its findings.

    Raises
    ------
    CorrectionRefusedError
        If a correction variable is set in strict mode or under CI, where nobody sees what it would change.
    """
    refuse_corrections()
    validation = Validation(str(model or read_settings().model or "demo"))
    try:
        inspection = inspect_model(model, ln_stats=True, strict=True)
    except BitNetError as error:
        validation.findings[Stage.INSPECTION] = [str(error)]
        return validation
    validation.inspection = inspection
    validation.findings[Stage.INSPECTION] = []
    statistics = inspection.statistics
    if statistics is None:
        raise RuntimeError("an inspection with statistics came without them")
    n_norms = len(statistics.of(LAYERNORM))
    validation.findings[Stage.NORMS] = _outside(statistics, LAYERNORM)
    validation.findings[Stage.NORMS_PRESENT] = [] if n_norms else [f"{inspection.files.path}: no norm tensors at all"]
    validation.findings[Stage.PROJECTIONS] = _outside(statistics, PROJECTION)
    _run(validation, model, tokenizer)
    return validation


def refuse_corrections() -> None:
    """Refuse to judge a model where the environment asks for corrections that nobody would see.

    Raises
    ------
    CorrectionRefusedError
    """
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
    """Load the model and let it write; note what keeps it from that."""
    try:
        loaded = load_model(model, open_model=partial(open_source, tokenizer=tokenizer))
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
