"""Half a byte is two codes, an index of sixteen sums in a register: a byte shuffle looks up as many as it has bytes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_inline
from bitnet_numba.backends.cpu.packed_sizes import ROWS_PER_BLOCK
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.memory import PREFETCH_BYTES, load_bytes, prefetch, store_i32
from bitnet_numba.backends.cpu.simd.operation import I8, I32, Builder, Value, call, join, pick, splat, spread, vector_op
from bitnet_numba.backends.cpu.simd.types import I16x32, I32x16, U8x64
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, claim
from bitnet_numba.errors import UnsupportedError

LINE, RUN_LINES = 64, 8  # of the layout R16
LINE_COLUMNS = 16
TABLES = 4 * LINE  # bytes a line: two planes for the upper halves of its bytes, two for the lower
TABLE_BYTES = TABLES // LINE_COLUMNS  # a column
COLUMN_OF_LANE = (0, 2, 1, 3)  # of a line's four byte columns: the order in which AVX2 sorts them with least effort
LEAST = -512  # of two codes' sum: -128 * 2 * 2. Tables hold what is above it, ten bits in two planes of five
QUAD = 4 * LINE  # a byte holds the planes of four lines, eight lookups of at most 31
SPAN = 256 * QUAD  # and a word those of 256 quads

Bytes = npt.NDArray[np.uint8]


# ---- the tables ------------------------------------------------------------------------------------------------------
@vector_op(I32x16, types.int32, types.int32)
def pair_sums(b: Builder, first: Value, second: Value) -> Value:
    """What each pair of codes makes of two activations, by the pair's four bits: first and second times 0..3."""
    upper = ir.Constant(I32x16.llvm, [bits >> 2 for bits in range(16)])
    lower = ir.Constant(I32x16.llvm, [bits & 3 for bits in range(16)])
    return b.add(b.mul(spread(b, first, I32x16.llvm), upper), b.mul(spread(b, second, I32x16.llvm), lower))


@vector_op(I32x16, I32x16)
def low_plane(b: Builder, sums: Value) -> Value:
    return b.and_(b.sub(sums, splat(I32x16.llvm, LEAST)), splat(I32x16.llvm, 31))


@vector_op(I32x16, I32x16)
def high_plane(b: Builder, sums: Value) -> Value:
    return b.lshr(b.sub(sums, splat(I32x16.llvm, LEAST)), splat(I32x16.llvm, 5))


@jit
def fill_tables(q: npt.NDArray[np.int8], tables: Bytes) -> None:
    """Write the tables of every line of a block: a table of sixteen sums for each lane of a vector."""
    for line in range(q.size // LINE_COLUMNS):
        run, line_of_run = divmod(line, RUN_LINES)
        for lane in range(4):
            column = 128 * run + 4 * line_of_run + COLUMN_OF_LANE[lane]
            for half in range(2):
                at = TABLES * line + 2 * LINE * half + 16 * lane
                sums = pair_sums(q[column + 64 * half], q[column + 64 * half + 32])
                store_i32(tables, at, low_plane(sums))
                store_i32(tables, at + LINE, high_plane(sums))


# ---- looking up ------------------------------------------------------------------------------------------------------
_SHUFFLES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "avx512bw": ("llvm.x86.avx512.pshuf.b.512", 64),
        "avx2": ("llvm.x86.avx2.pshuf.b", 32),
        "ssse3": ("llvm.x86.ssse3.pshuf.b.128", 16),
        "neon": ("llvm.aarch64.neon.tbl1.v16i8", 16),
    }
)
"""Byte shuffles within lanes of sixteen, by the feature that each needs, and their width in bytes."""


def _shuffle() -> tuple[str, int] | None:
    """Return the widest shuffle of the compilation target, or ``None`` where it has none."""
    return next((shuffle for feature, shuffle in _SHUFFLES.items() if feature in cpu.target_features()), None)


SHUFFLE = _shuffle()


