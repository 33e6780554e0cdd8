"""How near do the ternary products come to what bounds them?

    python -m bench.kernels
    BITNET_ISA=avx2 python -m bench.kernels --threads 2

One token is bound by the speed of memory, many by that of multiplying, a few by the slower of the two. Each linear
layer of bitnet-b1.58-2B-4T is multiplied from more copies than caches hold, and a read test and a peak loop of the same
process are interleaved with it.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.common import interleaved
from bench.peak import PeakTest
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.registry import new_counts
from bitnet_numba.backends.cpu.kernels.ternary import (
    TOKENS,
    GemmScratch,
    gemm_scratch,
    pack,
    ternary_gemm,
    ternary_gemv,
)
from bitnet_numba.backends.cpu.memory import allocate
from bitnet_numba.backends.cpu.packed_sizes import packed_size
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.threads.read_test import ReadTest
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, ThreadPool, barrier

SHAPES = {"qkv": (3840, 2560), "o": (2560, 2560), "gate_up": (13824, 2560), "down": (2560, 6912)}  # rows, columns
TOKEN_COUNTS = (1, 4, 8, 16, 128, 512)
STREAM_BYTES = 160 << 20  # of copies: several times the last cache
MACS_PER_MEASUREMENT = 20e9  # enough for some ten milliseconds


class Layers:
    """Copies of one layer's matrix, and activations to multiply them with.

    Parameters
    ----------
    pool : ThreadPool
    rows, columns : int
    n_tokens : int
    """

    def __init__(self, pool: ThreadPool, rows: int, columns: int, n_tokens: int) -> None:
        rng = np.random.default_rng(0)
        size, macs = packed_size(rows, columns), rows * columns * n_tokens
        n_layers = max(1, min(STREAM_BYTES // size, round(MACS_PER_MEASUREMENT / macs)))
        weights = np.asarray(allocate((n_layers, size), np.uint8, "matrices"), np.uint8)
        codes = rng.integers(0, 3, (4, rows, columns // 4), np.uint8)
        weights[:] = pack(codes[0] << 6 | codes[1] << 4 | codes[2] << 2 | codes[3])
        slots = 1 if n_tokens == 1 else -(-n_tokens // TOKENS) * TOKENS
        q = rng.integers(-128, 128, (slots, columns), np.int8)
        q_sum, out = np.zeros(n_tokens, np.int32), np.zeros((n_tokens, rows), np.int32)
        arrays = new_counts(), weights, q, q_sum, gemm_scratch(pool.n_threads, slots, columns), out
        self.bytes, self.macs = weights.size, n_layers * macs
        self._pool, self._work = pool, lambda ctx: _multiply(ctx, *arrays)
        self()

    def __call__(self) -> float:
        """Multiply everything once; return the seconds."""
        started = time.perf_counter()
        self._pool.run(self._work)
        return time.perf_counter() - started


@jit
def _multiply(
    ctx: ThreadContext,
    counts: npt.NDArray[np.int64],
    weights: npt.NDArray[np.uint8],
    q: npt.NDArray[np.int8],
    q_sum: npt.NDArray[np.int32],
    scratch: GemmScratch,
    out: npt.NDArray[np.int32],
) -> None:
    for layer in range(len(weights)):
        if len(out) == 1:
            ternary_gemv(ctx, counts, weights[layer], q[0], q_sum[0], out[0])
        else:
            ternary_gemm(ctx, counts, weights[layer], q, q_sum, scratch, out)
        barrier(ctx)


def measure(layers: Layers, read: Callable[[], float], peak: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Return what a layer's product reaches of its two bounds."""
    seconds, gb_per_second, macs_per_second = interleaved(rounds, layers, read, peak)
    reading, multiplying = layers.bytes / gb_per_second / 1e9, layers.macs / macs_per_second
    return {
        "gb_per_second": round(layers.bytes / seconds / 1e9, 2),
        "gmacs_per_second": round(layers.macs / seconds / 1e9, 1),
        "read_share": round(reading / seconds, 3),
        "mac_share": round(multiplying / seconds, 3),
        "bound": "memory" if reading > multiplying else "arithmetic",
        "seconds_per_mac": seconds / layers.macs,
    }


def all_shapes(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the shares of all layers together, each as often as in the model: once."""
    macs = [rows * columns for rows, columns in SHAPES.values()]
    seconds = [n * result["seconds_per_mac"] for n, result in zip(macs, results, strict=True)]
    of_all: dict[str, Any] = {"bound": results[0]["bound"]}
    for share in ("read_share", "mac_share"):
        at_best = sum(result[share] * time for result, time in zip(results, seconds, strict=True))
        of_all[share] = round(at_best / sum(seconds), 3)
    return of_all


def measure_threads(n_threads: int, token_counts: list[int], rounds: int) -> list[dict[str, Any]]:
    """Print a table of all products on ``n_threads``, and return its rows."""
    pool, read, peak = ThreadPool(n_threads), ReadTest(n_threads), PeakTest(n_threads)
    table = []
    for n_tokens in token_counts:
        results = []
        for name, (rows, columns) in SHAPES.items():
            result = measure(Layers(pool, rows, columns, n_tokens), read, peak, rounds)
            results.append(result)
            macs = {"macs_per_token": rows * columns}
            table.append({"threads": n_threads, "tokens": n_tokens, "layer": name, **macs, **result})
            print_row(table[-1])
        table.append({"threads": n_threads, "tokens": n_tokens, "layer": "all", **all_shapes(results)})
        print_row(table[-1])
    for test in (pool, read, peak):
        test.close()
    return table


def print_row(row: dict[str, Any]) -> None:
    """Print one product."""
    speeds = f"{row['gb_per_second']:8.1f}{row['gmacs_per_second']:9.0f}" if "gb_per_second" in row else " " * 17
    shares = f"{row['read_share']:9.0%}{row['mac_share']:9.0%}"
    print(f"{row['threads']:>7}{row['tokens']:>7}  {row['layer']:8}{speeds}{shares}  {row['bound']}", flush=True)


def main() -> None:
    """Print a table and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKEN_COUNTS))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("shares of the read test's GB/s and of the peak loop's multiply-adds; the greater one bounds")
    print(f"{'threads':>7}{'tokens':>7}  {'layer':8}{'GB/s':>8}{'GMAC/s':>9}{'of read':>9}{'of peak':>9}  bound by")
    table = [row for n in arguments.threads for row in measure_threads(n, arguments.tokens, arguments.rounds)]
    for row in table:
        row.pop("seconds_per_mac", None)
    print(json.dumps({"isa": cpu.isa(), "products": table}))


if __name__ == "__main__":
    main()
