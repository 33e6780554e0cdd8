"""Random matrices in the storage formats of an embedding or head."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.backends.cpu.kernels.inputs import Floats, normal

Matrix = npt.NDArray[Any]


def stored(
    rng: np.random.Generator, form: str, vocab_size: int, hidden_size: int, magnitude: float = 0.02
) -> tuple[Matrix, Floats]:
    """Draw a matrix in a storage format, with its scales: a half each 32 int8, or a half times an int8 each 16."""
    weights = normal(rng, (vocab_size, hidden_size), magnitude)
    no_scales = np.zeros((vocab_size, 0), np.float32)
    if form in ("f32", "f16", "bf16"):
        return stored_floats(weights, form), no_scales
    limit, group = (128, 32) if form == "q8_0" else (32, 16)
    scales = np.abs(normal(rng, (vocab_size, hidden_size // group), magnitude)).astype(np.float16).astype(np.float32)
    if form == "q6_k":
        scales *= rng.integers(-128, 128, scales.shape).astype(np.float32)
    return rng.integers(-limit, limit, weights.shape).astype(np.int8), scales


def stored_floats(weights: Floats, form: str) -> Matrix:
    """Store numbers as f32, f16 or bf16, the last one cut short."""
    if form == "f16":
        return weights.astype(np.float16).view(np.uint16)
    return weights if form == "f32" else (weights.view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
