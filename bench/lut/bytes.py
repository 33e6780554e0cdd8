"""A byte is four codes, an index of a table of 256 sums in memory: any CPU can look those up."""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types

import bitnet_numba.backends.cpu.simd.vector as v
from bench.lut.shuffles import LINE, RUN_LINES, Bytes, pair_sums
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.packed_sizes import ROWS_PER_BLOCK
from bitnet_numba.backends.cpu.simd.memory import prefetch, store_i32
from bitnet_numba.backends.cpu.simd.operation import I8, I32, I64, Builder, Value, address, array_op
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, claim

LINES = 4  # whose tables stay in the first cache, 16 KB, while many rows pass by
ENTRIES = LINES * 4 * 256
TASK_BLOCKS = 40  # of sixteen rows, which share the filling of tables
PREFETCH_BLOCKS = 6  # of prefetch

Sums = npt.NDArray[np.int32]


@array_op
def add_word(
    _: Any, total: types.Integer, tables: types.Array, entry: types.Integer, weights: types.Array, at: types.Integer
) -> Any:
    """Add what the four bytes ``weights[at:]`` find in four neighbouring tables."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        word = b.load(address(context, b, signature.args[3], args[3], args[4], I32), align=1)
        total = args[0]
        for byte in range(4):
            code = b.zext(b.trunc(b.lshr(word, ir.Constant(I32, 8 * byte)), I8), I64)
            place = b.add(args[2], b.add(code, ir.Constant(I64, 256 * byte)))
            element = context.make_array(signature.args[1])(context, b, args[1]).data
            total = b.add(total, b.load(b.gep(element, [place])))
        return total

    return types.int32(types.int32, tables, types.intp, weights, types.intp), lower


@jit
def fill_tables(q: npt.NDArray[np.int8], first_line: int, tables: Sums) -> None:
    """Write the tables of ``LINES`` lines, one for each byte column."""
    for line in range(first_line, first_line + LINES):
        run, line_of_run = divmod(line, RUN_LINES)
        for byte in range(4):
            column = 128 * run + 4 * line_of_run + byte
            at = 256 * (4 * (line - first_line) + byte)
            lower = pair_sums(q[column + 64], q[column + 96])
            for half in range(16):
                upper = (half >> 2) * np.int32(q[column]) + (half & 3) * np.int32(q[column + 32])
                store_i32(tables, at + 16 * half, v.add_i32(lower, v.broadcast_i32(np.int32(upper))))


@jit
def bytes_product(
    ctx: ThreadContext, weights: Bytes, q: npt.NDArray[np.int8], q_sum: int, out: Sums, tables: Sums
) -> None:
    """Write what ``ternary_gemv`` writes. Tables are int32[n_threads, ENTRIES]."""
    own = tables[ctx.thread]
    n_blocks, block_lines = out.size // ROWS_PER_BLOCK, q.size // 16
    n_tasks = -(-n_blocks // TASK_BLOCKS)
    task = claim(ctx, n_tasks)
    while task >= 0:
        first, end = task * TASK_BLOCKS, min((task + 1) * TASK_BLOCKS, n_blocks)
        out[first * ROWS_PER_BLOCK : end * ROWS_PER_BLOCK] = -q_sum
        for line in range(0, block_lines, LINES):
            fill_tables(q, line, own)
            for block in range(first, end):
                _add_block(
                    weights, (block * block_lines + line) * LINE, block_lines * LINE, own, out, block * ROWS_PER_BLOCK
                )
        task = claim(ctx, n_tasks)


@jit
def _add_block(weights: Bytes, at: int, block_bytes: int, tables: Sums, out: Sums, first_row: int) -> None:
    for line in range(LINES):
        prefetch(weights, at + PREFETCH_BLOCKS * block_bytes + LINE * line)
    for row in range(ROWS_PER_BLOCK):
        total = out[first_row + row]
        for line in range(LINES):
            total = add_word(total, tables, 1024 * line, weights, at + LINE * line + 4 * row)
        out[first_row + row] = total
