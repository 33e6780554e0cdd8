"""How the bytes of a tensor become arrays and back: a codec class for each kind of tensor format.

Each format's own module makes its codec and lists it under its name in ``CODECS``, where
:attr:`bitnet_numba.formats.tensor_formats.TensorFormat.codec` finds it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bitnet_numba.formats.packing.codes import check_length
from bitnet_numba.formats.packing.matrices import Matrix, TernaryMatrix, matrix_of

Bytes = npt.NDArray[np.uint8]
Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]
Shape = tuple[int, ...]
Rows = tuple[int, int]  # (rows, columns)


class Codec(Protocol):
    """What every codec does."""

    def dequantize(self, data: Bytes, shape: Shape, place: str) -> Float32:
        """Return the values exactly, float32[shape], in memory of their own; ``place`` names the tensor in errors.

        Raises FormatError if the bytes do not fit the shape, or hold codes, scales or values that the format has not.
        """
        ...


class MatrixCodec(Codec, Protocol):
    """A codec of embeddings and heads."""

    def matrix(self, data: Bytes, shape: Rows, place: str) -> Matrix:
        """Return an embedding or head as the kernels run it; raises as :meth:`Codec.dequantize`."""
        ...


@dataclass(frozen=True, slots=True)
class FloatCodec:
    """Unquantized weights.

    ``widen`` turns a stored array into float32, exactly, in memory of its own; ``round`` rounds float32 to a stored
    array, halves to even, too large values to infinity.
    """

    stored: str  # dtype of the bytes; bfloat16 as uint16
    run_as: type[np.generic]  # dtype in kernels: float32, uint16 (float16 bits) or int16 (bfloat16 bits)
    widen: Callable[[npt.NDArray[Any]], Float32]
    round: Callable[[Float32], npt.NDArray[Any]]

    def dequantize(self, data: Bytes, shape: Shape, place: str) -> Float32:
        """Return the values as float32; see :meth:`Codec.dequantize`."""
        check_length(data, np.dtype(self.stored).itemsize * math.prod(shape), place)
        return self.widen(data.view(self.stored)).reshape(shape)

    def matrix(self, data: npt.NDArray[Any], shape: Rows, place: str) -> Matrix:
        """Return an embedding or head in its own precision, without a copy where it is aligned."""
        check_length(data.reshape(-1).view(np.uint8), np.dtype(self.stored).itemsize * math.prod(shape), place)
        return matrix_of(data.view(self.run_as).reshape(shape))

    def stored_value(self, value: np.float32) -> np.float32:
        """Return the nearest value that can be stored; it may be 0 or infinite."""
        return np.float32(self.widen(self.round(np.array([value], np.float32)))[0])


@dataclass(frozen=True, slots=True)
class TernaryCodec:
    """Ternary weights with one scale for the tensor, or one for each block.

    The functions take the tensor's bytes, its (rows, columns) and its place in errors. ``unpack`` returns weights and
    scales, int8[rows, columns] and float32[rows, groups] or one float32; ``count_nonzeros`` the non-zero weights in
    whole blocks, int64[n], and the scale of each count, float32[n]: 1 where the scale is in the tensor's tail.
    """

    linear: Callable[[Bytes, Rows, str], TernaryMatrix]
    unpack: Callable[[Bytes, Rows, str], tuple[Int8, Float32 | np.float32]]
    pack: Callable[[Int8, float], Bytes]  # int8[rows, columns] and a scale to uint8[n_bytes]
    count_nonzeros: Callable[[Bytes, str], tuple[npt.NDArray[np.int64], Float32]]
    scale_dtype: type[np.float32 | np.float16]  # precision of a stored scale

    def dequantize(self, data: Bytes, shape: Shape, place: str) -> Float32:
        """Return weights times scales; see :meth:`Codec.dequantize`."""
        return scaled(*self.unpack(data, as_rows(shape), place)).reshape(shape)

    def stored_scale(self, scale: np.float32) -> np.float32:
        """Return the nearest scale that can be stored; it may be 0 or infinite."""
        with np.errstate(over="ignore", under="ignore"):
            return np.float32(self.scale_dtype(scale))


@dataclass(frozen=True, slots=True)
class Int8Codec:
    """Embeddings and heads that run as int8 codes with group scales, int8[rows, columns] and float32[rows, groups]."""

    split: Callable[[Bytes, Rows, str], tuple[Int8, Float32]]

    def dequantize(self, data: Bytes, shape: Shape, place: str) -> Float32:
        """Return codes times scales; see :meth:`Codec.dequantize`."""
        return scaled(*self.split(data, as_rows(shape), place)).reshape(shape)

    def matrix(self, data: Bytes, shape: Rows, place: str) -> Matrix:
        """Return an embedding or head as int8 codes with group scales."""
        return matrix_of(*self.split(data, shape, place))


def as_rows(shape: Shape) -> Rows:
    """Return a shape as (rows, columns)."""
    return math.prod(shape[:-1]), shape[-1]


def scaled(codes: Int8, scales: Float32 | np.float32) -> Float32:
    """Multiply codes by their scale: one for each group of a row, or one for all."""
    if isinstance(scales, np.floating):
        return np.multiply(codes, scales, dtype=np.float32)
    rows, groups = scales.shape
    return codes.reshape(rows, groups, -1) * scales[:, :, np.newaxis]
