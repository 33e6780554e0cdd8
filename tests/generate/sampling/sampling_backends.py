"""Each backend's sampling operations without a model, and candidates that a head might return."""

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.sampling import CPUSampling
from bitnet_numba.backends.numpy.sampling import NumPySampling
from bitnet_numba.backends.protocol import Candidates, SamplingOperations


class ScreeningNumPy(NumPySampling):
    """The operations in NumPy, of a backend whose head may return candidates."""

    head = "exact"


CPU: SamplingOperations = CPUSampling()
NUMPY: SamplingOperations = ScreeningNumPy()


def any_sampling(vocab_size: int) -> st.SearchStrategy[dict[str, Any]]:
    """Draw arguments of SamplingParams: every filter and penalty, off as often as not."""
    return st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.0, 1e-300, 0.05, 0.3, 0.8, 1.0, 5.0]),
            "top_k": st.sampled_from([0, 0, 1, 2, 7, 40, 400]),
            "top_p": st.sampled_from([1.0, 0.999, 0.9, 0.3]),
            "min_p": st.sampled_from([0.0, 0.0, 5e-324, 0.001, 0.05, 0.5, 1.0]),
            "repetition_penalty": st.sampled_from([1.0, 1.0, 0.7, 1.3, 100.0]),
            "frequency_penalty": st.sampled_from([0.0, 0.0, -2.0, 0.4]),
            "presence_penalty": st.sampled_from([0.0, 0.0, 2.0]),
            "logit_bias": st.dictionaries(
                st.integers(0, vocab_size - 1), st.sampled_from([-100.0, -1.0, 3.0]), max_size=3
            ),
            "seed": st.integers(0, 2**32 - 1),
        }
    )


def partial(
    logits: npt.NDArray[np.float32], is_kept: npt.NDArray[np.bool_], temperature: float, excess: float = 0.0
) -> Candidates:
    """Exclude all logits but some, with an upper bound of their mass that is too high by a share ``excess``.

    The threshold is the lowest number above all excluded logits.
    """
    excluded = logits[~is_kept]
    if excluded.size == 0:
        return Candidates(logits, rescored_rows=logits.size)
    threshold = np.nextafter(excluded.max(), np.float32(np.inf))
    mass = 0.0
    if temperature:
        with np.errstate(over="ignore"):
            mass = float(np.exp((excluded.astype(np.float64) - threshold) / temperature).sum())
    ids = np.flatnonzero(is_kept)
    return Candidates(logits[ids], ids, ids.size, float(threshold), mass * (1 + 1e-4) * (1 + excess))