@vector_op(U8x64, U8x64, U8x64)
def look_up(b: Builder, tables: Value, indices: Value) -> Value:
    """In each lane of sixteen bytes the table's entries of the indices, which are 0..15."""
    if SHUFFLE is None:
        raise UnsupportedError(f"BITNET_ISA={cpu.isa()}: no byte shuffle; choose another instruction set")
    name, width = SHUFFLE
    parts = []
    for start in range(0, U8x64.llvm.count, width):
        lanes = list(range(start, start + width))
        parts.append(call(b, name, ir.VectorType(I8, width), pick(b, tables, lanes), pick(b, indices, lanes)))
    while len(parts) > 1:
        parts = [join(b, low, high) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@vector_op(U8x64, U8x64)
def in_order(b: Builder, line: Value) -> Value:
    """A line of R16, four bytes of each row, as four lanes: a byte of each of the sixteen rows."""
    return pick(b, line, [4 * row + column for column in COLUMN_OF_LANE for row in range(ROWS_PER_BLOCK)])


@vector_op(U8x64, U8x64)
def upper_halves(b: Builder, x: Value) -> Value:
    return b.lshr(x, splat(U8x64.llvm, 4))


@vector_op(U8x64, U8x64)
def lower_halves(b: Builder, x: Value) -> Value:
    return b.and_(x, splat(U8x64.llvm, 15))


# ---- adding up -------------------------------------------------------------------------------------------------------
@vector_op(U8x64)
def zero_bytes(b: Builder) -> Value:
    return splat(U8x64.llvm, 0)


@vector_op(I16x32)
def zero_words(b: Builder) -> Value:
    return splat(I16x32.llvm, 0)


@vector_op(U8x64, U8x64, U8x64)
def add_bytes(b: Builder, x: Value, y: Value) -> Value:
    return b.add(x, y)


@vector_op(I16x32, I16x32, U8x64)
def add_even_bytes(b: Builder, x: Value, y: Value) -> Value:
    return b.add(x, b.and_(b.bitcast(y, I16x32.llvm), splat(I16x32.llvm, 255)))


@vector_op(I16x32, I16x32, U8x64)
def add_odd_bytes(b: Builder, x: Value, y: Value) -> Value:
    return b.add(x, b.lshr(b.bitcast(y, I16x32.llvm), splat(I16x32.llvm, 8)))


@vector_op(I32x16, I16x32, I16x32)
def rows_of(b: Builder, even: Value, odd: Value) -> Value:
    """Add up the four lanes of unsigned sums of even and odd rows, and put the rows in order."""
    total = splat(I32x16.llvm, 0)
    for lane in range(4):
        rows = [8 * lane + row // 2 + row % 2 * I16x32.llvm.count for row in range(ROWS_PER_BLOCK)]
        mask = ir.Constant(ir.VectorType(I32, ROWS_PER_BLOCK), rows)
        total = b.add(total, b.zext(b.shuffle_vector(even, odd, mask), I32x16.llvm))
    return total


@vector_op(I32x16, I32x16)
def times_32(b: Builder, x: Value) -> Value:
    return b.shl(x, splat(I32x16.llvm, 5))


# ---- the product -----------------------------------------------------------------------------------------------------
@jit
def shuffles_product(
    ctx: ThreadContext, weights: Bytes, q: npt.NDArray[np.int8], q_sum: int, out: npt.NDArray[np.int32], tables: Bytes
) -> None:
    """Write what ``ternary_gemv`` writes. Tables are uint8[n_threads, 16 * columns]: each thread fills its own."""
    own = tables[ctx.thread]
    fill_tables(q, own)
    half = out.size // (2 * ROWS_PER_BLOCK)
    block_bytes = q.size // 4 * ROWS_PER_BLOCK
    offset = v.broadcast_i32(np.int32(q_sum - q.size // 2 * LEAST))
    block = claim(ctx, half)
    while block >= 0:
        sums_1, sums_2 = _two_blocks(weights, block * block_bytes, (half + block) * block_bytes, block_bytes, own)
        store_i32(out, block * ROWS_PER_BLOCK, v.sub_i32(sums_1, offset))
        store_i32(out, (half + block) * ROWS_PER_BLOCK, v.sub_i32(sums_2, offset))
        block = claim(ctx, half)


@jit
def _two_blocks(weights: Bytes, first: int, second: int, block_bytes: int, tables: Bytes) -> Any:
    """Two blocks share each load of a table, and read two distant streams."""
    totals_1 = totals_2 = v.zero_i32()
    zeros, nothing = zero_words(), zero_bytes()
    for span in range(0, block_bytes, SPAN):
        words_1 = words_2 = zeros, zeros, zeros, zeros
        for quad in range(span, min(span + SPAN, block_bytes), QUAD):
            bytes_1 = bytes_2 = nothing, nothing
            for line in range(quad, quad + QUAD, LINE):
                prefetch(weights, first + line + PREFETCH_BYTES)
                prefetch(weights, second + line + PREFETCH_BYTES)
                at = line // LINE * TABLES
                bytes_1 = _add_line(bytes_1, load_bytes(weights, first + line), tables, at)
                bytes_2 = _add_line(bytes_2, load_bytes(weights, second + line), tables, at)
            words_1, words_2 = _add_planes(words_1, bytes_1), _add_planes(words_2, bytes_2)
        totals_1, totals_2 = v.add_i32(totals_1, _rows(words_1)), v.add_i32(totals_2, _rows(words_2))
    return totals_1, totals_2


@jit_inline
def _add_line(planes: Any, line: Any, tables: Bytes, at: int) -> Any:
    low, high = planes
    ordered = in_order(line)
    upper, lower = upper_halves(ordered), lower_halves(ordered)
    low = add_bytes(low, look_up(load_bytes(tables, at), upper))
    high = add_bytes(high, look_up(load_bytes(tables, at + LINE), upper))
    low = add_bytes(low, look_up(load_bytes(tables, at + 2 * LINE), lower))
    high = add_bytes(high, look_up(load_bytes(tables, at + 3 * LINE), lower))
    return low, high


@jit_inline
def _add_planes(words: Any, planes: Any) -> Any:
    low_even, low_odd, high_even, high_odd = words
    low, high = planes
    low_even, low_odd = add_even_bytes(low_even, low), add_odd_bytes(low_odd, low)
    high_even, high_odd = add_even_bytes(high_even, high), add_odd_bytes(high_odd, high)
    return low_even, low_odd, high_even, high_odd


@jit_inline
def _rows(words: Any) -> Any:
    low_even, low_odd, high_even, high_odd = words
    return v.add_i32(rows_of(low_even, low_odd), times_32(rows_of(high_even, high_odd)))
