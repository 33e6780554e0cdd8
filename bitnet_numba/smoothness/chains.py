"""Chains of groups: how scale and zero point change from group to group, and what is called a violation."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SLACK = 1e-6  # rounding noise that does not make a violation
HIGH, MEDIUM = 0.5, 0.3  # scale jumps above them have that severity


@dataclass(frozen=True, slots=True)
class Group:
    """The parameters of one group: scale ``s``, zero point over the largest code ``z / Q``, and element count."""

    scale: float
    zero: float
    weight: float


@dataclass(frozen=True, slots=True)
class Jump:
    """The relative change of the scale at a boundary, and the change of the zero point in units of Q."""

    scale: float
    zero: float

    @property
    def score(self) -> float:
        """``1 - min((scale_jump + zero_point_jump) / 2, 1)``."""
        return 1 - min((self.scale + self.zero) / 2, 1)


@dataclass(frozen=True, slots=True)
class Violation:
    """A boundary whose scale jump is above the threshold."""

    boundary_idx: int
    scale_jump: float
    zero_point_jump: float
    severity: str


def cuts(n: int, groups: int) -> list[int]:
    """Cut n items at ``floor(i n / G)``, G being at most n, so that no group is empty; G + 1 positions from 0 to n."""
    groups = max(1, min(n, groups))
    return [i * n // groups for i in range(groups + 1)]


def joined(groups: Sequence[Group]) -> Group:
    """Join several scales to one group: geometric mean of s, mean of z/Q, weighted by element count."""
    total = math.fsum(group.weight for group in groups)
    logarithm = math.fsum(group.weight * math.log(group.scale) for group in groups) / total
    if all(group.scale == groups[0].scale for group in groups):
        logarithm = math.log(groups[0].scale)
    zero = math.fsum(group.weight * group.zero for group in groups) / total
    return Group(math.exp(logarithm), zero, total)


def jumps(chain: Sequence[Group]) -> list[Jump]:
    """Return the jump at each boundary of a chain."""
    return [
        Jump(abs(right.scale - left.scale) / left.scale, abs(right.zero - left.zero)) for left, right in pairwise(chain)
    ]


def smoothness_score(chain: Sequence[Jump]) -> float:
    """Return ``1 - min(sum of jumps / 2B, 1)``; 1 without a boundary."""
    if not chain:
        return 1.0
    return 1 - min(math.fsum(jump.scale + jump.zero for jump in chain) / (2 * len(chain)), 1)


def merged(chains: Sequence[Sequence[Jump]], weights: Sequence[float]) -> list[Jump]:
    """Merge the chains of several tensors: at each boundary the mean of those that have it, weighted by parameters."""
    result = []
    for boundary in range(max(map(len, chains), default=0)):
        there = [(chain[boundary], w) for chain, w in zip(chains, weights, strict=True) if boundary < len(chain)]
        total = math.fsum(weight for _, weight in there)
        result.append(
            Jump(
                math.fsum(jump.scale * weight for jump, weight in there) / total,
                math.fsum(jump.zero * weight for jump, weight in there) / total,
            )
        )
    return result


def violations(chain: Sequence[Jump], threshold: float) -> list[Violation]:
    """Return the boundaries whose scale jump is above the threshold."""
    return [
        Violation(boundary, jump.scale, jump.zero, severity(jump.scale))
        for boundary, jump in enumerate(chain)
        if jump.scale > threshold + SLACK
    ]


def severity(scale_jump: float) -> str:
    """Return ``high`` above 0.5, ``medium`` above 0.3, else ``low``."""
    return "high" if scale_jump > HIGH else "medium" if scale_jump > MEDIUM else "low"


def boundary_statistics(scores: Sequence[float]) -> dict[str, float]:
    """Return minimum, maximum, mean and population standard deviation of boundary scores; 1 and 0 without any."""
    scores = scores or [1.0]
    return {
        "min_boundary_score": min(scores),
        "max_boundary_score": max(scores),
        "mean_boundary_score": math.fsum(scores) / len(scores),
        "std_boundary_score": statistics.pstdev(scores),
    }


def patterns(found: Sequence[Violation], n_boundaries: int) -> list[str]:
    """Describe violations in a few lines."""
    if not found:
        return ["No violations detected - excellent smoothness"]
    lines = []
    for level in ("high", "medium", "low"):
        n = sum(each.severity == level for each in found)
        if n:
            lines.append(f"{level.capitalize()} severity violations: {n} ({100 * n / len(found):.1f}%)")
    lines.append(f"Violations at boundaries: {[each.boundary_idx for each in found]}")
    early = sum(each.boundary_idx < n_boundaries / 2 for each in found)
    if early != len(found) - early:
        lines.append(f"Violations cluster at {'early' if early > len(found) - early else 'late'} boundaries")
    scale_jumps = [each.scale_jump for each in found]
    mean = math.fsum(scale_jumps) / len(scale_jumps)
    lines.append(f"Scale jumps: max={100 * max(scale_jumps):.1f}%, avg={100 * mean:.1f}%")
    return lines
