"""Array types by dtype, and the check of an array before jitted code, which checks no index, reads or writes it.

Shapes stand where arrays are made: beside the fields of ``Weights``, ``RunState`` and their like.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Numbers = npt.NDArray[Any]
"""float32, uint16 (float16 bits), int16 (bfloat16 bits) or int8: the dtype tells the number format."""


def check_array(
    name: str, array: npt.NDArray[Any], dtype: npt.DTypeLike, shape: tuple[int, ...], *, written: bool = False
) -> None:
    """Raise ``ValueError`` unless an array is contiguous, of the dtype and shape given, and writable if ``written``."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected contiguous {np.dtype(dtype)}{shape}, got {array.dtype}{array.shape}")
    if written and not array.flags.writeable:
        raise ValueError(f"{name}: expected an array that can be written to")
