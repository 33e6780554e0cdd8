"""What every public kernel function checks before it calls a jitted worker that checks nothing."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.simd.types import LANES


def check_array(name: str, array: npt.NDArray[Any], dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless an array is contiguous and of the dtype and shape given."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected contiguous {np.dtype(dtype)}{shape}, got {array.dtype}{array.shape}")


def check_lanes(name: str, length: int, multiple: int = LANES) -> None:
    """Raise ``ValueError`` unless a length is a positive multiple of what the kernel takes at once."""
    if length < 1 or length % multiple:
        raise ValueError(f"{name}: expected a multiple of {multiple}, got {length}")
