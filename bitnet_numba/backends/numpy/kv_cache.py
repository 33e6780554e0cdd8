"""The KV cache of the NumPy backend: float32 pages, of which a fork copies those that it starts with."""

from typing import Self

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.protocol import PAGE_POSITIONS
from bitnet_numba.errors import ParameterError, ResourceError

Floats = npt.NDArray[np.float32]


class KVCache:
    """Keys and values of one sequence; a page is float32[n_layers, 2, n_kv_heads, PAGE_POSITIONS, head_dim]."""

    def __init__(self, page_shape: tuple[int, ...], capacity: int) -> None:
        self.page_shape = page_shape
        self.pages: list[Floats] = []
        self.length = 0
        self.resize(capacity)

    def truncate(self, length: int) -> None:
        """Drop the positions from ``length`` on."""
        if not 0 <= length <= self.length:
            raise ParameterError(f"cache: cannot cut {self.length} positions to {length}")
        self.length = length

    def fork(self, capacity: int, length: int) -> Self:
        """Return a cache that starts with the first ``length`` positions of this one."""
        if not 0 <= length <= min(self.length, capacity):
            raise ParameterError(f"cache: cannot begin with {length} of {self.length} positions and hold {capacity}")
        other = type(self)(self.page_shape, capacity)
        for copy, page in zip(other.pages[: _n_pages(length)], self.pages, strict=False):
            copy[:] = page
        other.length = length
        return other

    def resize(self, capacity: int) -> None:
        """Make room for ``capacity`` positions, or give pages back."""
        if capacity < self.length:
            raise ParameterError(f"cache: {self.length} positions are filled, it cannot hold {capacity}")
        n_pages = _n_pages(capacity)
        try:
            added = [np.zeros(self.page_shape, np.float32) for _ in range(n_pages - len(self.pages))]
        except MemoryError as error:
            raise ResourceError(f"KV cache: no memory for {capacity:,} positions; ask for a smaller context") from error
        self.pages, self.capacity = self.pages[:n_pages] + added, capacity

    def append(self, layer: int, keys_and_values: list[Floats]) -> npt.NDArray[np.float64]:
        """Write [n_kv_heads, n, head_dim] each after the filled positions; return those of all positions."""
        end = self.length + keys_and_values[0].shape[1]
        rows = np.concatenate([page[layer] for page in self.pages[: _n_pages(end)]], axis=2)
        rows[:, :, self.length : end] = keys_and_values
        for index in range(self.length // PAGE_POSITIONS, _n_pages(end)):
            self.pages[index][layer] = rows[:, :, index * PAGE_POSITIONS : (index + 1) * PAGE_POSITIONS]
        return rows[:, :, :end].astype(np.float64)


def _n_pages(n_positions: int) -> int:
    return -(-n_positions // PAGE_POSITIONS)
