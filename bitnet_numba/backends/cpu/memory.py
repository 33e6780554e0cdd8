"""Memory for weights and KV caches: private pages, 2 MB huge pages where the system grants them.

:class:`Reserve` page-faults memory in the background while Numba is imported: that costs as much as reading the file.
"""

import math
import mmap
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import ResourceError
from bitnet_numba.files import human_size
from bitnet_numba.machine_limits import available_bytes

HUGE_PAGE = 2 << 20
MIN_RESERVE = 64 << 20  # bytes; less is page-faulted in no time
_MAX_ARRAYS = 6  # arrays taken from a reserve, each on huge pages of its own
_FAULT_BYTES = 16 << 20  # bytes page-faulted between two notifications

Allocate = Callable[[tuple[int, ...], npt.DTypeLike, str], npt.NDArray[np.generic]]


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike, purpose: str) -> npt.NDArray[np.generic]:
    """Return a zeroed C-contiguous array, aligned to 2 MB if it is that large.

    ResourceError, whose message begins with the purpose, if the system does not grant the memory.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        if n_bytes < HUGE_PAGE:
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
    """Memory that a background thread page-faults before it is used.

    ``n_bytes`` is an estimate. Nothing is reserved if it is less than ``MIN_RESERVE``, or more than is available.
    """

    def __init__(self, n_bytes: int) -> None:
        available = available_bytes()
        n_bytes += _MAX_ARRAYS * HUGE_PAGE
        n_bytes = n_bytes if n_bytes >= MIN_RESERVE and (available is None or n_bytes < available) else 0
        self._memory = np.asarray(allocate((n_bytes,), np.uint8, "model weights"), np.uint8)
        self._n_taken = self._n_faulted = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._page_fault, daemon=True).start()

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike, purpose: str) -> npt.NDArray[np.generic]:
        """Take an array from the reserve once it is page-faulted; like :func:`allocate` when the reserve is used up."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        start, end = self._n_taken, self._n_taken + n_bytes
        if end > self._memory.size:
            return allocate(shape, dtype, purpose)
        self._n_taken = -(-end // HUGE_PAGE) * HUGE_PAGE
        with self._changed:
            self._changed.wait_for(lambda: self._n_faulted >= end)
        return np.asarray(self._memory[start:end].view(dtype).reshape(shape))

    def _page_fault(self) -> None:
        for start in range(0, self._memory.size, _FAULT_BYTES):
            part = self._memory[start : start + _FAULT_BYTES]
            part[:: mmap.PAGESIZE] = 0  # NumPy releases the GIL for this
            with self._changed:
                self._n_faulted = start + part.size
                self._changed.notify_all()
