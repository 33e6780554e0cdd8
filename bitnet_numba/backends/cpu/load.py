"""Load a model into the CPU backend: reserve memory, pack the weights, check the tile hardware, compile the kernels.

Importing this room does not import Numba: a thread page-faults the memory of the weights while Numba is imported.
"""

from typing import TYPE_CHECKING

import numpy as np

from bitnet_numba.backends.cpu.memory import Reserve
from bitnet_numba.backends.cpu.packed_sizes import RUN, packed_size
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.errors import ResourceError
from bitnet_numba.formats.tensor_formats import Kind, type_names
from bitnet_numba.machine_limits import CoreLimit, usable_cores
from bitnet_numba.model.roles import LINEAR_ROLES
from bitnet_numba.model.source import ModelSource, expected_shapes
from bitnet_numba.options import MAX_THREADS, LoadOptions
from bitnet_numba.settings import read_settings

if TYPE_CHECKING:
    from bitnet_numba.backends.cpu.backend import CPUBackend

MIN_THREAD_BYTES = 8 << 20
"""Packed weights a thread needs, by default: with fewer, waiting for the others takes longer than the work saves."""

_SMALL_HEADS = set(type_names(Kind.INT8))  # tensor types whose head needs no int8 copy
_COPY_HEADER = 16  # bytes of such a copy's row, besides its codes


def load_backend(source: ModelSource, options: LoadOptions) -> "CPUBackend":
    """Return a backend whose kernels are compiled.

    BitNetError if the context is too long for the model, a tensor cannot be read, or memory or threads are short.
    """
    try:
        return _load(source, options)
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        raise ResourceError(
            "threads: the system lets this process start no more; raise its limit (ulimit -u, or pids.max of its "
            "container), or load with fewer threads"
        ) from error


def _load(source: ModelSource, options: LoadOptions) -> "CPUBackend":
    context, with_int8_copy = options.context_of(source.config.max_seq_len), options.head == "exact"
    n_bytes = packed_bytes(source, with_int8_copy=with_int8_copy)
    threads, threads_reason = choose_threads(options, n_bytes)
    reserve = Reserve(n_bytes)
    from bitnet_numba.backends.cpu.backend import CPUBackend
    from bitnet_numba.backends.cpu.kernels.ternary import pack
    from bitnet_numba.backends.cpu.kernels.ternary.tile_check import check_tiles
    from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes
    from bitnet_numba.backends.cpu.weights import load_weights, new_rope_table

    pack(np.zeros((32, RUN // 4), np.uint8))  # start Numba while the reserve is still being page-faulted
    sizes = PaddedSizes.of(source.config)
    rope = new_rope_table(source, sizes, context)
    weights = load_weights(
        source, sizes, context, with_int8_copy=with_int8_copy, threads=threads, allocate=reserve.allocate, rope=rope
    )
    backend = CPUBackend(
        sizes,
        weights,
        threads=threads,
        threads_reason=threads_reason,
        fill_rope=rope.fill,
        kv_type=options.kv_type,
        max_context=context,
        head=options.head,
    )
    backend.compile()
    if cpu.has_tiles():
        check_tiles()
    return backend


def choose_threads(options: LoadOptions, n_bytes: int) -> CoreLimit:
    """Return the number of threads, and what decided it.

    As asked, else ``BITNET_NUM_THREADS``, else one per usable core, as far as there are ``MIN_THREAD_BYTES`` of the
    ``n_bytes`` of packed weights for each.
    """
    if options.threads:
        return CoreLimit(options.threads, "as asked")
    stated = read_settings().threads
    if stated:
        return CoreLimit(stated, "BITNET_NUM_THREADS")
    by_size = CoreLimit(max(1, n_bytes // MIN_THREAD_BYTES), "size of the model")
    return min(usable_cores(), by_size, CoreLimit(MAX_THREADS, "the most"), key=lambda limit: limit.cores)


def packed_bytes(source: ModelSource, *, with_int8_copy: bool) -> int:
    """Estimate the bytes of a model's packed weights and of the head's int8 copy, without padding."""
    shapes = expected_shapes(source.config, tied=source.tied)
    ternary = sum(packed_size(*shape) for role, shape in shapes.items() if role.name in LINEAR_ROLES)
    if not with_int8_copy or _SMALL_HEADS & source.tensor_types().keys():
        return ternary
    return ternary + source.config.vocab_size * (source.config.hidden_size + _COPY_HEADER)
