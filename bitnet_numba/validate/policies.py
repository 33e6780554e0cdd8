"""Policies: which known bad models are corrected, and how; and rulesets of the user's own for ``inspect``.

A correction policy applies to a model by its fingerprint; a ruleset states bounds for the RMS of norms and projections.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_numba.errors import ParameterError, excerpt
from bitnet_numba.model.corrections import (
    I2S_DEQUANT_OVERRIDE,
    LN_GAMMA_RESCALE_RMS,
    Correction,
    NormRescale,
    ScaleOverride,
)
from bitnet_numba.model.weight_rules import Bounds, NormRule, Ruleset
from bitnet_numba.validate.policy_file import Field, read_policy

FACTOR_CLAMP = (0.01, 100.0)
SMALLEST = 1e-9  # of numbers that must be above zero
MAX_PATTERN, MAX_REPEATS = 200, 3
_ESCAPED = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL
)  # escaped characters and classes: one character each
_REPEAT = re.compile(r"[*+]|\{[0-9,]*\}")
_UNBOUNDED = re.compile(r"\)[*+{]|\(\?[^:)]")  # a repeated group, look-around and the like
_REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\\[1-9]")
_FINGERPRINT = re.compile(r"sha256-[0-9a-f]{64}")


@dataclass(frozen=True)
class CorrectionPolicy:
    """A valid correction policy: the fingerprint of its file, and the corrections by the fingerprint of the model."""

    fingerprint: str
    models: Mapping[str, tuple[Correction, ...]]


def read_correction_policy(path: Path) -> CorrectionPolicy:
    """Read a correction policy; FormatError if the file is none."""
    field, fingerprint = read_policy(path)
    return CorrectionPolicy(fingerprint, _corrections_by_model(field))


def read_ruleset(path: Path, key: str) -> Ruleset:
    """Read one ruleset of a policy file, and check all of them; ParameterError if none has that key.

    The file has ``version: 1`` and ``rules``, a mapping of keys to rulesets: ``name``, ``ln`` (a list of ``pattern``,
    ``min``, ``max``, ``description``), ``proj_weight_rms_min``, ``proj_weight_rms_max``, ``notes``.
    """
    found = _rulesets(read_policy(path)[0])
    if key not in found:
        raise ParameterError(
            f"{path}: no ruleset {excerpt(key)}, it has {', '.join(map(excerpt, found)) or 'none'}; use --policy-key"
        )
    return found[key]


def check_policy(path: Path) -> dict[str, Any]:
    """Check a policy, and return its ``kind``, ``fingerprint`` and contents; FormatError if it is of neither kind.

    For ``corrections`` these are the numbers of ``models`` and ``corrections``, for ``rulesets`` their keys.
    """
    field, fingerprint = read_policy(path)
    if "rules" in field.entries():
        return {"kind": "rulesets", "fingerprint": fingerprint, "rulesets": sorted(_rulesets(field))}
    models = _corrections_by_model(field)
    n_corrections = sum(map(len, models.values()))
    return {"kind": "corrections", "fingerprint": fingerprint, "models": len(models), "corrections": n_corrections}


# ---- corrections -----------------------------------------------------------------------------------------------------
def _corrections_by_model(field: Field) -> dict[str, tuple[Correction, ...]]:
    models: dict[str, tuple[Correction, ...]] = {}
    for model in field.section("models").items():
        parts = model.mapping(required=("fingerprint", "corrections"), optional=("notes",))
        if "notes" in parts:
            parts["notes"].text()
        key = parts["fingerprint"].text()
        if not _FINGERPRINT.fullmatch(key):
            raise parts["fingerprint"].error("expected sha256- and 64 lowercase hexadecimal digits")
        if key in models:
            raise parts["fingerprint"].error("the same model occurs twice")
        models[key] = tuple(map(_correction, parts["corrections"].items()))
    return models


def _correction(field: Field) -> Correction:
    kind = field.entries().get("type", Field(f"{field.place}: type", None)).text()
    if kind == LN_GAMMA_RESCALE_RMS:
        return _norm_rescale(field)
    if kind == I2S_DEQUANT_OVERRIDE:
        return _scale_override(field)
    raise field.error(f"type '{kind[:40]}' is not known, expected {LN_GAMMA_RESCALE_RMS} or {I2S_DEQUANT_OVERRIDE}")


def _norm_rescale(field: Field) -> NormRescale:
    parts = field.mapping(required=("type", "target_rms"), optional=("clamp",))
    clamp = FACTOR_CLAMP
    if "clamp" in parts:
        limits = parts["clamp"].items()
        if len(limits) != 2:
            raise parts["clamp"].error(f"expected a smallest and a largest factor, got {len(limits)} numbers")
        clamp = limits[0].number(SMALLEST), limits[1].number(SMALLEST)
        if clamp[0] > clamp[1]:
            raise parts["clamp"].error(f"the smallest factor {clamp[0]:g} is above the largest {clamp[1]:g}")
    return NormRescale(parts["target_rms"].number(SMALLEST), clamp)


def _scale_override(field: Field) -> ScaleOverride:
    parts = field.mapping(required=("type", "tensors"), optional=("inv", "k"))
    return ScaleOverride(
        tuple(item.text() for item in parts["tensors"].items()),
        inv=parts["inv"].flag() if "inv" in parts else False,
        k=parts["k"].number(SMALLEST) if "k" in parts else 1.0,
    )


# ---- rulesets --------------------------------------------------------------------------------------------------------
def _rulesets(field: Field) -> dict[str, Ruleset]:
    return {key: _ruleset(key, each) for key, each in field.section("rules").entries().items()}


def _ruleset(key: str, field: Field) -> Ruleset:
    parts = field.mapping(required=("ln",), optional=("name", "proj_weight_rms_min", "proj_weight_rms_max", "notes"))
    if "notes" in parts:
        parts["notes"].text()
    name = parts["name"].text() if "name" in parts else key
    projections = _bounds(parts.get("proj_weight_rms_min"), parts.get("proj_weight_rms_max"), field)
    return Ruleset(name, tuple(map(_rule, parts["ln"].items())), projections)


def _rule(field: Field) -> NormRule:
    parts = field.mapping(required=("pattern", "min", "max"), optional=("description",))
    pattern = parts["pattern"].text()
    _check_pattern(parts["pattern"], pattern)
    description = parts["description"].text() if "description" in parts else ""
    return NormRule(pattern, _bounds(parts["min"], parts["max"], field), description)


def _check_pattern(field: Field, pattern: str) -> None:
    """Refuse what is no regular expression, and what could match for ever: repeated groups, many repeats, references.

    Without those, a name of n characters takes at most in the order of n ** (MAX_REPEATS + 1) steps.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise field.error(f"{excerpt(pattern)} is not a regular expression ({error})") from None
    plain = _ESCAPED.sub("x", pattern)
    repeats = len(_REPEAT.findall(plain))
    if len(pattern) > MAX_PATTERN or repeats > MAX_REPEATS or _REFERENCE.search(pattern) or _UNBOUNDED.search(plain):
        raise field.error(
            f"{excerpt(pattern)} could take too long to match: at most {MAX_PATTERN} characters, {MAX_REPEATS} "
            "repeats, and none of a group"
        )


def _bounds(minimum: Field | None, maximum: Field | None, field: Field) -> Bounds:
    """Return an interval, open at an end that is not stated."""
    low = 0.0 if minimum is None else minimum.number(0.0)
    high = math.inf if maximum is None else maximum.number(0.0)
    if low > high:
        raise field.error(f"the minimum {low:g} is above the maximum {high:g}")
    return Bounds(low, high)
