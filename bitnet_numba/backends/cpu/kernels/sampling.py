"""Kernels of a random draw: each token's random number, and the exponential race that picks one token.

Random numbers are computed from token ids where they are needed, in whole numbers, so no CPU changes a bit of them.
"""

import math
from typing import Any

import numpy as np

from bitnet_numba.backends.cpu.array_types import Bytes, Doubles, Int64s
from bitnet_numba.backends.cpu.compiler.jit import jit

# SplitMix64, as backends/protocol.py has it
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_DROPPED_BITS = np.uint64(12)
_SLACK = 1 + 1e-9  # for the roundings of a sample time's bounds


@jit
def _random_bits(state: Any) -> Any:
    """Return the top 52 bits of SplitMix64's output at a state."""
    bits = (state ^ (state >> _SHIFTS[0])) * _FACTORS[0]
    bits = (bits ^ (bits >> _SHIFTS[1])) * _FACTORS[1]
    return (bits ^ (bits >> _SHIFTS[2])) >> _DROPPED_BITS


@jit
def mark_favoured_worker(random_offset: Any, least_bits: Any, marks: Bytes) -> None:
    """Set the marks of the tokens whose random bits are at least ``least_bits``."""
    state = random_offset
    for token in range(marks.size):  # without a branch and with one addition a token, it is vectorized best
        state += _STEP
        marks[token] |= np.uint8(_random_bits(state) >= least_bits)


@jit
def exponential_race_worker(
    weights: Doubles, ids: Int64s, random_offset: Any, indices: Int64s, uniforms: Doubles
) -> int:
    """Write the index and random number of each token that may have the smallest sample time; return how many.

    A sample time -ln(u) / w lies between (1 - u) / w and (1 - u) / sqrt(u) / w, so no logarithm is needed here.
    """
    limit, n_met = np.inf, 0
    for i in range(weights.size):
        token = ids[i] if ids.size else i
        u = (np.float64(_random_bits(random_offset + np.uint64(token + 1) * _STEP)) + 0.5) * 2.0**-52
        if 1 - u <= limit * weights[i]:  # never where the weight is 0
            indices[n_met], uniforms[n_met] = i, u
            n_met += 1
            limit = min(limit, (1 - u) / math.sqrt(u) / weights[i] * _SLACK)
    n_rivals = 0
    for i in range(n_met):
        if 1 - uniforms[i] <= limit * weights[indices[i]]:
            indices[n_rivals], uniforms[n_rivals] = indices[i], uniforms[i]
            n_rivals += 1
    return n_rivals
