"""Memory-map a file as read-only bytes, loaded page by page on first touch."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError
from bitnet_numba.files import open_regular
from bitnet_numba.formats.stand_in import HEAD_BYTES, refuse_stand_in

COMPARED_BYTES = 1 << 26  # in memory at a time


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """Map a regular file, uint8[n_bytes], read-only; valid as long as the array or a view of it lives.

    Raises BitNetError if the file is missing, not a regular file, not readable, or only stands in for another.
    """
    try:
        with open_regular(path) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            # An empty file cannot be mapped.
            mapped = mmap.mmap(file.fileno(), n_bytes, access=mmap.ACCESS_READ) if n_bytes else b""
    except OSError as error:
        raise BitNetError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    contents = np.frombuffer(mapped, np.uint8)
    refuse_stand_in(path, contents[:HEAD_BYTES].tobytes())
    return contents


def equal_bytes(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], forget: Callable[[], None]) -> bool:
    """Compare bytes of mapped files in chunks; ``forget`` releases the pages read after each."""
    equal = first.size == second.size
    for start in range(0, first.size if equal else 0, COMPARED_BYTES):
        chunk = slice(start, start + COMPARED_BYTES)
        equal = equal and np.array_equal(first[chunk], second[chunk])
        forget()
    return equal


def forget_pages(contents: npt.NDArray[np.uint8]) -> None:
    """Release the pages of a mapped file from this process's memory; the next touch loads them again."""
    owner = contents.base
    mapped = owner.obj if isinstance(owner, memoryview) else owner
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
