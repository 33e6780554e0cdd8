"""Weights as the backends take them: ternary linear layers, and embeddings or heads in the precision they run in.

Both hold NumPy arrays and nothing else; the codecs of this package make them out of bytes.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.formats.packing.codes import unpack_runs


@dataclass(frozen=True, slots=True)
class TernaryMatrix:
    """The weights of a linear layer: -1, 0 and +1 times one scale, given as ``weights`` or as ``i2s``."""

    scale: np.float32
    weights: npt.NDArray[np.int8] | None = None  # int8[rows, columns]
    i2s: npt.NDArray[np.uint8] | None = None  # uint8[rows, columns // 4]: checked I2_S codes; every row begins a run

    def unpacked(self) -> npt.NDArray[np.int8]:
        """Return the weights, int8[rows, columns]."""
        if self.weights is not None:
            return self.weights
        assert self.i2s is not None  # one of the two is there by construction
        rows, row_bytes = self.i2s.shape
        return unpack_runs(self.i2s.reshape(-1)).reshape(rows, 4 * row_bytes)


class Matrix(NamedTuple):
    """An embedding or output head [vocab_size, hidden_size]: float32, float16 or bfloat16 bits, or scaled int8."""

    values: npt.NDArray[Any]  # float32, uint16 (float16 bits), int16 (bfloat16 bits) or int8
    scales: npt.NDArray[np.float32]  # float32[vocab_size, groups] of int8 values; 0 groups for the others


def matrix_of(values: npt.NDArray[Any], scales: npt.NDArray[np.float32] | None = None) -> Matrix:
    """Make a matrix, contiguous and aligned as the kernels need it."""
    if scales is None:
        scales = np.zeros((values.shape[0], 0), np.float32)
    return Matrix(np.require(values, requirements=["C", "A"]), scales)


def one_scale(weights: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], place: str) -> TernaryMatrix:
    """Join int8[rows, columns] with scales float32[rows, blocks] into a matrix of one scale.

    The scales of all-zero blocks do not count; if others differ, an UnsupportedError names ``place``.
    """
    rows, blocks = scales.shape
    used = scales[weights.reshape(rows, blocks, -1).any(axis=2)]
    if used.size == 0:
        return TernaryMatrix(np.float32(1), weights=weights)
    if not (used == used[0]).all():
        raise UnsupportedError(
            f"{place}: its blocks have different scales, from {used.min()} to {used.max()}; "
            "a BitNet b1.58 matrix has one: take the model's I2_S file"
        )
    return TernaryMatrix(checked_scale(used[0], place), weights=weights)


def checked_scale(scale: float, place: str) -> np.float32:
    """Return the scale of a matrix as float32; FormatError if it is not a finite number above 0."""
    with np.errstate(over="ignore"):  # the error below says it
        value = np.float32(scale)
    if not 0 < value < np.inf:
        raise FormatError(f"{place}: its scale is {value}, expected a finite number above 0; get the file again")
    return value
