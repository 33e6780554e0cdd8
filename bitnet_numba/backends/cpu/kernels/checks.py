"""What every public kernel function checks before it calls a jitted worker that checks nothing."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.simd.types import LANES


def check_array(
    name: str, array: npt.NDArray[Any], dtype: npt.DTypeLike, shape: tuple[int, ...], *, written: bool = False
) -> None:
    """Raise ``ValueError`` unless an array is contiguous, of the dtype and shape given, and writable if ``written``."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected contiguous {np.dtype(dtype)}{shape}, got {array.dtype}{array.shape}")
    if written and not array.flags.writeable:
        raise ValueError(f"{name}: expected an array that can be written to")


def check_rank(name: str, array: npt.NDArray[Any], n_dimensions: int) -> None:
    """Raise ``ValueError`` unless an array has the number of dimensions given."""
    if array.ndim != n_dimensions:
        raise ValueError(f"{name}: expected {n_dimensions} dimensions, got {array.ndim}")


def check_lanes(name: str, length: int, multiple: int = LANES) -> None:
    """Raise ``ValueError`` unless a length is a positive multiple of what the kernel takes at once."""
    if length < 1 or length % multiple:
        raise ValueError(f"{name}: expected a multiple of {multiple}, got {length}")
