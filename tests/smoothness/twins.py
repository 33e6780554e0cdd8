"""The kernels of smoothness once more, straight from their definitions, in NumPy."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.smoothness.kernels import COARSE_RATIOS, FINE_STEPS, LANES, SEARCH_LANES
from bitnet_numba.smoothness.quantizer import affine

Array = npt.NDArray[Any]


def lane_sum(values: Array, n_lanes: int = LANES) -> float:
    """Add element j to lane j % n_lanes, in order, then fold the lanes in halves."""
    padded = np.zeros(-(-values.size // n_lanes) * n_lanes)
    padded[: values.size] = values
    lanes = np.zeros(n_lanes)
    for part in padded.reshape(-1, n_lanes):
        lanes += part
    while lanes.size > 1:
        half = lanes.size // 2
        lanes = lanes[:half] + lanes[half:]
    return float(lanes[0])


def codes_of(weights: Array, scale: Array, zero: Array, top: int) -> Array:
    """``clip(rint(w / s) + z, 0, top)`` in float32."""
    return np.clip(np.rint(weights / scale) + zero, 0, top)


def per_weight(cells: Array, edges: Array) -> Array:
    """Spread a value of each run over its columns."""
    return np.repeat(cells, np.diff(edges), axis=1)


def quantized(weights: Array, scale: Array, zero: Array, top: int, edges: Array) -> tuple[Array, Array]:
    """Return codes and dequantized weights."""
    s, z = per_weight(scale, edges), per_weight(zero, edges)
    codes = codes_of(weights, s, z, top)
    return codes.astype(np.uint8), (codes - z) * s


def block_sums(weights: Array, back: Array, edges: Array, blocks: Array) -> Array:
    """Return the three sums of each row and column block; each run's elements begin at lane 0 again."""
    w, b = weights.astype(np.float64), back.astype(np.float64)
    terms = (w * w, b * b, (w - b) * (w - b))
    found = np.zeros((weights.shape[0], blocks[-1] + 1, 3))
    for row in range(weights.shape[0]):
        for block in range(blocks[-1] + 1):
            runs = np.flatnonzero(blocks == block)
            for kind, term in enumerate(terms):
                parts = [term[row, edges[run] : edges[run + 1]] for run in runs]
                padded = [np.pad(part, (0, -part.size % LANES)) for part in parts]
                found[row, block, kind] = lane_sum(np.concatenate(padded))
    return found


def squared_error(weights: Array, scale: Any, zero: Any, top: int) -> float:
    """Return the error that the clip search compares: differences in float32, squares in float64."""
    s, z = np.float32(scale), np.float32(zero)
    apart = (weights - (codes_of(weights, s, z, top) - z) * s).astype(np.float64)
    return lane_sum(apart * apart, SEARCH_LANES)


def clip_ratio(weights: Array, low: Any, high: Any, top: int) -> float:
    """Return the ratio of the least error among the coarse candidates, then the fine ones."""

    def error(ratio: float) -> float:
        ends = (np.array([np.float64(end) * ratio]) for end in (low, high))
        scale, zero = affine(*ends, top)
        return squared_error(weights, scale[0], zero[0], top)

    coarse = [error(ratio) for ratio in COARSE_RATIOS]
    at = int(np.argmin(coarse))
    best, chosen = coarse[at], float(COARSE_RATIOS[at])
    for step in FINE_STEPS:
        ratio = min(float(COARSE_RATIOS[at] * step), 1.0)
        if error(ratio) < best:
            best, chosen = error(ratio), ratio
    return chosen


def packed(codes: Array, bits: int) -> Array:
    """Pack by bits: code i of a byte is in bits i * bits and up."""
    per_byte = 8 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_byte))).astype(np.uint64)
    shifts = (bits * np.arange(per_byte)).astype(np.uint64)
    return (padded.reshape(codes.shape[0], -1, per_byte) << shifts).sum(axis=2).astype(np.uint8)
