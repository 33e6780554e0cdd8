"""Any supported GGUF tensor as float32, exactly the values that its bytes mean."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import UnsupportedError
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.packing.codes import check_length
from bitnet_numba.formats.packing.dense import bf16_to_float32, split_q6_k, split_q8_0
from bitnet_numba.formats.packing.i2s import unpack_i2s
from bitnet_numba.formats.packing.tq import unpack_tq1_0, unpack_tq2_0

Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Shape = tuple[int, ...]


def dequantize(type_id: int, data: Bytes, shape: Shape, *, place: str = "tensor") -> Float32:
    """Return a GGUF tensor as float32, in memory of its own.

    Parameters
    ----------
    type_id : int
        A GGUF tensor type: F32, F16, BF16, Q8_0, Q6_K, TQ1_0, TQ2_0 or I2_S.
    data : uint8[n_bytes]
        The tensor's bytes as stored.
    shape : tuple of int
        Rows before columns: the last dimension is the contiguous one.
    place : str
        File and tensor, for messages.

    Returns
    -------
    float32[shape]

    Raises
    ------
    UnsupportedError
        If the type is none of these.
    FormatError
        If the bytes do not fit the shape, or hold codes or scales that the type does not have.
    """
    reader = _READERS.get(type_id)
    if reader is None:
        names = ", ".join(known.name for known in TensorType if known in _READERS)
        raise UnsupportedError(f"{place}: tensor type {type_id} is not supported; take a file with {names}")
    return reader(data, shape, place)


def _f32(data: Bytes, shape: Shape, place: str) -> Float32:
    check_length(data, 4 * math.prod(shape), place)
    return data.view("<f4").astype(np.float32).reshape(shape)


def _f16(data: Bytes, shape: Shape, place: str) -> Float32:
    check_length(data, 2 * math.prod(shape), place)
    return data.view("<f2").astype(np.float32).reshape(shape)


def _bf16(data: Bytes, shape: Shape, place: str) -> Float32:
    check_length(data, 2 * math.prod(shape), place)
    return bf16_to_float32(data.view("<u2")).reshape(shape)


def _q8_0(data: Bytes, shape: Shape, place: str) -> Float32:
    codes, scales = split_q8_0(data, _matrix(shape), place=place)
    return _product(codes, scales).reshape(shape)


def _q6_k(data: Bytes, shape: Shape, place: str) -> Float32:
    codes, scales = split_q6_k(data, _matrix(shape), place=place)
    return _product(codes, scales).reshape(shape)


def _tq1_0(data: Bytes, shape: Shape, place: str) -> Float32:
    weights, scales = unpack_tq1_0(data, _matrix(shape), place=place)
    return _product(weights, scales).reshape(shape)


def _tq2_0(data: Bytes, shape: Shape, place: str) -> Float32:
    weights, scales = unpack_tq2_0(data, _matrix(shape), place=place)
    return _product(weights, scales).reshape(shape)


def _i2_s(data: Bytes, shape: Shape, place: str) -> Float32:
    weights, scale = unpack_i2s(data, _matrix(shape), place=place)
    return (weights * scale).reshape(shape)


def _matrix(shape: Shape) -> tuple[int, int]:
    """Return the shape as (rows, columns)."""
    return math.prod(shape[:-1]), shape[-1]


def _product(codes: npt.NDArray[np.int8], scales: Float32) -> Float32:
    """Multiply each run of codes by its own scale."""
    rows, groups = scales.shape
    return codes.reshape(rows, groups, -1) * scales[:, :, np.newaxis]


_READERS: dict[int, Callable[[Bytes, Shape, str], Float32]] = {
    TensorType.F32: _f32,
    TensorType.F16: _f16,
    TensorType.BF16: _bf16,
    TensorType.Q8_0: _q8_0,
    TensorType.Q6_K: _q6_k,
    TensorType.TQ1_0: _tq1_0,
    TensorType.TQ2_0: _tq2_0,
    TensorType.I2_S: _i2_s,
}
