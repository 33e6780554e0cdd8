"""How many weights a second does ``smoothness`` quantize, beside what memory allows?

    python -m bench.smoothness --threads 2

The steps of 2 bits with minimum and maximum (ranges, codes with error sums, packing, dequantization) run over weights
that no cache holds; then the search of the clip ratio of least squared error. Each is bound by memory or by arithmetic:
the read test tells how fast memory could be.
"""

import time
from collections.abc import Callable

import numpy as np

from bench.common import interleaved, options, print_result, print_table
from bitnet_numba.backends.cpu.threads.read_test import ReadTest
from bitnet_numba.smoothness import kernels
from bitnet_numba.smoothness.jit import use_threads
from bitnet_numba.smoothness.quantizer import affine, cut

MINMAX_GOAL, MSE_GOAL = 300.0, 60.0  # million weights a second on two cores
BITS = 2
TOP = 3
BYTES_A_WEIGHT = {"ranges": 4.0, "quantize": 5.0, "pack": 1.25, "dequantize": 5.0}  # read and written


def steps(rows: int, columns: int) -> dict[str, Callable[[], None]]:
    """Return the steps over one tensor of normal weights, as calls that do each of them once."""
    weights = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    cuts = cut(weights.shape, 4, None)
    low, high = (np.empty((rows, 1), np.float32) for _ in range(2))
    bad, codes = np.empty(rows, np.uint8), np.empty((rows, columns), np.uint8)
    sums, back = np.empty((rows, 1, kernels.N_SUMS)), np.empty_like(weights)
    packed = np.empty((rows, columns * BITS // 8), np.uint8)
    bits, edges = weights.view(np.uint32), cuts.edges
    kernels.ranges(weights, bits, edges, low, high, bad)
    scale, zero = affine(low, high, TOP)
    chosen = np.empty((rows, 1))
    return {
        "ranges": lambda: kernels.ranges(weights, bits, edges, low, high, bad),
        "quantize": lambda: kernels.quantize(weights, scale, zero, TOP, edges, cuts.blocks, codes, sums),
        "pack": lambda: kernels.pack(codes, BITS, packed),
        "dequantize": lambda: kernels.dequantize(codes, scale, zero, edges, back),
        "mse search": lambda: kernels.clip_runs(weights, low, high, TOP, edges, chosen),
    }


def seconds(step: Callable[[], None]) -> Callable[[], float]:
    """Return a measure of a step, which has run once."""
    step()

    def measure() -> float:
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    return measure


def main() -> None:
    """Print a table and a JSON object."""
    parser = options(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    work = steps(arguments.rows, arguments.columns)
    taken = dict(zip(work, interleaved(arguments.rounds, *map(seconds, work.values())), strict=True))
    test = ReadTest(arguments.threads)
    [read] = interleaved(arguments.rounds, test)
    test.close()
    n_weights = arguments.rows * arguments.columns
    rate = {name: n_weights / taken[name] / 1e6 for name in taken}
    minmax = n_weights / sum(taken[name] for name in BYTES_A_WEIGHT) / 1e6
    mse = n_weights / sum(taken.values()) / 1e6
    print(f"{arguments.threads} threads, bound by memory at {read:.1f} GB/s where arithmetic is not the bound")
    shares = {name: rate[name] * BYTES_A_WEIGHT[name] / 1e3 / read for name in BYTES_A_WEIGHT}
    rows = [[name, f"{rate[name]:.0f}", f"{100 * shares[name]:.0f} %" if name in shares else ""] for name in rate]
    rows += [["all, range minmax", f"{minmax:.0f}", ""], ["all, range mse", f"{mse:.0f}", ""]]
    print_table(["step", "M weights/s", "of the read test"], rows)
    result = {"threads": arguments.threads, "read_gb_per_second": round(read, 2)}
    result |= {"minmax_m_weights_per_second": round(minmax, 1), "mse_m_weights_per_second": round(mse, 1)}
    reached = minmax >= MINMAX_GOAL and mse >= MSE_GOAL
    print_result(result | {"steps": {name: round(value, 1) for name, value in rate.items()}, "goals_reached": reached})


if __name__ == "__main__":
    main()
