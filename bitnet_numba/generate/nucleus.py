"""The share of probability that ``top_p`` keeps, and the draw from what is kept, where not all logits need be known."""

import math
from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.backends.protocol import Candidates

Scores = NDArray[np.float64]
Ids = NDArray[np.int64]

SUM_SLACK = 1e-9  # relative, for the roundings of a sum of up to some millions of weights
WEIGHT_SLACK = 1e-4  # relative, for the roundings of a weight
_PRECISE = Context(prec=28)
_STRIDE = 0x9E3779B97F4A7C15
_WORD = 1 << 64


class Nucleus(NamedTuple):
    """The fewest highest scores that together reach a share of all weight.

    Attributes
    ----------
    ranked : int64[n]
        Places of the known scores that may be among them, highest first; of equal scores the first ones.
    n_sure : int
        So many of these surely are.
    n_largest : int
        No more than so many scores are among them; more than ``ranked`` has where left-out ones may be.
    """

    ranked: Ids
    n_sure: int
    n_largest: int


def nucleus(scores: Scores, weights: Scores, share: float, screening: Candidates, left_out: float) -> Nucleus:
    """Return what is known of the nucleus.

    Parameters
    ----------
    scores, weights : float64[n]
        Of the known tokens.
    share : float
        Of the weight of all tokens: above 0, below 1.
    screening : Candidates
        Tokens that are not known have scores below its threshold.
    left_out : float
        What these weigh together, at most.
    """
    known = np.cumsum(weights)[-1]  # one after the other: the same sum on every CPU
    lowest = highest = known
    if screening.is_partial:
        places = np.flatnonzero(scores >= screening.threshold)
        lowest, highest = known * (1 - SUM_SLACK), (known + left_out) * (1 + SUM_SLACK)
    else:
        # What weighs less than this makes up less than half of the rest together, and need not be sorted.
        light = max(0.0, 0.5 * (1 - share) - SUM_SLACK) * known / weights.size
        places = np.flatnonzero(weights >= light)
    # By score, since weights may be rounded to equals; ties to the lower id.
    ranked = places[np.argsort(-scores[places], kind="stable")]
    ends = np.searchsorted(np.cumsum(weights[ranked]), [share * lowest, share * highest]) + 1
    n_sure, n_largest = int(ends[0]), int(ends[1])
    if not screening.is_partial:
        n_sure = n_largest = min(n_sure, ranked.size)
    return Nucleus(ranked[:n_largest], n_sure, n_largest)


def left_out_weight(screening: Candidates, highest: float, temperature: float) -> tuple[float, float]:
    """Return what one left-out token, and what all of them weigh at most, if a score of ``highest`` weighs 1."""
    one = math.exp((screening.threshold - highest) / temperature)
    return one * (1 + WEIGHT_SLACK), one * screening.tail_mass


# ---- the draw --------------------------------------------------------------------------------------------------------
class Arrival(NamedTuple):
    """The first token to arrive: its place among those that run, and when it does."""

    place: int
    time: float


def first_to_arrive(weights: Scores, ids: Ids, stretch: int) -> Arrival:
    """Draw one of some tokens, each with a probability in proportion to its weight.

    Each token arrives after a time of its own, which is exponentially distributed with its weight as the rate; the
    first one is taken. A token's time depends on nothing but its id, its weight and the draw: so what else may be drawn
    changes the outcome only if it arrives sooner.

    Parameters
    ----------
    weights : float64[n]
        Above 0.
    ids : int64[n]
    stretch : int
        Where in the sequence of random numbers this draw has its own, in the order of the ids.

    References
    ----------
    Exponential races: Maddison, "A Poisson process model for Monte Carlo", 2016. Random numbers: Steele et al., "Fast
    splittable pseudorandom number generators" (SplitMix64), 2014.
    """
    randoms = uniforms(ids, stretch)
    # -log(u) >= 1 - u, so few logarithms are needed; decimal's are rounded correctly, alike on every CPU
    soonest = 1 - randoms
    soonest /= weights
    limit = _arrival(randoms, weights, int(np.argmin(soonest))).time
    rivals = np.flatnonzero(soonest <= limit * (1 + SUM_SLACK))
    return min((_arrival(randoms, weights, place) for place in rivals.tolist()), key=lambda arrival: arrival.time)


def early(n: int, stretch: int, time: float) -> NDArray[np.bool_]:
    """Mark those of the first n ids that might arrive by a time up to 1, if they weighed 1."""
    return uniforms(np.arange(n), stretch) >= 1 - time  # -log(u) >= 1 - u


def _arrival(randoms: Scores, weights: Scores, place: int) -> Arrival:
    return Arrival(place, float(-Decimal(float(randoms[place])).ln(_PRECISE)) / float(weights[place]))


def uniforms(ids: Ids, stretch: int) -> Scores:
    """Return random numbers between 0 and 1, without both: those of SplitMix64 begun at ``stretch``, by number."""
    words = ids.astype(np.uint64)  # all in place: there may be as many as the vocabulary has tokens
    words *= np.uint64(_STRIDE)
    words += np.uint64((stretch + _STRIDE) % _WORD)
    shifted = np.empty_like(words)
    for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        words ^= np.right_shift(words, np.uint64(shift), out=shifted)
        words *= np.uint64(multiplier)
    words >>= np.uint64(12)
    randoms = words.astype(np.float64)
    randoms += 0.5
    randoms *= 2.0**-52
    return randoms


def stretch_of(start: int, n_chosen: int, vocab_size: int) -> int:
    """Return where the draw after ``n_chosen`` others has its random numbers, none of which another one has."""
    return (start + n_chosen * vocab_size * _STRIDE) % _WORD
