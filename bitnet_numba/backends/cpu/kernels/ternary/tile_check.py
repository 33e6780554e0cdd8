"""Check at load that AMX tiles compute what vectors do on this CPU."""

import numpy as np

from bitnet_numba.backends.cpu.array_types import Bytes, Int8s, Int32s
from bitnet_numba.backends.cpu.compiler.by_reference import by_reference
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.registry import Counts, new_counts
from bitnet_numba.backends.cpu.kernels.ternary.gemm import GemmScratch, gemm_scratch, ternary_gemm_registers
from bitnet_numba.backends.cpu.kernels.ternary.layout import pack, pack_r16
from bitnet_numba.backends.cpu.kernels.ternary.tiles import FEW_BLOCKS, MANY_COLUMNS, ternary_gemm_tiles
from bitnet_numba.backends.cpu.packed_sizes import RUN
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.tile import TILE_ROWS
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, alone, barrier
from bitnet_numba.errors import UnsupportedError

_ROWS, _COLUMNS = FEW_BLOCKS * TILE_ROWS, MANY_COLUMNS + RUN  # two blocks of columns, one of them short
_SLOTS = (TILE_ROWS, 40)  # one tile of tokens, and more


def check_tiles() -> None:
    """Multiply small matrices on tiles and by vectors, both of which are exact; UnsupportedError if they differ."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (4, _ROWS, _COLUMNS // 4)).astype(np.uint8)
    i2s = codes[0] << 6 | codes[1] << 4 | codes[2] << 2 | codes[3]
    for slots in _SLOTS:
        q = rng.integers(-128, 128, (slots, _COLUMNS)).astype(np.int8)
        of_tiles, of_vectors = _products(i2s, q)
        if not np.array_equal(of_tiles, of_vectors):
            raise UnsupportedError(
                f"{cpu.isa()}: {np.count_nonzero(of_tiles != of_vectors):,} of {of_tiles.size:,} sums that tiles have "
                "computed are wrong; set BITNET_ISA=avx512_vnni to do without tiles, and report it"
            )


def _products(i2s: Bytes, q: Int8s) -> tuple[Int32s, Int32s]:
    """Return the products that tiles compute, and those that vectors compute."""
    q_sum = q.sum(axis=1, dtype=np.int32)
    of_tiles, of_vectors = np.zeros((2, len(q), _ROWS), np.int32)
    r16, packed = pack_r16(i2s), pack(i2s)
    r16.flags.writeable = packed.flags.writeable = False  # as in a step: one compilation serves both
    multiply_both(alone(), new_counts(), (r16, packed), q, q_sum, gemm_scratch(1, *q.shape), (of_tiles, of_vectors))
    return of_tiles, of_vectors


@jit
def multiply_both(
    ctx: ThreadContext,
    counts: Counts,
    weights: tuple[Bytes, Bytes],
    q: Int8s,
    q_sum: Int32s,
    scratch: GemmScratch,
    out: tuple[Int32s, Int32s],
) -> None:
    """Call both kernels as a step does, with scratch memory by reference."""
    reference = by_reference(scratch)
    ternary_gemm_tiles(ctx, counts, weights[0], q, q_sum, reference.tiles, out[0])
    barrier(ctx)
    ternary_gemm_registers(ctx, counts, weights[1], q, q_sum, reference, out[1])
