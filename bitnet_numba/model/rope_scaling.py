"""RoPE frequencies, with the kinds of RoPE scaling that are run: linear, llama3, and factors in a GGUF file."""

from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError
from bitnet_numba.model.source import ModelSource

MIN_FREQUENCY, MAX_FREQUENCY = 1e-12, 4.0
"""Range of frequencies that mean something, in radians a position: angles of 16 million positions are exact enough."""

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


def rope_frequencies(source: ModelSource) -> Doubles:
    """Return the angle in radians by which each pair rotates from one position to the next, float64[head_dim // 2]."""
    config = source.config
    frequencies = inverse_frequencies(config.head_dim, config.rope_theta)
    scaling, factors = config.rope_scaling, source.rope_factors()
    if scaling is not None and scaling.bands is None:
        frequencies = frequencies / scaling.factor
    elif scaling is not None and scaling.bands is not None:
        frequencies = frequencies / llama3_factors(frequencies, scaling.factor, *scaling.bands)
    frequencies = frequencies if factors is None else frequencies / factors
    if not ((frequencies >= MIN_FREQUENCY) & (frequencies <= MAX_FREQUENCY)).all():
        raise FormatError(
            f"{source.path}: RoPE frequencies from {frequencies.min():g} to {frequencies.max():g} radians a position; "
            f"expected {MIN_FREQUENCY:g} to {MAX_FREQUENCY:g}: get the file again"
        )
    return frequencies


def inverse_frequencies(head_dim: int, theta: float) -> Doubles:
    """Return ``theta ** (-2 * i / head_dim)`` for each pair i, float64[head_dim // 2].

    Computed in decimal arithmetic, which gives the same result on every system; a C library's ``pow`` does not.
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
    """Return float64[pairs] frequencies scaled as llama3 does: the longer a wave, the closer to ``1 / factor``.

    With at most ``low_freq_factor`` waves in the ``original_max_seq_len`` tokens of the training a frequency is divided
    by ``factor``, with at least ``high_freq_factor`` it is left alone; interpolated in between. Source: transformers,
    ``modeling_rope_utils.py``, ``_compute_llama3_parameters``.
    """
    waves = original_max_seq_len * inverse_frequency / (2 * np.pi)
    unscaled = np.clip((waves - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return np.asarray((1 - unscaled) * inverse_frequency / factor + unscaled * inverse_frequency)


def llama3_factors(
    inverse_frequency: Doubles,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_seq_len: int,
) -> Floats:
    """Return the divisors that :func:`stretch_llama3` applies, float32[pairs], the tensor ``rope_freqs`` of GGUF.

    A checkpoint runs with these rounded divisors too, so that it has the same bits as its export.
    """
    bands = low_freq_factor, high_freq_factor, original_max_seq_len
    return (inverse_frequency / stretch_llama3(inverse_frequency, factor, *bands)).astype(np.float32)
