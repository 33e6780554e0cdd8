"""Corrections of models that are known to be bad: norms and scales are changed as they are read, and recorded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.formats.packing.codes import two_bit_nonzeros
from bitnet_numba.model.families import Family
from bitnet_numba.model.roles import LAYER_ROLES, Role
from bitnet_numba.model.source import CorrectionRecord, ModelSource, TernaryMatrix

LN_GAMMA_RESCALE_RMS = "LN_GAMMA_RESCALE_RMS"
I2S_DEQUANT_OVERRIDE = "I2S_DEQUANT_OVERRIDE"
SCALE_LIMITS = (1e-3, 1e3)
_TOLERANCE = 1e-3  # difference from the target RMS that is not corrected
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class NormRescale:
    """Rescale every norm to a target RMS, by a factor within ``clamp``."""

    target_rms: float
    clamp: tuple[float, float]

    def factor(self, rms: float) -> float | None:
        """Return the factor for a norm of this RMS; None to leave it alone."""
        if abs(rms - self.target_rms) < _TOLERANCE:
            return None
        return min(max(self.target_rms / (rms + _EPSILON), self.clamp[0]), self.clamp[1])


@dataclass(frozen=True, slots=True)
class ScaleOverride:
    """Multiply the scale of ternary matrices by ``k``, after inverting it if ``inv``."""

    tensors: tuple[str, ...]  # ends of their GGUF or Hugging Face names
    inv: bool
    k: float

    def applies_to(self, role: Role, family: Family) -> bool:
        """Tell whether this overrides the scale of a matrix."""
        return family.gguf.name(role).endswith(self.tensors) or family.hugging_face.name(role).endswith(self.tensors)

    def scale(self, stored: float) -> float:
        """Return the scale to use instead of the stored one."""
        magnitude = abs(stored)
        return min(max((1 / magnitude if self.inv else magnitude) * self.k, SCALE_LIMITS[0]), SCALE_LIMITS[1])


Correction = NormRescale | ScaleOverride


class CorrectedSource:
    """A :class:`~bitnet_numba.model.source.ModelSource` that corrects the norms and scales of another one."""

    def __init__(self, source: ModelSource, corrections: Sequence[Correction], policy_fingerprint: str) -> None:
        self._source = source
        self.path, self.config, self.tied = source.path, source.config, source.tied
        self.chat_template, self.notes = source.chat_template, source.notes
        self.matrix, self.rope_factors, self.tokenizer = source.matrix, source.rope_factors, source.tokenizer
        self.tensor_types, self.close = source.tensor_types, source.close
        self._rescales = [each for each in corrections if isinstance(each, NormRescale)]
        self._overrides = [each for each in corrections if isinstance(each, ScaleOverride)]
        self._fingerprint = policy_fingerprint
        self._records: dict[Role, list[CorrectionRecord]] = {}

    @property
    def corrections(self) -> tuple[CorrectionRecord, ...]:
        """Corrections so far, layer by layer, in whatever order threads read the tensors."""
        roles = sorted(self._records, key=_order)
        return (*self._source.corrections, *(record for role in roles for record in self._records[role]))

    def norm(self, role: str, layer: int | None) -> npt.NDArray[np.float32]:
        """Return the weights of a norm, corrected."""
        wanted, weights = Role(role, layer), self._source.norm(role, layer)
        records = []
        for rescale in self._rescales:
            before = _rms(weights)
            factor = rescale.factor(before)
            if factor is None:
                continue
            weights = weights * np.float32(factor)
            details = {"target_rms": rescale.target_rms, "clamp": list(rescale.clamp)}
            records.append(self._record(wanted, LN_GAMMA_RESCALE_RMS, before, _rms(weights), factor, details))
        self._note(wanted, records)
        return weights

    def linear(self, role: str, layer: int) -> TernaryMatrix:
        """Return the weights of a linear layer with a corrected scale."""
        wanted, matrix = Role(role, layer), self._source.linear(role, layer)
        overrides = [each for each in self._overrides if each.applies_to(wanted, self.config.family)]
        unit = _unit_rms(matrix) if overrides else 0.0
        records = []
        for override in overrides:
            before, after = float(matrix.scale), override.scale(float(matrix.scale))
            matrix = replace(matrix, scale=np.float32(after))
            details = {"inv": override.inv, "k": override.k, "scale_before": before, "scale_after": after}
            records.append(
                self._record(wanted, I2S_DEQUANT_OVERRIDE, unit * before, unit * after, after / before, details)
            )
        self._note(wanted, records)
        return matrix

    def _record(
        self, role: Role, kind: str, before: float, after: float, factor: float, details: dict[str, Any]
    ) -> CorrectionRecord:
        name = self.config.family.gguf.name(role)
        return CorrectionRecord(name, kind, before, after, factor, self._fingerprint, details)

    def _note(self, role: Role, records: list[CorrectionRecord]) -> None:
        if records:
            self._records[role] = records


def _order(role: Role) -> tuple[float, int]:
    """Sort by layer, tensors without one last, and by role."""
    place = LAYER_ROLES.index(role.name) if role.name in LAYER_ROLES else 0
    return (math.inf if role.layer is None else role.layer), place


def _rms(weights: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(weights.astype(np.float64) ** 2)))


def _unit_rms(matrix: TernaryMatrix) -> float:
    """Return the RMS of the weights at a scale of 1."""
    if matrix.i2s is not None:
        nonzeros = two_bit_nonzeros(np.bincount(matrix.i2s.reshape(-1), minlength=256))
        return math.sqrt(nonzeros / (4 * matrix.i2s.size))
    weights = matrix.unpacked()
    return math.sqrt(np.count_nonzero(weights) / weights.size)
