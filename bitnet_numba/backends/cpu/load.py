"""Load a model into the CPU backend: check the tile hardware, pack the weights, compile the kernels."""

import numpy as np

from bitnet_numba.backends.cpu.backend import CPUBackend
from bitnet_numba.backends.cpu.candidates import HeadType
from bitnet_numba.backends.cpu.kernels.ternary import pack
from bitnet_numba.backends.cpu.kernels.ternary.tile_check import check_tiles
from bitnet_numba.backends.cpu.kv_cache import KVType
from bitnet_numba.backends.cpu.memory import Allocate, allocate
from bitnet_numba.backends.cpu.packed_sizes import RUN
from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.weights import load_weights
from bitnet_numba.model.source import ModelSource


def load_backend(
    source: ModelSource,
    *,
    threads: int,
    kv_type: KVType = "f16",
    max_context: int | None = None,
    head: HeadType = "exact",
    allocate: Allocate = allocate,
) -> CPUBackend:
    """Return a backend whose kernels are compiled.

    Parameters
    ----------
    source : ModelSource
    threads, kv_type, head
        As :class:`CPUBackend` takes them.
    max_context : int, optional
        Default: what the model was trained for.
    allocate : callable
        Returns the memory of packed weights; see ``memory.Reserve``.

    Raises
    ------
    BitNetError
        If a tensor cannot be read or memory is short.
    """
    sizes, context = PaddedSizes.of(source.config), max_context or source.config.max_seq_len
    pack(np.zeros((32, RUN // 4), np.uint8))  # start Numba while a reserve is still being page-faulted
    weights = load_weights(source, sizes, context, with_int8_copy=head == "exact", threads=threads, allocate=allocate)
    backend = CPUBackend(sizes, weights, threads=threads, kv_type=kv_type, max_context=context, head=head)
    if cpu.has_tiles():
        check_tiles()
    backend.compile()
    return backend
