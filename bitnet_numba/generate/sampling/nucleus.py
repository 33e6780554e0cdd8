"""Top-p (nucleus) sampling where some logits are excluded: which tokens are surely, and which possibly, kept.

The exact head bounds the weight of the logits that it excludes but does not tell it, so the nucleus ends somewhere
between two indices; the sampler decides whether the draw depends on where.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SUM_SLACK = 1e-9  # relative, for the roundings of a sum of up to some millions of weights
WEIGHT_SLACK = 1e-4  # relative, for the roundings of a weight


class Nucleus(NamedTuple):
    """The fewest highest scores that together reach a share of all weight, as far as it is known.

    Attributes
    ----------
    ranked : int64[n]
        Indices of the scores that may be kept, highest first; of equal scores the first ones.
    n_sure : int
        Number of these that surely are.
    n_largest : int
        Upper bound of the number kept; above n where excluded tokens may be kept too.
    """

    ranked: NDArray[np.int64]
    n_sure: int
    n_largest: int


def excluded_weight(threshold: float, highest: float, temperature: float) -> float:
    """Return an upper bound of the weight of a token whose score is below the threshold, if the highest weighs 1."""
    return math.exp((threshold - highest) / temperature) * (1 + WEIGHT_SLACK)


def nucleus(
    scores: NDArray[np.floating],
    weights: NDArray[np.float64],
    share: float,
    threshold: float = -math.inf,
    excluded_total: float = 0.0,
) -> Nucleus:
    """Bound the nucleus of ``[n]`` scores with their weights, for a share (top-p) below 1.

    Excluded scores are below the threshold, and weigh at most ``excluded_total`` together; there are none if the
    threshold is minus infinity.
    """
    is_partial = threshold > -math.inf
    known = np.cumsum(weights)[-1]  # one after the other: the same sum on every CPU
    lowest = highest = known
    if is_partial:
        indices = np.flatnonzero(scores >= threshold)
        lowest, highest = known * (1 - SUM_SLACK), (known + excluded_total) * (1 + SUM_SLACK)
    else:
        # Tokens below this weigh less than half of the rest together, and need not be sorted.
        light = max(0.0, 0.5 * (1 - share) - SUM_SLACK) * known / weights.size
        indices = np.flatnonzero(weights >= light)
    # By score, since weights may be rounded to equals; ties to the lower id.
    ranked = indices[np.argsort(-scores[indices], kind="stable")]
    ends = np.searchsorted(np.cumsum(weights[ranked]), [share * lowest, share * highest]) + 1
    n_sure, n_largest = int(ends[0]), int(ends[1])
    if not is_partial:
        n_sure = n_largest = min(n_sure, ranked.size)
    return Nucleus(ranked[:n_largest], n_sure, n_largest)
