"""How fast can this machine multiply codes by int8? The wall that reading a prompt runs against.

    BITNET_ISA=avx2 python -m bench.peak --threads 2

Sums, codes and activations stay in registers, or in tiles; the products are those of the kernels, in the form that the
instruction set has for them.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import cgutils

from bench.common import interleaved
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.memory import load_bytes, store_i32
from bitnet_numba.backends.cpu.simd.operation import array_op
from bitnet_numba.backends.cpu.simd.register_tile import add_to_sum, widen, zero_sums
from bitnet_numba.backends.cpu.simd.tile import (
    ROW_BYTES,
    TILE_ROWS,
    configure_tiles,
    new_tiles,
    release_tiles,
    tile_dot,
    zero_tile,
)
from bitnet_numba.backends.cpu.simd.types import U8x64
from bitnet_numba.backends.cpu.simd.vector import add_i32, zero_i32
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, ThreadPool, barrier

TURNS = 1_000_000
N_SUMS = 16 if cpu.vector_isa() == "avx512_vnni" else 6  # enough to hide a product's latency, few enough for registers
MACS = 64  # of one vector's products
TILE_TURNS = 200_000  # of four products, each of 16 tokens, 16 rows and 64 columns
TILE_MACS = TILE_ROWS * TILE_ROWS * ROW_BYTES


class PeakTest:
    """Products of registers by a thread pool of threads.

    Parameters
    ----------
    n_threads : int
    """

    def __init__(self, n_threads: int) -> None:
        self._activations = np.arange(64, dtype=np.uint8)
        self._sums = np.zeros((n_threads, 16), np.int32)
        self._tiles = new_tiles(n_threads)
        self._macs = n_threads * (4 * TILE_TURNS * TILE_MACS if cpu.has_tiles() else TURNS * N_SUMS * MACS)
        self._pool = ThreadPool(n_threads)
        self()

    def __call__(self) -> float:
        """Multiply for some ten milliseconds; return the speed in multiply-adds a second."""
        activations, sums, tiles = self._activations, self._sums, self._tiles

        def work(ctx: ThreadContext) -> None:
            if cpu.has_tiles():
                _multiply_tiles(ctx, tiles)
            else:
                _multiply(ctx, activations, sums)

        started = time.perf_counter()
        self._pool.run(work)
        return self._macs / (time.perf_counter() - started)

    def close(self) -> None:
        """End the threads."""
        self._pool.close()


@array_op
def _turn(_: Any, sums: Any, activations: Any) -> Any:
    """Add products to every sum. Its own bits serve as codes: a product that never changed would be computed once."""

    def lower(context: Any, b: Any, signature: Any, args: list[Any]) -> Any:
        before = cgutils.unpack_tuple(b, args[0])
        return context.make_tuple(b, sums, [add_to_sum(b, x, b.bitcast(x, U8x64.llvm), args[1]) for x in before])

    return sums(sums, U8x64), lower


@jit
def _multiply(ctx: ThreadContext, activations: npt.NDArray[np.uint8], out: npt.NDArray[np.int32]) -> None:
    sums, signed = zero_sums(N_SUMS), load_bytes(activations, 0)
    for _ in range(TURNS):
        sums = _turn(sums, signed)
    of_all = zero_i32()
    for total in widen(sums):  # each must be wanted, or the compiler leaves its products out
        of_all = add_i32(of_all, total)
    store_i32(out[ctx.thread], 0, of_all)
    barrier(ctx)


@jit
def _multiply_tiles(ctx: ThreadContext, tiles: npt.NDArray[np.uint8]) -> None:
    """Multiply two tiles of tokens with two of rows; an instruction on tiles is never left out."""
    own = tiles[ctx.thread]
    configure_tiles(own)
    zero_tile(own, 0)
    zero_tile(own, 1)
    zero_tile(own, 2)
    zero_tile(own, 3)
    for _ in range(TILE_TURNS):
        tile_dot(own, 0, 4, 6)
        tile_dot(own, 1, 4, 7)
        tile_dot(own, 2, 5, 6)
        tile_dot(own, 3, 5, 7)
    release_tiles(own)
    barrier(ctx)


def main() -> None:
    """Print the speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    test = PeakTest(arguments.threads)
    [speed] = interleaved(arguments.rounds, test)
    test.close()
    gigas = speed / 1e9
    print(f"{arguments.threads} threads, {cpu.isa()}: {gigas:.0f} G multiply-adds/s (median of {arguments.rounds})")
    print(json.dumps({"threads": arguments.threads, "isa": cpu.isa(), "peak_gmacs_per_second": round(gigas, 1)}))


if __name__ == "__main__":
    main()
