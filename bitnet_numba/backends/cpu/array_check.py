"""The check of an array before jitted code, which checks no index, may read or write it."""

from typing import Any

import numpy as np
import numpy.typing as npt


def check_array(
    name: str, array: npt.NDArray[Any], dtype: npt.DTypeLike, shape: tuple[int, ...], *, written: bool = False
) -> None:
    """Raise ``ValueError`` unless an array is contiguous, of the dtype and shape given, and writable if ``written``."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected contiguous {np.dtype(dtype)}{shape}, got {array.dtype}{array.shape}")
    if written and not array.flags.writeable:
        raise ValueError(f"{name}: expected an array that can be written to")
