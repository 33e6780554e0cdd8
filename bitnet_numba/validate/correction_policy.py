"""Correction policies: which models are known to be bad, by fingerprint, and what mends them."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitnet_numba.files import fingerprint_of
from bitnet_numba.model.corrections import (
    I2S_DEQUANT_OVERRIDE,
    LN_GAMMA_RESCALE_RMS,
    Correction,
    NormRescale,
    ScaleOverride,
)
from bitnet_numba.validate.policy_file import Field, parse_policy, read_policy_bytes

FACTOR_CLAMP = (0.01, 100.0)
SMALLEST = 1e-9  # of numbers that must be above zero
_FINGERPRINT = re.compile(r"sha256-[0-9a-f]{64}")


@dataclass(frozen=True)
class CorrectionPolicy:
    """A policy file, read and checked.

    Attributes
    ----------
    fingerprint : str
        Of the file itself: ``sha256-`` and 64 hexadecimal digits.
    models : dict of str to tuple of Correction
        By the fingerprint of the model.
    """

    fingerprint: str
    models: Mapping[str, tuple[Correction, ...]]


def read_correction_policy(path: Path) -> CorrectionPolicy:
    """Read a correction policy.

    Raises
    ------
    BitNetError
        If the file cannot be read.
    FormatError
        If it is not such a policy.
    """
    data = read_policy_bytes(path)
    return correction_policy(
        parse_policy(data, str(path)), fingerprint=fingerprint_of(hashlib.sha256(data).hexdigest())
    )


def correction_policy(field: Field, *, fingerprint: str) -> CorrectionPolicy:
    """Take a parsed policy apart; raises as :func:`read_correction_policy`."""
    top = field.mapping(required=("version", "models"))
    top["version"].check_version()
    models: dict[str, tuple[Correction, ...]] = {}
    for model in top["models"].items():
        parts = model.mapping(required=("fingerprint", "corrections"), optional=("notes",))
        if "notes" in parts:
            parts["notes"].text()
        key = parts["fingerprint"].text()
        if not _FINGERPRINT.fullmatch(key):
            raise parts["fingerprint"].error("expected sha256- and 64 lowercase hexadecimal digits")
        if key in models:
            raise parts["fingerprint"].error("the same model occurs twice")
        models[key] = tuple(map(_correction, parts["corrections"].items()))
    return CorrectionPolicy(fingerprint, models)


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
