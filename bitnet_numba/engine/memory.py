"""Memory for what is read at every token: private pages, 2 MB each where the system grants them."""

import math
import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import ResourceError
from bitnet_numba.files import human_size

HUGE_PAGE = 2 << 20


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike, purpose: str) -> npt.NDArray[np.generic]:
    """Return a zeroed array that owns its pages.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    purpose : str
        What it is for, as the error message names it.

    Returns
    -------
    ndarray
        C-contiguous, beginning on a 2 MB boundary if it is that large. Pages count only once they are touched.

    Raises
    ------
    ResourceError
        If the system does not grant the memory.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        if n_bytes < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
            return np.zeros(shape, dtype)
        # private: on shared anonymous memory the advice does nothing
        pages = mmap.mmap(-1, n_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_HUGEPAGE)
    except (OSError, MemoryError, OverflowError, ValueError) as error:
        raise ResourceError(
            f"{purpose}: no memory for {human_size(n_bytes)}; close other programs or ask for less"
        ) from error
    whole = np.frombuffer(pages, np.uint8)
    start = -whole.ctypes.data % HUGE_PAGE
    return np.asarray(whole[start : start + n_bytes].view(dtype).reshape(shape))


def available_bytes() -> int | None:
    """Return how much memory the system says programs may still take, or ``None`` where it does not say."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
