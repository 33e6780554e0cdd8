"""Logits of which some are left out, as a screened head leaves them out."""

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.backends.protocol import Candidates


def without(
    logits: NDArray[np.float32], is_kept: NDArray[np.bool_], temperature: float, excess: float = 0.0
) -> Candidates:
    """Leave out all logits but some, and tell what they weigh, or more by a share of it.

    What is left out is below every number above the highest of it, the lowest of which becomes the threshold.
    """
    gone = logits[~is_kept]
    if gone.size == 0:
        return Candidates(logits, rescored_rows=logits.size)
    threshold = np.nextafter(gone.max(), np.float32(np.inf))
    weight = 0.0
    if temperature:
        with np.errstate(over="ignore"):
            weight = float(np.exp((gone.astype(np.float64) - threshold) / temperature).sum())
    known = np.flatnonzero(is_kept)
    return Candidates(logits[known], known, known.size, float(threshold), weight * (1 + 1e-4) * (1 + excess))
