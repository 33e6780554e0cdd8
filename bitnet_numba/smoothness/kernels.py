"""Kernels of the quantizer: ranges, codes, error sums, clip search, packing; each is parallel over rows.

Arrays are float32[rows, columns] of weights, cut at ``edges`` into runs of columns that share a scale and a zero point,
float32[rows, runs] each. Sums are float64: element j of a run is added to lane j % LANES in the order of j, then the
lanes are folded in halves. So the bits depend on neither threads nor vector width, and NumPy computes the same.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.smoothness.jit import jit_inline, jit_rows, prange

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

LANES = 256
RANGE_LANES = 64
SEARCH_LANES = 32
N_SUMS = 3
SUM_WW, SUM_QQ, SUM_EE = range(N_SUMS)
"""Sums of w^2, w'^2 and (w - w')^2; w' is the dequantized weight."""
RATIO, COARSE, FINE = 0.75, 12, 4  # clip ratios: RATIO**k, then steps of a fourth around the best
COARSE_RATIOS = np.array([RATIO**k for k in range(COARSE)])
FINE_STEPS = np.array([RATIO ** (k / FINE) for k in range(1 - FINE, FINE)])
_EXPONENT = np.uint32(0x7F800000)


@jit_rows
def ranges(weights: Floats, bits: npt.NDArray[np.uint32], edges: Ints, low: Floats, high: Floats, bad: Any) -> None:
    """Write each run's minimum and maximum, 0 included; ``bad``, uint8[rows], tells of NaN and infinity.

    ``bits`` is ``weights`` as uint32.
    """
    for row in prange(weights.shape[0]):
        bad[row] = _not_finite(bits[row])
        smallest, largest = np.zeros(RANGE_LANES, np.float32), np.zeros(RANGE_LANES, np.float32)
        for run in range(edges.size - 1):
            for start in range(edges[run], edges[run + 1], RANGE_LANES):
                _widen(weights[row, start : min(start + RANGE_LANES, edges[run + 1])], smallest, largest)
            low[row, run], high[row, run] = _ends(smallest, largest)


@jit_inline
def _not_finite(bits: npt.NDArray[np.uint32]) -> Any:
    found = np.uint32(0)
    for j in range(bits.size):
        found |= np.uint32((bits[j] & _EXPONENT) == _EXPONENT)
    return found


@jit_inline
def _widen(values: Floats, smallest: Floats, largest: Floats) -> None:
    for j in range(values.size):
        smallest[j] = min(smallest[j], values[j])
        largest[j] = max(largest[j], values[j])


@jit_inline
def _ends(smallest: Floats, largest: Floats) -> tuple[Any, Any]:
    """Return the least and the greatest value of the lanes, and clear them."""
    half = smallest.size // 2
    while half:
        _widen(smallest[half : 2 * half], smallest, largest)
        _widen(largest[half : 2 * half], smallest, largest)
        half //= 2
    ends = smallest[0], largest[0]
    smallest[:] = 0
    largest[:] = 0
    return ends


@jit_rows
def magnitudes(weights: Floats, sums: Doubles) -> None:
    """Write the sum of each row's magnitudes, float64[rows]; not finite where a weight is not."""
    for row in prange(weights.shape[0]):
        lanes = np.zeros(LANES)
        values = weights[row]
        for start in range(0, values.size, LANES):
            part = values[start : min(start + LANES, values.size)]
            for j in range(part.size):
                lanes[j] += abs(np.float64(part[j]))
        sums[row] = _fold(lanes)


@jit_inline
def _fold(lanes: Doubles) -> Any:
    """Add the lanes in halves, and clear them."""
    half = lanes.size // 2
    while half:
        for j in range(half):
            lanes[j] += lanes[j + half]
        half //= 2
    total = lanes[0]
    lanes[:] = 0.0
    return total


@jit_rows
def quantize(
    weights: Floats, scale: Floats, zero: Floats, top: float, edges: Ints, blocks: Ints, codes: Codes, sums: Doubles
) -> None:
    """Write codes ``clip(rint(w / s) + z, 0, top)``, uint8[rows, columns], and sums, float64[rows, blocks, N_SUMS].

    ``blocks`` is the column block of each run, int64[runs], ascending.
    """
    limit = np.float32(top)
    for row in prange(weights.shape[0]):
        ww, qq, ee = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        for run in range(edges.size - 1):
            begin, end = edges[run], edges[run + 1]
            s, z = scale[row, run], zero[row, run]
            _encode(weights[row, begin:end], s, z, limit, codes[row, begin:end])
            for start in range(begin, end, LANES):
                stop = min(start + LANES, end)
                _add_sums(weights[row, start:stop], codes[row, start:stop], s, z, ww, qq, ee)
            if run + 2 == edges.size or blocks[run + 1] != blocks[run]:
                out = sums[row, blocks[run]]
                out[SUM_WW], out[SUM_QQ], out[SUM_EE] = _fold(ww), _fold(qq), _fold(ee)


@jit_inline
def _encode(weights: Floats, s: np.float32, z: np.float32, top: np.float32, codes: Codes) -> None:
    zero = np.float32(0)
    for j in range(weights.size):
        codes[j] = np.uint8(np.int32(min(max(np.rint(weights[j] / s) + z, zero), top)))


