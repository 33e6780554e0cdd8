"""The NumPy backend's part in sampling: softmax, exponential and the random draw.

It is the oracle of the jitted kernels: equal marks and random numbers, and the same winner of each race.
"""

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.numpy import operators
from bitnet_numba.backends.numpy.operators import KERNELS
from bitnet_numba.backends.protocol import RANDOM_STEP, Counts, Logits, Rivals

NEAR_TIE = 1 + 1e-9  # of two sample times that are closer, float64 logarithms do not tell the smaller one

Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


def uniforms(ids: Ids, random_offset: int) -> Doubles:
    """Return the random numbers of ``int64[n]`` tokens in a draw: float64[n], between 0 and 1 without both."""
    state = np.uint64(random_offset) + (ids + 1).astype(np.uint64) * np.uint64(RANDOM_STEP)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = (state ^ (state >> np.uint64(31))) >> np.uint64(12)
    return np.asarray((bits.astype(np.float64) + 0.5) / 2.0**52)


class NumPySampling:
    """Fulfils :class:`bitnet_numba.backends.protocol.SamplingOperations`, whose methods say what these do."""

    head: str = "full"
    kernel_names = KERNELS

    def softmax(self, logits: Logits, counts: Counts) -> Logits:
        counts[KERNELS.index("numpy_exp")] += 1
        terms = operators.exp(logits.astype(np.float64) - logits.max())
        return np.asarray(terms / terms.sum(), np.float32)

    def exp(self, x: Logits, counts: Counts) -> Logits:
        counts[KERNELS.index("numpy_exp")] += 1
        return operators.exp(x).astype(np.float32)

    def mark_favoured(self, random_offset: int, sample_time: float, marks: npt.NDArray[np.uint8]) -> None:
        marks |= uniforms(np.arange(marks.size), random_offset) >= 1 - sample_time

    def exponential_race(self, weights: Doubles, ids: Ids | None, random_offset: int) -> Rivals:
        u = uniforms(np.arange(weights.size) if ids is None else ids, random_offset)
        times = np.full(weights.size, np.inf)
        np.divide(-np.log(u), weights, out=times, where=weights > 0)
        indices = np.flatnonzero(times <= times.min() * NEAR_TIE)
        return Rivals(indices, u[indices])
