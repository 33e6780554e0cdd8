"""Rulesets of the user's own, out of a policy file."""

import math
import re
from pathlib import Path

from bitnet_numba.errors import ParameterError, excerpt
from bitnet_numba.model.weight_rules import Bounds, NormRule, Ruleset
from bitnet_numba.validate.policy_file import Field, read_policy


def read_ruleset(path: Path, key: str) -> Ruleset:
    """Read one ruleset of a policy file, and check all of them.

    Parameters
    ----------
    path : Path
        ``version: 1`` and ``rules``, a mapping of keys to rulesets: ``name``, ``ln`` (a list of ``pattern``, ``min``,
        ``max``, ``description``), ``proj_weight_rms_min``, ``proj_weight_rms_max``, ``notes``.
    key : str
        Which one.

    Raises
    ------
    BitNetError
        If the file cannot be read.
    FormatError
        If it is not such a policy.
    ParameterError
        If it has no ruleset of that key.
    """
    found = rulesets(read_policy(path))
    if key not in found:
        raise ParameterError(
            f"{path}: no ruleset {excerpt(key)}, it has {', '.join(map(excerpt, found)) or 'none'}; use --policy-key"
        )
    return found[key]


def rulesets(field: Field) -> dict[str, Ruleset]:
    """Take the rulesets of a parsed policy apart, by key; raises as :func:`read_ruleset`."""
    top = field.mapping(required=("version", "rules"))
    top["version"].check_version()
    return {name: _ruleset(name, each) for name, each in top["rules"].entries().items()}


def _ruleset(key: str, field: Field) -> Ruleset:
    parts = field.mapping(required=("ln",), optional=("name", "proj_weight_rms_min", "proj_weight_rms_max", "notes"))
    for name in ("name", "notes"):
        if name in parts:
            parts[name].text()
    minimum, maximum = parts.get("proj_weight_rms_min"), parts.get("proj_weight_rms_max")
    projections = _bounds(minimum, maximum, field)
    return Ruleset(
        parts["name"].text() if "name" in parts else key, tuple(map(_rule, parts["ln"].items())), projections
    )


def _rule(field: Field) -> NormRule:
    parts = field.mapping(required=("pattern", "min", "max"), optional=("description",))
    pattern = parts["pattern"].text()
    try:
        re.compile(pattern)
    except re.error as error:
        raise parts["pattern"].error(f"{excerpt(pattern)} is not a regular expression ({error})") from None
    description = parts["description"].text() if "description" in parts else ""
    return NormRule(pattern, _bounds(parts["min"], parts["max"], field), description)


def _bounds(minimum: Field | None, maximum: Field | None, field: Field) -> Bounds:
    """Return an interval, open at an end that is not stated."""
    bounds = Bounds(
        0.0 if minimum is None else minimum.number(0.0), math.inf if maximum is None else maximum.number(0.0)
    )
    if bounds.minimum > bounds.maximum:
        raise field.error(f"the minimum {bounds.minimum:g} is above the maximum {bounds.maximum:g}")
    return bounds
