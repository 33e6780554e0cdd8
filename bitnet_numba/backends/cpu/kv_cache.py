"""The paged KV cache of one sequence; forks share whole pages, as in vLLM's prefix caching."""

from typing import Self

import numpy as np

from bitnet_numba.backends.cpu.array_types import Bytes, Int64s
from bitnet_numba.backends.cpu.kernels.attention import POSITIONS_PER_BLOCK, head_block_bytes
from bitnet_numba.backends.cpu.memory import allocate
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.files import human_size
from bitnet_numba.machine_limits import available_bytes
from bitnet_numba.options import KVType

KV_DTYPES: dict[str, type[np.generic]] = {  # Numba has no float16: uint16 holds its bits
    "f16": np.uint16,
    "f32": np.float32,
    "int8": np.int8,
}


class KVCache:
    """Keys and values of one sequence, in pages of ``POSITIONS_PER_BLOCK`` positions of all layers and heads.

    ``head_dim`` is padded; int8 has one scale per position and head. ResourceError if memory is short.

    Attributes
    ----------
    form : (int, int, int, str)
        ``n_layers``, ``n_kv_heads``, ``head_dim``, ``kv_type``: equal for all caches of a model.
    length : int
        Number of positions that are filled.
    pages : list of uint8[page_bytes]
    addresses : int64[1, n_pages]
        Addresses of the pages, valid as long as ``pages`` is alive.
    """

    _n_shared: int  # number of leading pages that other caches may read

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, capacity: int, kv_type: KVType) -> None:
        self.form: tuple[int, int, int, KVType] = n_layers, n_kv_heads, head_dim, kv_type
        self.capacity = capacity
        self.length = 0
        self._set_pages(self._allocate(_n_pages(capacity), capacity))

    @property
    def n_bytes(self) -> int:
        """Bytes of all pages, shared ones included."""
        return sum(page.nbytes for page in self.pages)

    def truncate(self, length: int) -> None:
        """Drop the positions from ``length`` on; ParameterError if fewer are filled."""
        if not 0 <= length <= self.length:
            raise ParameterError(f"cache: cannot cut {self.length} positions to {length}")
        whole = length // POSITIONS_PER_BLOCK
        if whole < self._n_shared:  # the next write would go to a shared page
            pages = self._allocate(len(self.pages) - whole, self.capacity)
            if length % POSITIONS_PER_BLOCK:
                pages[0][:] = self.pages[whole]
            self._set_pages(self.pages[:whole] + pages, whole)
        self.length = length

    def fork(self, capacity: int | None = None, length: int | None = None) -> Self:
        """Return a cache that starts with the first ``length`` positions of this one (default: all that are filled).

        Whole pages are shared, the last one is copied; later writes are not shared. ParameterError if ``length``
        exceeds what is filled, or the capacity; ResourceError if memory is short.
        """
        length = self.length if length is None else length
        capacity = self.capacity if capacity is None else capacity
        if not 0 <= length <= min(self.length, capacity):
            raise ParameterError(f"cache: cannot begin with {length} of {self.length} positions and hold {capacity}")
        other = type(self).__new__(type(self))
        other.form, other.capacity, other.length = self.form, capacity, length
        whole = length // POSITIONS_PER_BLOCK
        own = self._allocate(_n_pages(capacity) - whole, capacity)
        if length % POSITIONS_PER_BLOCK:
            own[0][:] = self.pages[whole]
        self._n_shared = max(self._n_shared, whole)
        other._set_pages(self.pages[:whole] + own, whole)
        return other

    def resize(self, capacity: int) -> None:
        """Make room for ``capacity`` positions, or give pages back; if it raises, nothing has changed.

        ParameterError if more positions are filled; ResourceError if memory is short.
        """
        if capacity < self.length:
            raise ParameterError(f"cache: {self.length} positions are filled, it cannot hold {capacity}")
        n_pages = _n_pages(capacity)
        added = self._allocate(max(0, n_pages - len(self.pages)), capacity)
        self.capacity = capacity
        self._set_pages(self.pages[:n_pages] + added, min(self._n_shared, n_pages))

    def _set_pages(self, pages: list[Bytes], n_shared: int = 0) -> None:
        self.pages = pages
        self._n_shared = n_shared
        self.addresses = np.array([[page.ctypes.data for page in pages]], np.int64)

    def _allocate(self, n_pages: int, capacity: int) -> list[Bytes]:
        n_layers, n_kv_heads, head_dim, kv_type = self.form
        page_bytes = n_layers * n_kv_heads * head_block_bytes(head_dim, KV_DTYPES[kv_type])
        needed, available = n_pages * page_bytes, available_bytes()
        if available is not None and needed > available:
            raise ResourceError(
                f"KV cache: {capacity:,} positions need {human_size(needed)}, {human_size(available)} are free; "
                "ask for a smaller context or kv_type f16 or int8"
            )
        memory = np.asarray(allocate((n_pages, page_bytes), np.uint8, "KV cache"), np.uint8)
        return list(memory)


def _n_pages(capacity: int) -> int:
    return -(-capacity // POSITIONS_PER_BLOCK)


def page_table(caches: list[KVCache]) -> Int64s:
    """Return the page addresses of several sequences, int64[n_sequences, most pages], padded with zeros."""
    if len(caches) == 1:
        return caches[0].addresses
    table = np.zeros((len(caches), max(cache.addresses.size for cache in caches)), np.int64)
    for row, cache in enumerate(caches):
        table[row, : cache.addresses.size] = cache.addresses[0]
    return table