@jit_inline
def _add_sums(weights: Floats, codes: Codes, s: Any, z: Any, ww: Doubles, qq: Doubles, ee: Doubles) -> None:
    for j in range(weights.size):
        value = np.float64(weights[j])
        back = np.float64((np.float32(codes[j]) - z) * s)
        ww[j] += value * value
        qq[j] += back * back
        ee[j] += (value - back) * (value - back)


@jit_rows
def dequantize(codes: Codes, scale: Floats, zero: Floats, edges: Ints, out: Floats) -> None:
    """Write ``(q - z) s``, float32[rows, columns]."""
    for row in prange(codes.shape[0]):
        for run in range(edges.size - 1):
            begin, end = edges[run], edges[run + 1]
            _decode(codes[row, begin:end], scale[row, run], zero[row, run], out[row, begin:end])


@jit_inline
def _decode(codes: Codes, s: np.float32, z: np.float32, out: Floats) -> None:
    for j in range(codes.size):
        out[j] = (np.float32(codes[j]) - z) * s


# ---- packing ---------------------------------------------------------------------------------------------------------
@jit_rows
def pack(codes: Codes, bits: int, out: Codes) -> None:
    """Pack codes, uint8[rows, columns], 8 // bits to a byte, the first in the lowest bits; rows end on whole bytes."""
    per_byte = 8 // bits
    for row in prange(codes.shape[0]):
        whole = codes.shape[1] // per_byte
        for byte in range(whole):
            value = np.uint8(0)
            for i in range(per_byte):
                value |= np.uint8(codes[row, byte * per_byte + i] << (bits * i))
            out[row, byte] = value
        if whole < out.shape[1]:
            value = np.uint8(0)
            for i in range(codes.shape[1] - whole * per_byte):
                value |= np.uint8(codes[row, whole * per_byte + i] << (bits * i))
            out[row, whole] = value


@jit_rows
def unpack(packed: Codes, bits: int, codes: Codes) -> None:
    """Undo :func:`pack`."""
    per_byte, mask = 8 // bits, (1 << bits) - 1
    for row in prange(codes.shape[0]):
        for column in range(codes.shape[1]):
            codes[row, column] = (packed[row, column // per_byte] >> (bits * (column % per_byte))) & mask


# ---- the search of a clip ratio --------------------------------------------------------------------------------------
@jit_rows
def clip_errors(weights: Floats, scale: Floats, zero: Floats, top: float, errors: Doubles) -> None:
    """Write each row's sum of squared errors, float64[rows, candidates], for every candidate's scale and zero point.

    ``scale`` and ``zero`` are float32[candidates].
    """
    limit = np.float32(top)
    for row in prange(weights.shape[0]):
        lanes = np.zeros(SEARCH_LANES)
        for candidate in range(scale.size):
            errors[row, candidate] = _squared_error(weights[row], scale[candidate], zero[candidate], limit, lanes)


@jit_inline
def _squared_error(weights: Floats, s: np.float32, z: np.float32, top: np.float32, lanes: Doubles) -> Any:
    n = weights.size
    for start in range(0, n, SEARCH_LANES):
        _add_errors(weights[start : min(start + SEARCH_LANES, n)], s, z, top, lanes)
    return _fold(lanes)


@jit_inline
def _add_errors(weights: Floats, s: np.float32, z: np.float32, top: np.float32, lanes: Doubles) -> None:
    zero = np.float32(0)
    for j in range(weights.size):
        code = min(max(np.rint(weights[j] / s) + z, zero), top)
        apart = np.float64(weights[j] - (code - z) * s)
        lanes[j] += apart * apart


@jit_inline
def affine(low: float, high: float, top: float) -> tuple[float, float]:
    """Return scale and zero point of a range that includes 0: ``s = (high - low) / top``, ``z = rint(-low / s)``."""
    s = np.float64(np.float32((high - low) / top))
    if s == 0.0:
        return 1.0, 0.0
    return s, min(max(np.rint(-low / s), 0.0), top)


@jit_rows
def clip_runs(weights: Floats, low: Floats, high: Floats, top: float, edges: Ints, ratio: Doubles) -> None:
    """Write each run's clip ratio of the least squared error, float64[rows, runs], the largest of equal ones."""
    for row in prange(weights.shape[0]):
        lanes = np.zeros(SEARCH_LANES)
        for run in range(edges.size - 1):
            part = weights[row, edges[run] : edges[run + 1]]
            lowest, highest = np.float64(low[row, run]), np.float64(high[row, run])
            best, at = np.inf, 0
            for k in range(COARSE):
                error = _clipped_error(part, lowest, highest, COARSE_RATIOS[k], top, lanes)
                if error < best:
                    best, at = error, k
            ratio[row, run] = COARSE_RATIOS[at]
            for k in range(FINE_STEPS.size):
                candidate = min(COARSE_RATIOS[at] * FINE_STEPS[k], 1.0)
                error = _clipped_error(part, lowest, highest, candidate, top, lanes)
                if error < best:
                    best, ratio[row, run] = error, candidate


@jit_inline
def _clipped_error(weights: Floats, low: float, high: float, ratio: float, top: float, lanes: Doubles) -> Any:
    s, z = affine(low * ratio, high * ratio, top)
    return _squared_error(weights, np.float32(s), np.float32(z), np.float32(top), lanes)
