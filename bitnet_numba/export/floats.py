"""Float tensors on their way into a file: finite, rounded at most once, and every rounding noted."""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.packing.codec import FloatCodec
from bitnet_numba.formats.tensor_formats import FORMATS

Float32 = npt.NDArray[np.float32]

_BELOW_BF16 = np.uint32(0xFFFF)  # the bits of a float32 that bfloat16 drops
_WIDER = {TensorType.F16: "bf16 or f32", TensorType.BF16: "f32"}


def check_finite(values: Float32, place: str, first_row: int = 0) -> Float32:
    """Return values; FormatError with the position of the first that is not finite, ``first_row`` added to its row."""
    finite = np.isfinite(values)
    if not finite.all():
        row, *columns = (int(i) for i in np.argwhere(~finite)[0])
        position = (first_row + row, *columns)
        raise FormatError(f"{place}: {values[row, *columns]} at {position}; get an intact checkpoint")
    return values


def smallest_exact_type(blocks: Iterable[Float32]) -> TensorType:
    """Return the first of F16, BF16 and F32 that holds exactly every value of a tensor, given in blocks."""
    fits_f16 = fits_bf16 = True
    for values in blocks:
        fits_f16 = fits_f16 and not _rounded(values, TensorType.F16)[2]
        fits_bf16 = fits_bf16 and not np.any(values.view(np.uint32) & _BELOW_BF16)
        if not fits_f16 and not fits_bf16:
            return TensorType.F32
    return TensorType.F16 if fits_f16 else TensorType.BF16


def stored_floats(values: Float32, stored: TensorType, place: str) -> tuple[npt.NDArray[Any], bool]:
    """Return finite values as a float type stores them, BF16 as bit patterns, and whether one had to be rounded.

    Raises UnsupportedError if a value is too large for the type.
    """
    if stored is TensorType.F32:
        return values.astype("<f4", copy=False), False
    rounded, back, is_rounded = _rounded(values, stored)
    if np.isinf(back).any():
        largest = np.abs(values).max()
        raise UnsupportedError(f"{place}: {largest} is more than {stored.name} can hold; use {_WIDER[stored]}")
    return rounded, is_rounded


def _rounded(values: Float32, stored: TensorType) -> tuple[npt.NDArray[Any], Float32, bool]:
    """Return values as stored, as they are read back, and whether the two differ."""
    codec = cast(FloatCodec, FORMATS[stored].codec)
    rounded = codec.round(values)
    back = codec.widen(rounded)
    return rounded, back, not np.array_equal(back, values)
