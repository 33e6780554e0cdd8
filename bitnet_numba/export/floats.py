"""Floats on their way into a file: finite, rounded at most once, and never in silence."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.packing import bf16_to_float32

Float32 = npt.NDArray[np.float32]

_BELOW_BF16 = np.uint32(0xFFFF)  # the bits of a float32 that bfloat16 drops


def check_finite(values: Float32, place: str, first_row: int = 0) -> Float32:
    """Return values, all finite.

    Parameters
    ----------
    values : float32[rows, ...]
    place : str
        File and tensor, for the message.
    first_row : int
        Where in the tensor the first of these rows is.

    Raises
    ------
    FormatError
        With the position of the first that is NaN or infinite.
    """
    finite = np.isfinite(values)
    if not finite.all():
        row, *columns = (int(i) for i in np.argwhere(~finite)[0])
        position = (first_row + row, *columns)
        raise FormatError(f"{place}: {values[row, *columns]} at {position}; get an intact checkpoint")
    return values


def smallest_exact_type(blocks: Iterable[Float32]) -> TensorType:
    """Return F16, BF16 or F32: the first of them that holds every value exactly.

    Parameters
    ----------
    blocks : iterable of float32[...]
        Finite; together the tensor.
    """
    fits_f16 = fits_bf16 = True
    for values in blocks:
        fits_f16 = fits_f16 and _is_exact_in_f16(values)
        fits_bf16 = fits_bf16 and not np.any(values.view(np.uint32) & _BELOW_BF16)
        if not fits_f16 and not fits_bf16:
            return TensorType.F32
    return TensorType.F16 if fits_f16 else TensorType.BF16


def _is_exact_in_f16(values: Float32) -> bool:
    return np.array_equal(_f16(values).astype(np.float32), values)


def stored_floats(values: Float32, stored: TensorType, place: str) -> tuple[npt.NDArray[Any], bool]:
    """Return values as a float type keeps them, and whether one of them had to be rounded.

    Parameters
    ----------
    values : float32[...]
        Finite.
    stored : {F16, BF16, F32}
        BF16 is returned as bit patterns.
    place : str
        File and tensor, for the message.

    Raises
    ------
    UnsupportedError
        If a value is too large for the type.
    """
    if stored is TensorType.F32:
        return values.astype("<f4", copy=False), False
    kept: npt.NDArray[Any] = _f16(values) if stored is TensorType.F16 else _bf16(values)
    back = kept.astype(np.float32) if stored is TensorType.F16 else bf16_to_float32(kept)
    if np.isinf(back).any():
        largest = np.abs(values).max()
        raise UnsupportedError(f"{place}: {largest} is more than {stored.name} can hold; use {_WIDER[stored]}")
    return kept, not np.array_equal(back, values)


_WIDER = {TensorType.F16: "bf16 or f32", TensorType.BF16: "f32"}


def _f16(values: Float32) -> npt.NDArray[np.float16]:
    """Round to float16, halves to even; what is too large becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype("<f2")


def _bf16(values: Float32) -> npt.NDArray[np.uint16]:
    """Round to bfloat16 bit patterns, halves to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2")
