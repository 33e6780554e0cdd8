"""How fast can this machine multiply and add floats? The wall that attention over long prompts runs against.

    python -m bench.fma --threads 2

Sums, factors and products stay in registers; attention takes the same operation.
"""

import time

import numpy as np
import numpy.typing as npt

from bench.common import interleaved, options, print_result
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.memory import load_f32, store_f32
from bitnet_numba.backends.cpu.simd.vector import add_f32, fma_f32, sub_f32, zero_f32
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, ThreadPool, barrier

TURNS = 5_000_000
N_SUMS = 8  # enough to hide the latency of an operation
LANES = 16


class FmaTest:
    """Multiply-adds of registers by a thread pool of threads.

    Parameters
    ----------
    n_threads : int
    """

    def __init__(self, n_threads: int) -> None:
        self._factors = np.linspace(0.1, 0.9, 2 * LANES, dtype=np.float32)
        self._sums = np.zeros((n_threads, LANES), np.float32)
        self._pool = ThreadPool(n_threads)
        self()

    def __call__(self) -> float:
        """Multiply for some ten milliseconds; return the speed in multiply-adds a second."""
        factors, sums = self._factors, self._sums

        def work(ctx: ThreadContext) -> None:
            _multiply(ctx, factors, sums)

        started = time.perf_counter()
        self._pool.run(work)
        return self._pool.n_threads * TURNS * N_SUMS * LANES / (time.perf_counter() - started)

    def close(self) -> None:
        """End the threads."""
        self._pool.close()


@jit
def _multiply(ctx: ThreadContext, factors: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    """Take each sum to its own fixed point, so that none grows and none is the same as another."""
    factor = load_f32(factors, 0)
    a, b, c, d = zero_f32(), factor, add_f32(factor, factor), load_f32(factors, LANES)
    e, f, g, h = sub_f32(a, b), sub_f32(a, c), sub_f32(a, d), add_f32(c, d)
    for _ in range(TURNS):
        a, b = fma_f32(a, factor, factor), fma_f32(b, factor, factor)
        c, d = fma_f32(c, factor, factor), fma_f32(d, factor, factor)
        e, f = fma_f32(e, factor, factor), fma_f32(f, factor, factor)
        g, h = fma_f32(g, factor, factor), fma_f32(h, factor, factor)
    of_all = add_f32(add_f32(add_f32(a, b), add_f32(c, d)), add_f32(add_f32(e, f), add_f32(g, h)))
    store_f32(out[ctx.thread], 0, of_all)
    barrier(ctx)


def main() -> None:
    """Print the speed."""
    parser = options(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    test = FmaTest(arguments.threads)
    [speed] = interleaved(arguments.rounds, test)
    test.close()
    gigas = speed / 1e9
    print(f"{arguments.threads} threads, {cpu.isa()}: {gigas:.0f} G multiply-adds/s (median of {arguments.rounds})")
    print_result({"threads": arguments.threads, "isa": cpu.isa(), "fma_giga_per_second": round(gigas, 1)})


if __name__ == "__main__":
    main()
