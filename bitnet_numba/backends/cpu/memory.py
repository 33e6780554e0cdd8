"""Memory for what is read at every token: private pages, 2 MB each where the system grants them."""

import math
import mmap
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import ResourceError
from bitnet_numba.files import human_size

HUGE_PAGE = 2 << 20
LEAST_RESERVE = 64 << 20  # bytes: less is found in no time
_ARRAYS = 6  # that are taken, at most, each of which begins on a page of its own
_STRETCH = 16 << 20  # bytes that are found in one go

Allocate = Callable[[tuple[int, ...], npt.DTypeLike, str], npt.NDArray[np.generic]]


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


class Reserve:
    """Memory whose pages another thread finds before they are needed: new memory can cost as much as reading a file.

    Parameters
    ----------
    n_bytes : int
        An estimate. Of little, and of more than is free, nothing is reserved.
    """

    def __init__(self, n_bytes: int) -> None:
        free = available_bytes()
        n_bytes += _ARRAYS * HUGE_PAGE
        n_bytes = n_bytes if n_bytes >= LEAST_RESERVE and (free is None or n_bytes < free) else 0
        self._memory = np.asarray(allocate((n_bytes,), np.uint8, "model weights"), np.uint8)
        self._n_taken = self._n_found = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._find, daemon=True).start()

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike, purpose: str) -> npt.NDArray[np.generic]:
        """Take an array out of the reserve, once its pages are there; as :func:`allocate` where it is used up."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        start, end = self._n_taken, self._n_taken + n_bytes
        if end > self._memory.size:
            return allocate(shape, dtype, purpose)
        self._n_taken = -(-end // HUGE_PAGE) * HUGE_PAGE
        with self._changed:
            self._changed.wait_for(lambda: self._n_found >= end)
        return np.asarray(self._memory[start:end].view(dtype).reshape(shape))

    def _find(self) -> None:
        for start in range(0, self._memory.size, _STRETCH):
            stretch = self._memory[start : start + _STRETCH]
            stretch[:: mmap.PAGESIZE] = 0  # without the interpreter's lock
            with self._changed:
                self._n_found = start + stretch.size
                self._changed.notify_all()


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
