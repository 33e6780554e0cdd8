"""The KV cache: keys and values of the positions that a sequence has behind it, in pages of 256."""

from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.attention import BLOCK, head_block_bytes
from bitnet_numba.backends.cpu.memory import allocate, available_bytes
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.files import human_size

KVType = Literal["f16", "f32", "int8"]
KV_DTYPES: dict[str, type[np.generic]] = {  # float16 travels as its bits
    "f16": np.uint16,
    "f32": np.float32,
    "int8": np.int8,
}

Page = npt.NDArray[np.uint8]


class KVCache:
    """Keys and values of one sequence.

    Parameters
    ----------
    n_layers, n_kv_heads, head_dim : int
        ``head_dim`` as the kernels take it, padded.
    capacity : int
        Positions that it must hold.
    kv_type : {"f16", "f32", "int8"}
        The number format that it is kept in; int8 has a scale for each position of a head.

    Attributes
    ----------
    form : (int, int, int, str)
        ``n_layers``, ``n_kv_heads``, ``head_dim`` and ``kv_type``: what a model's own caches have in common.
    length : int
        Positions that are filled.
    pages : list of uint8[page_bytes]
        The memory itself, whose addresses are valid as long as somebody holds the list; caches share pages.
    addresses : int64[1, n_pages]
        Of the pages, as kernels find them.

    Raises
    ------
    ResourceError
        If the memory is not there.
    """

    _n_shared: int

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, capacity: int, kv_type: KVType) -> None:
        self.form: tuple[int, int, int, KVType] = n_layers, n_kv_heads, head_dim, kv_type
        self.capacity = capacity
        self.length = 0
        self._set_pages(self._allocate(_n_pages(capacity), capacity))

    @property
    def n_bytes(self) -> int:
        """Bytes of all its pages, with those that it shares with others."""
        return sum(page.nbytes for page in self.pages)

    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on.

        Raises
        ------
        ParameterError
            If ``length`` is negative, or more than is filled.
        """
        if not 0 <= length <= self.length:
            raise ParameterError(f"cache: cannot cut {self.length} positions to {length}")
        kept = length // BLOCK
        if kept < self._n_shared:  # what follows is written anew, and others still read it
            self._own_from(kept, length)
        self.length = length

    def fork(self, capacity: int | None = None, length: int | None = None) -> Self:
        """Return a cache that goes on where this one stands; neither changes the other from here on.

        Whole pages are shared, so only the last one is copied.

        Parameters
        ----------
        capacity : int, optional
            Positions that it must hold; by default as many as this one.
        length : int, optional
            How many of this one's positions it begins with; by default all.

        Raises
        ------
        ParameterError
            If that is more than is filled, or more than the capacity.
        ResourceError
            If the memory is not there.
        """
        length = self.length if length is None else length
        capacity = self.capacity if capacity is None else capacity
        if not 0 <= length <= min(self.length, capacity):
            raise ParameterError(f"cache: cannot begin with {length} of {self.length} positions and hold {capacity}")
        other = type(self).__new__(type(self))
        other.form, other.capacity, other.length = self.form, capacity, length
        whole = length // BLOCK
        own = self._allocate(_n_pages(capacity) - whole, capacity)
        if length % BLOCK:
            own[0][:] = self.pages[whole]
        self._n_shared = max(self._n_shared, whole)
        other._set_pages(self.pages[:whole] + own, whole)
        return other

    def resize(self, capacity: int) -> None:
        """Hold up to ``capacity`` positions from here on; pages are added, or given up.

        Raises
        ------
        ParameterError
            If more positions are filled.
        ResourceError
            If the memory is not there; then nothing has changed.
        """
        if capacity < self.length:
            raise ParameterError(f"cache: {self.length} positions are filled, it cannot hold {capacity}")
        n_pages = _n_pages(capacity)
        added = self._allocate(max(0, n_pages - len(self.pages)), capacity)
        self.capacity = capacity
        self._set_pages(self.pages[:n_pages] + added, min(self._n_shared, n_pages))

    def _set_pages(self, pages: list[Page], n_shared: int = 0) -> None:
        self.pages = pages
        self._n_shared = n_shared  # the first ones, which others read too
        self.addresses = np.array([[page.ctypes.data for page in pages]], np.int64)

    def _own_from(self, first: int, length: int) -> None:
        """Replace the pages from ``first`` on by new ones that begin with the same positions up to ``length``."""
        pages = self._allocate(len(self.pages) - first, self.capacity)
        if length % BLOCK:
            pages[0][:] = self.pages[first]
        self._set_pages(self.pages[:first] + pages, first)

    def _allocate(self, n_pages: int, capacity: int) -> list[Page]:
        n_layers, n_kv_heads, head_dim, kv_type = self.form
        page_bytes = n_layers * n_kv_heads * head_block_bytes(head_dim, KV_DTYPES[kv_type])
        needed, free = n_pages * page_bytes, available_bytes()
        if free is not None and needed > free:
            raise ResourceError(
                f"KV cache: {capacity:,} positions need {human_size(needed)}, {human_size(free)} are free; "
                "ask for a smaller context or kv_type f16 or int8"
            )
        memory = np.asarray(allocate((n_pages, page_bytes), np.uint8, "KV cache"), np.uint8)
        return list(memory)


def _n_pages(capacity: int) -> int:
    return -(-capacity // BLOCK)


def addresses_of(caches: list[KVCache]) -> npt.NDArray[np.int64]:
    """Return where the pages of several sequences lie, int64[n_sequences, most pages]; zeros after the last."""
    if len(caches) == 1:
        return caches[0].addresses
    table = np.zeros((len(caches), max(cache.addresses.size for cache in caches)), np.int64)
    for row, cache in enumerate(caches):
        table[row, : cache.addresses.size] = cache.addresses[0]
    return table
