"""Load a model into the CPU backend: reserve memory, pack the weights, check the tile hardware, compile the kernels.

Importing this room does not import Numba: a thread page-faults the memory of the weights while Numba is imported.
"""

from typing import TYPE_CHECKING

import numpy as np

from bitnet_numba.backends.cpu.memory import Reserve
from bitnet_numba.backends.cpu.packed_sizes import RUN, packed_size
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.formats.tensor_formats import Kind, type_names
from bitnet_numba.model.roles import LINEAR_ROLES
from bitnet_numba.model.source import ModelSource, expected_shapes
from bitnet_numba.options import MAX_THREADS, LoadOptions
from bitnet_numba.settings import read_settings

if TYPE_CHECKING:
    from bitnet_numba.backends.cpu.backend import CPUBackend

_SMALL_HEADS = set(type_names(Kind.INT8))  # tensor types whose head needs no int8 copy
_COPY_HEADER = 16  # bytes of such a copy's row, besides its codes


def load_backend(source: ModelSource, options: LoadOptions) -> "CPUBackend":
    """Return a backend whose kernels are compiled.

    BitNetError if the context is too long for the model, a tensor cannot be read, or memory is short.
    """
    context, threads = options.context_of(source.config.max_seq_len), choose_threads(options)
    with_int8_copy = options.head == "exact"
    reserve = Reserve(packed_bytes(source, with_int8_copy=with_int8_copy))
    from bitnet_numba.backends.cpu.backend import CPUBackend
    from bitnet_numba.backends.cpu.kernels.ternary import pack
    from bitnet_numba.backends.cpu.kernels.ternary.tile_check import check_tiles
    from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes
    from bitnet_numba.backends.cpu.weights import load_weights

    pack(np.zeros((32, RUN // 4), np.uint8))  # start Numba while the reserve is still being page-faulted
    sizes = PaddedSizes.of(source.config)
    weights = load_weights(
        source, sizes, context, with_int8_copy=with_int8_copy, threads=threads, allocate=reserve.allocate
    )
    backend = CPUBackend(
        sizes, weights, threads=threads, kv_type=options.kv_type, max_context=context, head=options.head
    )
    if cpu.has_tiles():
        check_tiles()
    backend.compile()
    return backend


def choose_threads(options: LoadOptions) -> int:
    """Return the number of threads: as asked, else ``BITNET_NUM_THREADS``, else one per usable core."""
    return options.threads or read_settings().threads or min(cpu.usable_cores(), MAX_THREADS)


def packed_bytes(source: ModelSource, *, with_int8_copy: bool) -> int:
    """Estimate the bytes of a model's packed weights and of the head's int8 copy, without padding."""
    shapes = expected_shapes(source.config, tied=source.tied)
    ternary = sum(packed_size(*shape) for role, shape in shapes.items() if role.name in LINEAR_ROLES)
    if not with_int8_copy or _SMALL_HEADS & source.tensor_types().keys():
        return ternary
    return ternary + source.config.vocab_size * (source.config.hidden_size + _COPY_HEADER)
