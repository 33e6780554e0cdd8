"""Quantize floats to ternary weights: by absmean for master weights, exactly where they are ternary already."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError

CHUNK = 1 << 18  # weights a pass
LANES = 1 << 14  # partial sums of the mean
MIN_SCALE = np.float32(1e-5)
ZERO = np.float32(1e-6)  # below it bitnet.cpp's quantizer takes a weight for zero


def absmean_ternary(
    weights: npt.NDArray[np.float32], place: str = "master weights"
) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Quantize master weights to -1, 0 and +1 times their mean magnitude.

    ``clip(round(weights / scale), -1, 1)`` in float32, halves to even, ``scale = max(mean(abs(weights)), 1e-5)``.
    For weights that are ternary already this scale is wrong: see :func:`exact_ternary`. Raises FormatError if a weight
    is not finite, or there is none.

    References
    ----------
    Ma et al., "The Era of 1-bit LLMs", arXiv:2402.17764, equations 1-3.
    """
    if not weights.size:
        raise FormatError(f"{place}: no weights at all; get the file again")
    mean = _mean_magnitude(weights)
    if not np.isfinite(mean):
        raise FormatError(f"{place}: a weight is not finite; get the file again")
    scale = max(np.float32(mean), MIN_SCALE)
    return nearest_ternary(weights, scale), scale


def nearest_ternary(weights: npt.NDArray[np.float32], scale: np.float32) -> npt.NDArray[np.int8]:
    """Return ``clip(round(weights / scale), -1, 1)``, computed in float32, halves to even."""
    ternary = np.empty(weights.shape, np.int8)
    for part, out in _chunks(weights, ternary):
        scaled = part / scale
        np.rint(scaled, out=scaled)
        np.clip(scaled, -1, 1, out=scaled)
        out[:] = scaled
    return ternary


def exact_ternary(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], np.float32] | None:
    """Split weights that are -1, 0 or +1 times one scale, their largest magnitude.

    Return None if another magnitude occurs (those below 1e-6 count as 0), or if all weights are 0.

    References
    ----------
    bitnet.cpp, ``quantize_i2_s``.
    """
    if not weights.size:
        return None
    scale = np.float32(max(weights.max(), -weights.min()))
    if not ZERO <= scale < np.inf:
        return None
    ternary = np.empty(weights.shape, np.int8)
    for part, out in _chunks(weights, ternary):
        positive, negative = part == scale, part == -scale
        if not np.all(positive | negative | (np.abs(part) < ZERO)):
            return None
        np.subtract(positive, negative, out=out, dtype=np.int8)
    return ternary, scale


def _mean_magnitude(weights: npt.NDArray[np.float32]) -> float:
    """Return the mean of the magnitudes in float64, the same bits on every machine.

    The order of a library's own sum may change with its version and the CPU. Here vectors are added element by element,
    in an order that only the number of weights decides.
    """
    sums = np.zeros(LANES)
    flat = weights.reshape(-1)
    for start in range(0, flat.size, LANES):
        part = np.abs(flat[start : start + LANES])
        with np.errstate(invalid="ignore"):  # a signalling NaN; the caller refuses the result
            sums[: part.size] += part
    while sums.size > 1:
        half = sums.size // 2
        sums = sums[:half] + sums[half:]
    return float(sums[0]) / flat.size


def _chunks(
    weights: npt.NDArray[np.float32], ternary: npt.NDArray[np.int8]
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]]:
    """Yield matching parts of a contiguous source and its result, small enough for a core's cache."""
    source, target = weights.reshape(-1), ternary.reshape(-1)
    for start in range(0, source.size, CHUNK):
        yield source[start : start + CHUNK], target[start : start + CHUNK]
