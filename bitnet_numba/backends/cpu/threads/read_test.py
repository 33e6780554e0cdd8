"""A read test: how fast this machine reads memory, the wall that decoding runs against.

Every thread adds up its share of an array that no cache holds, as two distant streams with prefetch: what the kernels
do, without their arithmetic.
"""

import time

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.memory import allocate
from bitnet_numba.backends.cpu.simd.memory import load_i32, prefetch, store_i32
from bitnet_numba.backends.cpu.simd.vector import add_i32, zero_i32
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, ThreadPool, barrier, claim

N_BYTES = 1 << 29
PREFETCH_ELEMENTS = 512  # int32s of prefetch
STEP = 32  # int32s a turn of each stream
TASK = 1 << 16  # int32s of each stream that a thread claims at once


class ReadTest:
    """A plain read of memory by a thread pool of threads.

    Parameters
    ----------
    n_threads : int
    """

    def __init__(self, n_threads: int) -> None:
        self._array = np.asarray(allocate((N_BYTES // 4,), np.int32, "read test"), np.int32)
        self._array[:] = 1  # untouched pages would all be the one page of zeros
        self._sums = np.zeros((n_threads, 16), np.int32)
        self._pool = ThreadPool(n_threads)
        self()

    def __call__(self) -> float:
        """Read everything once; return the speed in GB/s."""
        array, sums = self._array, self._sums

        def work(ctx: ThreadContext) -> None:
            _read(ctx, array, sums)

        started = time.perf_counter()
        self._pool.run(work)
        return N_BYTES / (time.perf_counter() - started) / 1e9

    def close(self) -> None:
        """End the threads."""
        self._pool.close()


@jit
def _read(ctx: ThreadContext, array: npt.NDArray[np.int32], sums: npt.NDArray[np.int32]) -> None:
    """Read two distant halves side by side, in tasks that are claimed and stolen as the kernels' are."""
    half = array.size // 2
    a = b = c = d = zero_i32()
    task = claim(ctx, half // TASK)
    while task >= 0:
        for i in range(task * TASK, (task + 1) * TASK, STEP):
            prefetch(array, i + PREFETCH_ELEMENTS)
            prefetch(array, i + 16 + PREFETCH_ELEMENTS)
            prefetch(array, i + half + PREFETCH_ELEMENTS)
            prefetch(array, i + half + 16 + PREFETCH_ELEMENTS)
            a, b = add_i32(a, load_i32(array, i)), add_i32(b, load_i32(array, i + 16))
            c, d = add_i32(c, load_i32(array, i + half)), add_i32(d, load_i32(array, i + half + 16))
        task = claim(ctx, half // TASK)
    store_i32(sums[ctx.thread], 0, add_i32(add_i32(a, b), add_i32(c, d)))
    barrier(ctx)
