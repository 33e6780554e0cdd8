"""What would decoding gain from 1.6 bits a weight, five trits a byte? For CPUs with AVX-512 VBMI and VNNI.

    python -m bench.five_trits --threads 2

A byte is 81 a + 27 b + 9 c + 3 d + e with codes 0..2. Two lookups of 128 bytes make R16's byte of b, c, d and e; a is
found by comparing. The linear layers of bitnet-b1.58-2B-4T, 521 MB in R16, are multiplied in both layouts, interleaved
with a read test; a token is estimated as that time and the reading of the head's int8 copy, attention left out.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import bitnet_numba.simd.vector as v
from bench.common import options, print_result, print_table
from bench.kernels import SHAPES
from bench.read import ReadTest
from bitnet_numba.engine.memory import allocate
from bitnet_numba.kernels.jit import jit, jit_inline, new_counts
from bitnet_numba.kernels.ternary import gemv_worker
from bitnet_numba.simd import cpu
from bitnet_numba.simd.dot import dot
from bitnet_numba.simd.memory import AHEAD, broadcast_word, load_bytes, prefetch, store_i32
from bitnet_numba.simd.operation import Builder, Value, call, splat, vector_op
from bitnet_numba.simd.team import Crew, Team, barrier, claim
from bitnet_numba.simd.types import U8x64

N_LAYERS = 30
HEAD_BYTES = 128_256 * 2_560  # the head's int8 copy
ROWS, LINE, RUN, RUN_BYTES = 16, 64, 160, 512  # of 160 columns are eight lines, as R16 has them of 128
CODES = np.array([b // 27 % 3 << 6 | b // 9 % 3 << 4 | b // 3 % 3 << 2 | b % 3 for b in range(256)], np.uint8)

Bytes = npt.NDArray[np.uint8]
Activations = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]


# ---- the product -----------------------------------------------------------------------------------------------------
@vector_op(U8x64, U8x64, U8x64, U8x64)
def look_up(b: Builder, x: Value, low: Value, high: Value) -> Value:
    """Entries of a table of 128 bytes, by the lower seven bits of x."""
    return call(b, "llvm.x86.avx512.vpermi2var.qi.512", U8x64.llvm, low, x, high)


@vector_op(U8x64, U8x64, U8x64, U8x64)
def by_top_bit(b: Builder, x: Value, clear: Value, present: Value) -> Value:
    return b.select(b.icmp_signed("<", x, splat(U8x64.llvm, 0)), present, clear)


@vector_op(U8x64, U8x64)
def first_code(b: Builder, x: Value) -> Value:
    """The factor of 81."""
    zero, one, two = (splat(U8x64.llvm, code) for code in range(3))
    zero_or_one = b.select(b.icmp_unsigned(">=", x, splat(U8x64.llvm, 81)), one, zero)
    return b.select(b.icmp_unsigned(">=", x, splat(U8x64.llvm, 162)), two, zero_or_one)


@jit
def five_trits_worker(crew: Crew, weights: Bytes, q: Activations, q_sum: int, out: Sums, codes: Bytes) -> None:
    half = out.size // (2 * ROWS)
    block_bytes = q.size // 5 * ROWS
    block = claim(crew, half)
    while block >= 0:
        _two_blocks(weights, block, half + block, block_bytes, q, q_sum, out, codes)
        block = claim(crew, half)


@jit_inline
def _two_blocks(
    weights: Bytes, first: int, second: int, block_bytes: int, q: Activations, q_sum: int, out: Sums, codes: Bytes
) -> None:
    zero = v.zero_i32()
    sums_1 = zero, zero, zero, zero, zero
    sums_2 = zero, zero, zero, zero, zero
    at_1, at_2 = first * block_bytes, second * block_bytes
    tables = load_bytes(codes, 0), load_bytes(codes, 64), load_bytes(codes, 128), load_bytes(codes, 192)
    for run in range(0, block_bytes, RUN_BYTES):
        for line in range(0, RUN_BYTES, LINE):
            word = run // RUN_BYTES * RUN + line // ROWS
            prefetch(weights, at_1 + run + line + AHEAD)
            prefetch(weights, at_2 + run + line + AHEAD)
            sums_1 = _add_line(sums_1, load_bytes(weights, at_1 + run + line), tables, q, word)
            sums_2 = _add_line(sums_2, load_bytes(weights, at_2 + run + line), tables, q, word)
    store_i32(out, first * ROWS, _total(sums_1, q_sum))
    store_i32(out, second * ROWS, _total(sums_2, q_sum))


@jit_inline
def _add_line(sums: Any, line: Any, tables: Any, q: Activations, word: int) -> Any:
    s6, s4, s2, s0, s_first = sums
    table_0, table_1, table_2, table_3 = tables
    codes = by_top_bit(line, look_up(line, table_0, table_1), look_up(line, table_2, table_3))
    s6 = dot(s6, v.top_bit_pair(codes), broadcast_word(q, word))
    s4 = dot(s4, v.bit_pair_4(codes), broadcast_word(q, word + 32))
    s2 = dot(s2, v.bit_pair_2(codes), broadcast_word(q, word + 64))
    s0 = dot(s0, v.bit_pair_0(codes), broadcast_word(q, word + 96))
    s_first = dot(s_first, first_code(line), broadcast_word(q, word + 128))
    return s6, s4, s2, s0, s_first


@jit_inline
def _total(sums: Any, q_sum: int) -> Any:
    s6, s4, s2, s0, s_first = sums
    high = v.add_i32(v.shift_right_top(s6), v.shift_right_4(s4))
    codes = v.add_i32(v.add_i32(high, s_first), v.add_i32(v.shift_right_2(s2), s0))
    return v.sub_i32(codes, v.broadcast_i32(np.int32(q_sum)))


def pack(weights: npt.NDArray[np.int8]) -> Bytes:
    """Pack int8[rows, columns] of -1, 0, +1; rows a multiple of 32, columns of 160."""
    codes = (weights + 1).astype(np.uint8).reshape(-1, ROWS, weights.shape[1] // RUN, 5, 8, 4)
    factors = np.array([27, 9, 3, 1, 81], np.uint8).reshape(5, 1, 1)
    packed = (codes * factors).sum(axis=3, dtype=np.uint8)  # [block, row, run, line, byte]
    return np.ascontiguousarray(packed.transpose(0, 2, 3, 1, 4)).reshape(-1)


# ---- the measurement -------------------------------------------------------------------------------------------------
@jit
def all_r16(crew: Crew, weights: Bytes, q: Activations, out: Sums, counts: npt.NDArray[np.int64]) -> None:
    for layer in range(len(weights)):
        gemv_worker(crew, counts, weights[layer], q, 0, out)
        barrier(crew)


@jit
def all_five_trits(crew: Crew, weights: Bytes, q: Activations, out: Sums, codes: Bytes) -> None:
    for layer in range(len(weights)):
        five_trits_worker(crew, weights[layer], q, 0, out, codes)
        barrier(crew)


def matrices(bits: float) -> list[tuple[Bytes, Activations, Sums]]:
    """Return each shape's layers of random codes, activations, and room for sums."""
    rng, found = np.random.default_rng(0), []
    for rows, true_columns in SHAPES.values():
        columns = true_columns if bits == 2 else -(-true_columns // RUN) * RUN
        size = round(rows * columns * bits / 8)
        weights = np.asarray(allocate((N_LAYERS, size), np.uint8, "matrices"), np.uint8)
        four_codes = sum(rng.integers(0, 3, size, np.uint8) << shift for shift in (0, 2, 4, 6))
        weights[:] = four_codes if bits == 2 else rng.integers(0, 243, size, np.uint8)
        found.append((weights, rng.integers(-128, 128, columns, np.int8), np.zeros(rows, np.int32)))
    return found


def seconds(team: Team, product: Callable[..., None], layers: list[Any], memory: npt.NDArray[Any]) -> float:
    """Multiply every layer of every shape once."""
    started = time.perf_counter()
    for arrays in layers:
        team.run(lambda crew, arrays=arrays: product(crew, *arrays, memory))
    return time.perf_counter() - started


def main() -> None:
    """Print a table and a JSON object."""
    parser = options(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    if not {"avx512vbmi", "avx512vnni"} <= cpu.target_features():
        raise SystemExit("needs avx512vbmi and avx512vnni: run it on a CPU that has both, without BITNET_ISA")
    team, read, counts = Team(arguments.threads), ReadTest(arguments.threads), new_counts()
    layers = {"2 bits": matrices(2), "1.6 bits": matrices(1.6)}
    taken = []
    for _ in range(arguments.rounds + 1):
        r16 = seconds(team, all_r16, layers["2 bits"], counts)
        taken.append((r16, seconds(team, all_five_trits, layers["1.6 bits"], CODES), read()))
    for test in (team, read):
        test.close()
    r16, five, gb_per_second = (statistics.median(column) for column in zip(*taken[1:], strict=True))
    head = HEAD_BYTES / gb_per_second / 1e9
    gain = (r16 + head) / (five + head) - 1
    rows = []
    for (name, of_layers), time_taken in zip(layers.items(), (r16, five), strict=True):
        size = sum(weights.size for weights, *_ in of_layers)
        share = size / time_taken / 1e9 / gb_per_second
        token = f"{1e3 * (time_taken + head):.2f}"
        rows.append((name, f"{size / 1e6:.0f}", f"{1e3 * time_taken:.2f}", f"{share:.0%}", token))
    print_table(("layout", "MB", "linear ms", "of read", "token ms"), rows)
    print(f"a token would gain {gain:.1%} on {arguments.threads} threads that read {gb_per_second:.1f} GB/s")
    times = {"r16_seconds": round(r16, 5), "five_trits_seconds": round(five, 5)}
    print_result(
        {"threads": arguments.threads, **times, "read_gb_per_second": round(gb_per_second, 2), "gain": round(gain, 3)}
    )


if __name__ == "__main__":
    main()
