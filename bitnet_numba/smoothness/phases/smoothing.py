"""Phase 2: smooth scales along a chain of weight groups, or blend parameters around the boundaries of timesteps."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from bitnet_numba.smoothness.chains import Group, cuts
from bitnet_numba.smoothness.measure import Adjustment, Adjustments, Run

STEEPNESS = 10.0
KERNELS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cubic": lambda x: 1 - 3 * x**2 + 2 * x**3,
    "sigmoid": lambda x: 1 / (1 + math.exp(STEEPNESS * (x - 0.5))),
}
"""Weight of a group at distance x, 0 to 1."""
BLENDS: dict[str, Callable[[float], float]] = {
    "linear": lambda a: a,
    "cubic": lambda a: 3 * a**2 - 2 * a**3,
    "sigmoid": lambda a: 1 / (1 + math.exp(-STEEPNESS * (a - 0.5))),
}
"""Share of the right group's parameters, a going from 0 to 1 across a boundary."""


def ratios(scales: Sequence[float], kind: str, window: int, strength: float) -> list[float]:
    """Return the factors that smooth scales in the log domain, in one pass from the original values.

    ``ln s'_g = sum K(|g - k| / (window + 1)) ln s_k / sum K``; ``strength``, 0 to 1, is how far towards it.
    """
    logs, kernel = [math.log(scale) for scale in scales], KERNELS[kind]
    found = []
    for at, own in enumerate(logs):
        near = range(max(0, at - window), min(len(logs), at + window + 1))
        weights = [kernel(abs(at - k) / (window + 1)) for k in near]
        mean = math.fsum(w * logs[k] for w, k in zip(weights, near, strict=True)) / math.fsum(weights)
        found.append(math.exp(strength * (mean - own)))
    return found


def smoothed(run: Run, kind: str, window: int, strength: float) -> Adjustments:
    """Return the adjustment of every tensor that smooths all chains of a run."""
    factor: dict[tuple[str, int], float] = {}
    for chain in run.chains:
        found = ratios([group.scale for group in chain.groups], kind, window, strength)
        for ratio, members in zip(found, chain.members, strict=True):
            factor |= dict.fromkeys(members, ratio)
    return {
        name: Adjustment(tuple(factor[name, index] for index in range(len(each.groups))))
        for name, each in run.measured.items()
    }


def blended(chain: Sequence[Group], n_steps: int, kind: str, window: int, strength: float) -> list[Group]:
    """Give each of ``n_steps`` timesteps its group's parameters, blended over ``window`` steps beside each boundary.

    Step j of the 2 w steps around a boundary takes ``alpha = (j + 1) / (2 w + 1)`` of the right group.
    """
    borders, blend = cuts(n_steps, len(chain)), BLENDS[kind]
    sizes = [end - begin for begin, end in pairwise(borders)]
    steps = [group for group, size in zip(chain, sizes, strict=True) for _ in range(size)]
    result = list(steps)
    for border in borders[1:-1]:
        left, right = steps[border - 1], steps[border]
        for j in range(2 * window):
            at = border - window + j
            if not 0 <= at < n_steps or steps[at] not in (left, right):
                continue
            share = blend((j + 1) / (2 * window + 1))
            own = result[at]
            result[at] = Group(
                own.scale + strength * ((1 - share) * left.scale + share * right.scale - own.scale),
                own.zero + strength * ((1 - share) * left.zero + share * right.zero - own.zero),
                own.weight,
            )
    return result
