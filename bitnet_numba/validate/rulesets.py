"""What the RMS of healthy norms and projections may be: rulesets as data, and which of them suits a model."""

import math
import re
from dataclasses import dataclass
from typing import Final

from bitnet_numba.validate.model_files import LAYERNORM, PROJECTION, ModelFiles
from bitnet_numba.validate.statistics import TERNARY_TYPES

F16_FILE_TYPES: Final = (0, 1, 32)  # general.file_type: F32, F16, BF16
TERNARY_FILE_TYPES: Final = (36, 37, 40)  # TQ1_0, TQ2_0, I2_S


@dataclass(frozen=True, slots=True)
class Bounds:
    """An interval, its ends included."""

    minimum: float
    maximum: float

    def holds(self, rms: float) -> bool:
        """Tell whether a value is finite and inside."""
        return math.isfinite(rms) and self.minimum <= rms <= self.maximum


DEFAULT_BOUNDS: Final = Bounds(0.50, 2.0)
"""Of a norm that no rule of a ruleset is about."""
UNBOUNDED: Final = Bounds(0.0, math.inf)


@dataclass(frozen=True, slots=True)
class NormRule:
    """What norms of some names may be.

    Attributes
    ----------
    pattern : str
        A regular expression, searched for in the tensor's name.
    bounds : Bounds
    description : str
    """

    pattern: str
    bounds: Bounds
    description: str = ""


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What a healthy model's norms and projections are.

    Attributes
    ----------
    name : str
    norms : tuple of NormRule
        The first one whose pattern is found in a name counts.
    projections : Bounds
    default : Bounds
        Of norms without a rule.
    """

    name: str
    norms: tuple[NormRule, ...]
    projections: Bounds = UNBOUNDED
    default: Bounds = DEFAULT_BOUNDS

    def bounds(self, kind: str, rule_name: str) -> Bounds:
        """Return what the RMS of a tensor may be; of anything but norms and projections, any finite number."""
        if kind == PROJECTION:
            return self.projections
        if kind != LAYERNORM:
            return UNBOUNDED
        for rule in self.norms:
            if re.search(rule.pattern, rule_name):
                return rule.bounds
        return self.default


def _rule(name: str, minimum: float, maximum: float, description: str = "") -> NormRule:
    return NormRule(rf"{name}\.weight$", Bounds(minimum, maximum), description)


_ADDED = (
    _rule("(attn_sub_norm|inner_attn_ln)", 0.01, 100.0, "scales what the output projection reads; grows with depth"),
    _rule("ffn_sub_norm", 0.01, 100.0, "scales what the down projection reads; grows with depth"),
    _rule("output_norm", 0.01, 100.0, "sets how sharp the logits are"),
)
_SMALL_ATTN_NORM = _rule("attn_norm", 0.01, 2.0, "the official 2B-4T model has 0.0115 to 0.0236")

F16_RULES: Final = Ruleset(
    "bitnet-b1.58:f16",
    (
        *_ADDED,
        _SMALL_ATTN_NORM,
        _rule("ffn_layernorm", 0.05, 2.0),
        _rule("post_attention_layernorm", 0.25, 2.0),
        _rule("input_layernorm", 0.35, 2.0),
        _rule("final_(layer)?norm", 0.50, 2.0),
        _rule("(attn|ffn|rms).*norm", 0.50, 2.0),
        _rule("norm", 0.50, 2.0),
    ),
    Bounds(0.01, 0.40),
)
I2S_RULES: Final = Ruleset(
    "bitnet-b1.58:i2_s",
    (
        *_ADDED,
        _SMALL_ATTN_NORM,
        _rule("ffn_norm", 0.50, 2.0, "the official 2B-4T model has 1.22 to 1.51"),
        _rule("final_(layer)?norm", 0.50, 2.0),
        _rule("norm", 0.25, 2.0),
    ),
    Bounds(0.002, 0.20),
)
GENERIC_RULES: Final = Ruleset("generic", (_rule("norm", 0.80, 1.20),))
NO_RULES: Final = Ruleset("none", (), default=UNBOUNDED)


def auto_ruleset(model: ModelFiles) -> Ruleset:
    """Choose the ruleset that suits a model: by architecture, then by whether its file is ternary."""
    architecture = model.architecture.lower()
    if "bitnet" not in architecture and "b1.58" not in architecture:
        return GENERIC_RULES
    return I2S_RULES if _is_ternary(model) else F16_RULES


def _is_ternary(model: ModelFiles) -> bool:
    """Believe the file's own statement, and look at the projections where it makes none."""
    if model.file_type in F16_FILE_TYPES or model.file_type in TERNARY_FILE_TYPES:
        return model.file_type in TERNARY_FILE_TYPES
    return any(tensor.type in TERNARY_TYPES for tensor in model.tensors.values() if tensor.kind == PROJECTION)
