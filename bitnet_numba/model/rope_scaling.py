"""How fast each RoPE pair turns, before and after a model's context was stretched."""

from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


def inverse_frequencies(head_dim: int, theta: float) -> Doubles:
    """Return ``theta ** (-2 * i / head_dim)`` for each of the ``head_dim // 2`` pairs.

    In decimal arithmetic, whose results are the same on every system, unlike those of a C library's ``pow``.

    Parameters
    ----------
    head_dim : int
        Even.
    theta : float
        The base of the frequencies.

    Returns
    -------
    float64[head_dim // 2]
    """
    with localcontext() as context:
        context.prec = 30
        log_theta = Decimal(theta).ln()
        powers = [(log_theta * Decimal(-2 * i) / Decimal(head_dim)).exp() for i in range(head_dim // 2)]
    return np.array([float(power) for power in powers])


def stretch_llama3(
    inverse_frequency: Doubles,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_seq_len: int,
) -> Doubles:
    """Slow down the frequencies whose waves are longer than the context that a model was first trained for.

    Parameters
    ----------
    inverse_frequency : float64[pairs]
    factor : float
        How much slower the slowest turn.
    low_freq_factor, high_freq_factor : float
        How many waves in ``original_max_seq_len`` bound the zone between fully and not at all.
    original_max_seq_len : int

    Returns
    -------
    float64[pairs]

    References
    ----------
    transformers, ``modeling_rope_utils.py``, ``_compute_llama3_parameters``.
    """
    waves = original_max_seq_len * inverse_frequency / (2 * np.pi)
    kept = np.clip((waves - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return np.asarray((1 - kept) * inverse_frequency / factor + kept * inverse_frequency)


def llama3_factors(
    inverse_frequency: Doubles,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_seq_len: int,
) -> Floats:
    """Return by what :func:`stretch_llama3` divides each frequency, as GGUF's tensor ``rope_freqs`` holds it.

    A checkpoint is run with these rounded factors as well, so that it has the bits of its export.

    Parameters
    ----------
    inverse_frequency : float64[pairs]
    factor, low_freq_factor, high_freq_factor, original_max_seq_len
        As there.

    Returns
    -------
    float32[pairs]
    """
    bands = low_freq_factor, high_freq_factor, original_max_seq_len
    return (inverse_frequency / stretch_llama3(inverse_frequency, factor, *bands)).astype(np.float32)
