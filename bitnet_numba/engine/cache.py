"""The KV cache: keys and values of the positions that a sequence has behind it."""

from typing import Literal

import numpy as np

from bitnet_numba.engine.forward.arrays import CacheArrays
from bitnet_numba.engine.memory import allocate, available_bytes
from bitnet_numba.errors import ParameterError, ResourceError
from bitnet_numba.files import human_size
from bitnet_numba.kernels.attention import TILE

KVType = Literal["f16", "f32"]
KV_DTYPES: dict[str, type[np.generic]] = {"f16": np.uint16, "f32": np.float32}  # float16 travels as its bits


class KVCache:
    """Keys and values of one sequence.

    Parameters
    ----------
    n_layers, n_kv_heads, head_dim : int
        ``head_dim`` as the kernels take it, padded.
    capacity : int
        Positions that it must hold; rounded up to what the kernels score at once.
    kv_type : {"f16", "f32"}
        The number format that it is kept in.

    Attributes
    ----------
    form : (int, int, int)
        ``n_layers``, ``n_kv_heads`` and ``head_dim``: what a model's own caches have in common.
    length : int
        Positions that are filled.

    Raises
    ------
    ResourceError
        If the memory is not there.
    """

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, capacity: int, kv_type: KVType) -> None:
        padded = -(-capacity // TILE) * TILE
        shape = n_layers, n_kv_heads, padded * head_dim
        dtype = KV_DTYPES[kv_type]
        needed = 2 * int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        free = available_bytes()
        if free is not None and needed > free:
            raise ResourceError(
                f"KV cache: {capacity:,} positions need {human_size(needed)}, {human_size(free)} are free; "
                "ask for a smaller context or kv_type f16"
            )
        self.form = n_layers, n_kv_heads, head_dim
        self.capacity = capacity
        self.length = 0
        self.arrays = CacheArrays(allocate(shape, dtype, "KV cache"), allocate(shape, dtype, "KV cache"))

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values, for the whole capacity."""
        return self.arrays.keys.nbytes + self.arrays.values.nbytes

    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on.

        Raises
        ------
        ParameterError
            If ``length`` is negative, or more than is filled.
        """
        if not 0 <= length <= self.length:
            raise ParameterError(f"cache: cannot cut {self.length} positions to {length}")
        self.length = length
