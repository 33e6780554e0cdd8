"""Random draws of one sequence: where each draw reads the seed's random stream, and which token wins it.

A draw is an exponential race (the Gumbel-max trick, with exponentials): each token has a sample time, exponentially
distributed with its weight as the rate, and the smallest one wins, so each token with a probability in proportion to
its weight. A token's sample time depends on its id, its weight and the draw alone: tokens that are left out of the
race change its outcome only if their times would have been smaller.

References
----------
Maddison, "A Poisson process model for Monte Carlo", 2016.
"""

import math
from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.backends.protocol import RANDOM_STEP, Rivals

NEAR_TIE = 1 + 1e-9  # times that are further apart compare alike with every C library's logarithm
_PRECISE = Context(prec=28)


def first_random_offset(seed: int | None) -> int:
    """Return the random stream offset of a seed's first draw, 0 to 2**64 - 1; None takes a new one every time."""
    # The bit generator's raw stream is fixed for all NumPy versions, unlike that of Generator (NEP 19).
    return int(np.random.PCG64(seed).random_raw())


def random_offset(first: int, n_draws: int, vocab_size: int) -> int:
    """Return the random stream offset of the draw after ``n_draws`` others, which share none of its numbers."""
    return (first + n_draws * vocab_size * RANDOM_STEP) % 2**64


def winner(rivals: Rivals, weights: NDArray[np.float64]) -> tuple[int, float]:
    """Return the index and the sample time of the rival with the smallest one; ``float64[n]`` weights of the race."""
    uniforms, rates = rivals.uniforms.tolist(), weights[rivals.indices].tolist()
    times = [-math.log(u) / rate for u, rate in zip(uniforms, rates, strict=True)]
    limit = min(times) * NEAR_TIE
    near = [at for at, time in enumerate(times) if time <= limit]
    if len(near) > 1:  # decimal's logarithm is rounded correctly, so the same everywhere
        near.sort(key=lambda at: float(-Decimal(uniforms[at]).ln(_PRECISE)) / rates[at])
    return int(rivals.indices[near[0]]), times[near[0]]
