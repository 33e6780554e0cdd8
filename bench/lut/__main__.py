"""Would looking up sums of activations beat multiplying, on CPUs without a byte dot product?

    BITNET_ISA=avx2 python -m bench.lut --threads 2
    NUMBA_CPU_NAME=core2 NUMBA_CPU_FEATURES=+ssse3 python -m bench.lut --threads 1

Two lookup products, `bytes` and `shuffles` (where the compilation target has a byte shuffle), against the engine's
matrix-vector product, on the same copies of each linear layer of bitnet-b1.58-2B-4T, interleaved with a read test.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.common import interleaved, options, print_result, print_table
from bench.kernels import SHAPES, STREAM_BYTES
from bench.lut.bytes import ENTRIES, bytes_product
from bench.lut.shuffles import SHUFFLE, TABLE_BYTES, shuffles_product
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.registry import new_counts
from bitnet_numba.backends.cpu.kernels.ternary import ternary_gemv
from bitnet_numba.backends.cpu.memory import allocate
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.threads.read_test import ReadTest
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, ThreadPool, barrier

Bytes = npt.NDArray[np.uint8]
Activations = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]


@jit
def by_dot(
    ctx: ThreadContext, weights: Bytes, q: Activations, q_sum: int, out: Sums, counts: npt.NDArray[np.int64]
) -> None:
    for layer in range(len(weights)):
        ternary_gemv(ctx, counts, weights[layer], q, q_sum, out)
        barrier(ctx)


@jit
def by_bytes(ctx: ThreadContext, weights: Bytes, q: Activations, q_sum: int, out: Sums, tables: Sums) -> None:
    for layer in range(len(weights)):
        bytes_product(ctx, weights[layer], q, q_sum, out, tables)
        barrier(ctx)


@jit
def by_shuffles(ctx: ThreadContext, weights: Bytes, q: Activations, q_sum: int, out: Sums, tables: Bytes) -> None:
    for layer in range(len(weights)):
        shuffles_product(ctx, weights[layer], q, q_sum, out, tables)
        barrier(ctx)


def products(n_threads: int, columns: int) -> dict[str, tuple[Callable[..., None], npt.NDArray[Any]]]:
    """Return the products that this compilation target has, each with the memory that it works in."""
    found: dict[str, tuple[Callable[..., None], npt.NDArray[Any]]] = {
        "dot": (by_dot, new_counts()),
        "bytes": (by_bytes, np.zeros((n_threads, ENTRIES), np.int32)),
    }
    if SHUFFLE is not None:
        found["shuffles"] = by_shuffles, np.zeros((n_threads, columns * TABLE_BYTES), np.uint8)
    return found


def measure(pool: ThreadPool, rows: int, columns: int, rounds: int, read: Callable[[], float]) -> dict[str, float]:
    """Return GB/s of packed weights of each product, and of the read test, after comparing their results."""
    rng = np.random.default_rng(0)
    size = rows * columns // 4
    weights = np.asarray(allocate((STREAM_BYTES // size, size), np.uint8, "matrices"), np.uint8)
    weights[:] = sum(rng.integers(0, 3, size, np.uint8) << shift for shift in (0, 2, 4, 6))
    q = rng.integers(-128, 128, columns, np.int8)
    q_sum, outs, runs = int(q.sum(dtype=np.int64)), {}, {}
    for name, (product, memory) in products(pool.n_threads, columns).items():
        outs[name] = np.zeros(rows, np.int32)
        runs[name] = timed(pool, product, (weights, q, q_sum, outs[name], memory), weights.size)
        runs[name]()
        if not np.array_equal(outs[name], outs["dot"]):
            raise SystemExit(f"{name}: its sums differ from the dot product's")
    speeds = interleaved(rounds, *runs.values(), read)
    return dict(zip([*runs, "read"], speeds, strict=True))


def timed(pool: ThreadPool, product: Callable[..., None], arguments: tuple[Any, ...], size: int) -> Callable[[], float]:
    """Return a function that multiplies once and returns GB/s."""

    def run() -> float:
        started = time.perf_counter()
        pool.run(lambda ctx: product(ctx, *arguments))
        return size / (time.perf_counter() - started) / 1e9

    return run


def of_all(results: list[dict[str, float]]) -> dict[str, float]:
    """Return the speeds of all layers together, each as often as in the model: once."""
    sizes = [rows * columns for rows, columns in SHAPES.values()]
    times = {name: sum(size / result[name] for size, result in zip(sizes, results, strict=True)) for name in results[0]}
    return {name: sum(sizes) / seconds for name, seconds in times.items()}


def main() -> None:
    """Print a table and a JSON object."""
    parser = options(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    pool, read = ThreadPool(arguments.threads), ReadTest(arguments.threads)
    results = {name: measure(pool, *shape, arguments.rounds, read) for name, shape in SHAPES.items()}
    results["all"] = of_all(list(results.values()))
    for test in (pool, read):
        test.close()
    print(f"{arguments.threads} threads, {cpu.isa()}: GB/s of packed weights, medians of {arguments.rounds}")
    rows = [(layer, *(f"{speed:.2f}" for speed in speeds.values())) for layer, speeds in results.items()]
    print_table(("layer", *results["all"]), rows)
    rounded = {layer: {name: round(x, 2) for name, x in speeds.items()} for layer, speeds in results.items()}
    to_dot = {name: round(speed / results["all"]["dot"], 3) for name, speed in results["all"].items() if name != "read"}
    print_result({"isa": cpu.isa(), "threads": arguments.threads, "gb_per_second": rounded, "to_dot": to_dot})


if __name__ == "__main__":
    main()
