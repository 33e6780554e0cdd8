"""Suggest a correction policy from suspicious statistics: a draft for a person to judge, which nothing applies."""

import math
from pathlib import Path
from typing import Any

from bitnet_numba.files import fingerprint_of
from bitnet_numba.model.corrections import I2S_DEQUANT_OVERRIDE, LN_GAMMA_RESCALE_RMS, SCALE_LIMITS
from bitnet_numba.model.weight_rules import LAYERNORM, PROJECTION
from bitnet_numba.validate.inspect import Inspection, Statistics, inspect_model
from bitnet_numba.validate.policies import FACTOR_CLAMP
from bitnet_numba.validate.policy_file import POLICY_VERSION, dump_policy
from bitnet_numba.validate.statistics import i2s_scale

_HEADER = """\
# Suggested by 'bitnet-numba policy suggest' for {path}
# from what the ruleset {ruleset} calls suspicious. It does not know what the weights should be:
# converting the model again is better. Nothing is applied unless BITNET_CORRECTION_POLICY names
# this file and BITNET_ALLOW_RUNTIME_CORRECTIONS is set.
"""


def suggest_policy(model: str | Path | None) -> str | None:
    """Return a correction policy for a model as YAML, or None if it has nothing suspicious to correct."""
    inspection = inspect_model(model, ln_stats=True, strict=False)
    statistics = inspection.statistics
    corrections = _norm_rescales(statistics) + _scale_overrides(inspection)
    if not corrections:
        return None
    entry = {
        "fingerprint": fingerprint_of(inspection.sha256),
        "notes": f"suggested for {inspection.files.path.name}; not tried",
        "corrections": corrections,
    }
    header = _HEADER.format(path=ascii(str(inspection.files.path)), ruleset=statistics.ruleset.name)
    return header + dump_policy({"version": POLICY_VERSION, "models": [entry]})


def _norm_rescales(statistics: Statistics) -> list[dict[str, Any]]:
    """Suggest one correction of all norms if a finite one is suspicious."""
    if not any(math.isfinite(norm.rms) for norm in statistics.of(LAYERNORM, suspicious=True)):
        return []
    return [{"type": LN_GAMMA_RESCALE_RMS, "target_rms": 1.0, "clamp": list(FACTOR_CLAMP)}]


def _scale_overrides(inspection: Inspection) -> list[dict[str, Any]]:
    """Suggest the inverse for scales whose inverse is within bounds, and a factor for the others."""
    statistics = inspection.statistics
    inverted: list[str] = []
    rescaled: dict[float, list[str]] = {}
    for tensor in statistics.of(PROJECTION, suspicious=True):
        if not (math.isfinite(tensor.rms) and tensor.rms > 0):
            continue
        stored, bounds = inspection.files.tensors[tensor.name], statistics.bounds_of[tensor.name]
        if stored.type == "I2_S" and bounds.holds(tensor.rms / i2s_scale(stored) ** 2):
            inverted.append(tensor.name)
            continue
        middle = math.sqrt(max(bounds.minimum, SCALE_LIMITS[0]) * min(bounds.maximum, SCALE_LIMITS[1]))
        rescaled.setdefault(float(f"{middle / tensor.rms:.3g}"), []).append(tensor.name)
    overrides = [{"tensors": inverted, "inv": True, "k": 1.0}] if inverted else []
    overrides += [{"tensors": names, "inv": False, "k": k} for k, names in rescaled.items()]
    return [{"type": I2S_DEQUANT_OVERRIDE, **override} for override in overrides]
