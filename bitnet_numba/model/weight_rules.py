"""Healthy ranges of weights: what the RMS of a norm or projection may be, as data that families and policies state."""

import math
import re
from dataclasses import dataclass
from typing import Final

LAYERNORM, PROJECTION = "layernorm", "projection"


@dataclass(frozen=True, slots=True)
class Bounds:
    """An interval, its ends included."""

    minimum: float
    maximum: float

    def holds(self, rms: float) -> bool:
        """Tell whether a value is finite and inside."""
        return math.isfinite(rms) and self.minimum <= rms <= self.maximum


DEFAULT_BOUNDS: Final = Bounds(0.50, 2.0)
"""Bounds of a norm that no rule matches."""
UNBOUNDED: Final = Bounds(0.0, math.inf)


@dataclass(frozen=True, slots=True)
class NormRule:
    """Bounds of the norms in whose names a regular expression is found."""

    pattern: str
    bounds: Bounds
    description: str = ""


def rule(name: str, minimum: float, maximum: float, description: str = "") -> NormRule:
    """Return a rule for the weights of the norms whose names end with a pattern."""
    return NormRule(rf"{name}\.weight$", Bounds(minimum, maximum), description)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Bounds of a healthy model's norms, by the first rule that matches or else ``default``, and projections."""

    name: str
    norms: tuple[NormRule, ...]
    projections: Bounds = UNBOUNDED
    default: Bounds = DEFAULT_BOUNDS

    def bounds(self, kind: str, rule_name: str) -> Bounds:
        """Return the bounds of a tensor's RMS; of anything but norms and projections, any finite number."""
        if kind == PROJECTION:
            return self.projections
        if kind != LAYERNORM:
            return UNBOUNDED
        for each in self.norms:
            if re.search(each.pattern, rule_name):
                return each.bounds
        return self.default


@dataclass(frozen=True, slots=True)
class InspectionRules:
    """The rulesets of a family, for files whose linear layers are floats, and ternary."""

    floats: Ruleset
    ternary: Ruleset
    by_gguf_name: bool = False  # rules know the tensors of a Hugging Face checkpoint by their GGUF names
    relatives: tuple[str, ...] = ()  # an architecture of no family has these rules if its name contains one of these


GENERIC_RULES: Final = Ruleset("generic", (rule("norm", 0.80, 1.20),))
GENERIC_INSPECTION: Final = InspectionRules(floats=GENERIC_RULES, ternary=GENERIC_RULES)
