"""Ternary matrix times many tokens on AMX tiles: an instruction multiplies 16 tokens, 16 rows and 64 columns.

Activations are rearranged as tiles first. Then each task is a panel of rows times as many tokens as the L2 cache holds:
block after block of its columns is unpacked to tiles in the L1 cache, the next one while this one is multiplied, since
a tile that is loaded must not meet stores in flight.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Bytes, Int8s, Int32s
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_separate
from bitnet_numba.backends.cpu.kernels.registry import Counts, Kernel
from bitnet_numba.backends.cpu.kernels.ternary.layout import LINE, LINES
from bitnet_numba.backends.cpu.packed_sizes import ROWS_PER_BLOCK, RUN, WORD
from bitnet_numba.backends.cpu.simd.memory import PREFETCH_BYTES, load_bytes, load_i32, prefetch, store_bytes, store_i32
from bitnet_numba.backends.cpu.simd.tile import (
    ROW_BYTES,
    TILE_ROWS,
    configure_tiles,
    load_tile,
    new_tiles,
    release_tiles,
    store_tile,
    tile_dot,
    zero_tile,
)
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier, claim

TILE_TOKENS, TILE_COLUMNS = TILE_ROWS, ROW_BYTES
PAIR = 2 * TILE_TOKENS  # tokens that share each load of codes, where there are more than a tile has
FEW_BLOCKS, FEW_COLUMNS = 4, 128  # up to 16 tokens: blocks of rows in a panel, columns unpacked at once
MANY_BLOCKS, MANY_COLUMNS = 2, 512  # more tokens
CODES = MANY_BLOCKS * ROWS_PER_BLOCK * MANY_COLUMNS  # bytes of a block of columns, unpacked: a third of the L1 cache
TOKENS_PER_TASK = 256  # whose activations stay in the L2 cache
WIDE_TOKENS_PER_TASK, WIDE_COLUMNS = 128, 4096  # fewer tokens above this many columns


class TileScratch(NamedTuple):
    """Scratch memory of :func:`ternary_gemm_tiles`, each array at the start of a cache line."""

    activations: Int8s  # [tokens * columns], of all threads: tiles of 16 tokens by 64 columns, the first tokens' first
    codes: Int8s  # [n_threads, 2 * CODES]: a block of columns to multiply by, and the next
    acc: Int32s  # [n_threads, TOKENS_PER_TASK * MANY_BLOCKS * 16]: a panel's rows of each token of a task
    tiles: Bytes  # [n_threads, ...]: from new_tiles


def tile_scratch(n_threads: int, slots: int, columns: int) -> TileScratch:
    """Allocate the scratch memory of products of up to ``slots`` tokens and ``columns``."""
    tokens = -(-slots // PAIR) * PAIR
    return TileScratch(
        activations=_on_lines((tokens * columns,), np.int8),
        codes=_on_lines((n_threads, 2 * CODES), np.int8),
        acc=_on_lines((n_threads, TOKENS_PER_TASK * MANY_BLOCKS * ROWS_PER_BLOCK), np.int32),
        tiles=new_tiles(n_threads),
    )


def _on_lines(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros aligned to a cache line: a tile's row in two lines takes twice as long to load."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    whole = np.zeros(n_bytes + LINE, np.uint8)
    start = -whole.ctypes.data % LINE
    return np.asarray(whole[start : start + n_bytes].view(dtype).reshape(shape))


class Product(NamedTuple):
    """The operands and their tiling; arrays are flat, scratch memory is this thread's."""

    weights: Bytes
    q_sum: Int32s
    out: Int32s
    rows: int
    columns: int
    n_blocks: int  # of sixteen rows in a panel
    block_columns: int  # columns that are unpacked at once
    task_tokens: int  # tokens that a panel is multiplied by in one task
    activations: Int8s
    codes: Int8s
    acc: Int32s
    tiles: Bytes


@jit_separate
def ternary_gemm_tiles(
    ctx: ThreadContext,
    counts: Counts,
    weights: Bytes,
    q: Int8s,
    q_sum: Int32s,
    scratch: TileScratch,
    out: Int32s,
) -> None:
    """Multiply with AMX tiles; parameters as for ``ternary_gemm``, but up to 16 tokens need a multiple of 64 rows."""
    if ctx.thread == 0:
        counts[Kernel.TERNARY_GEMM_TILES] += 1
    rows, columns = out.shape[1], q.shape[1]
    _tile_activations(ctx, q.reshape(-1), columns, q_sum.size, scratch.activations)
    barrier(ctx)
    few = q_sum.size <= TILE_TOKENS
    own = ctx.thread
    product = Product(
        weights,
        q_sum,
        out.reshape(-1),
        rows,
        columns,
        FEW_BLOCKS if few else MANY_BLOCKS,
        FEW_COLUMNS if few else MANY_COLUMNS,
        TILE_TOKENS if few else TOKENS_PER_TASK if columns <= WIDE_COLUMNS else WIDE_TOKENS_PER_TASK,
        scratch.activations,
        scratch.codes[own],
        scratch.acc[own],
        scratch.tiles[own],
    )
    configure_tiles(product.tiles)  # each thread has tiles of its own
    _take_tasks(ctx, product, few)
    release_tiles(product.tiles)


@jit
def _tile_activations(ctx: ThreadContext, q: Int8s, columns: int, n_tokens: int, out: Int8s) -> None:
    """Copy each thread's share of the columns to tiles; the rows after the last token keep what they hold."""
    for first in range(0, n_tokens, TILE_TOKENS):
        for column in range(ctx.thread * TILE_COLUMNS, columns, ctx.n_threads * TILE_COLUMNS):
            at = first * columns + column * TILE_TOKENS
            for token in range(min(TILE_TOKENS, n_tokens - first)):
                store_bytes(out, at + token * TILE_COLUMNS, load_bytes(q, (first + token) * columns + column))


@jit
def _take_tasks(ctx: ThreadContext, product: Product, few: bool) -> None:
    """Take task after task; the next one is claimed early, so that its codes are unpacked during this one."""
    n_panels = product.rows // (product.n_blocks * ROWS_PER_BLOCK)
    n_tasks = n_panels * ((product.q_sum.size + product.task_tokens - 1) // product.task_tokens)
    task, half = claim(ctx, n_tasks), 0
    if task >= 0:
        _unpack(product, task % n_panels, 0, half)
    while task >= 0:
        following = claim(ctx, n_tasks)
        panel, first = task % n_panels, task // n_panels * product.task_tokens
        n_tokens = min(product.task_tokens, product.q_sum.size - first)
        for start in range(0, product.columns, product.block_columns):
            if start + product.block_columns < product.columns:
                _unpack(product, panel, start + product.block_columns, CODES - half)
            elif following >= 0:
                _unpack(product, following % n_panels, 0, CODES - half)
            if few:
                _multiply_few(product, start, half)
            else:
                _multiply_many(product, first, n_tokens, start, half)
            half = CODES - half
        _write_out(product, panel, first, n_tokens)
        task = following


@jit
def _unpack(product: Product, panel: int, start: int, to: int) -> None:
    """Write tiles of codes, 16 lines of four columns by 16 rows, to ``codes[to:]``: first all of the first block."""
    n_columns = min(product.block_columns, product.columns - start)
    for block in range(product.n_blocks):
        at = ((panel * product.n_blocks + block) * product.columns + start) * (ROWS_PER_BLOCK // WORD)
        for _ in range(0, n_columns, RUN):
            for line in range(LINES):
                prefetch(product.weights, at + PREFETCH_BYTES)
                packed, line_to = load_bytes(product.weights, at), to + line * LINE
                store_bytes(product.codes, line_to, v.code_6(packed))
                store_bytes(product.codes, line_to + LINES * LINE, v.code_4(packed))  # 32 columns further on
                store_bytes(product.codes, line_to + 2 * LINES * LINE, v.code_2(packed))
                store_bytes(product.codes, line_to + 3 * LINES * LINE, v.code_0(packed))
                at += LINE
            to += RUN * ROWS_PER_BLOCK


@jit
def _multiply_few(product: Product, start: int, codes: int) -> None:
    """Add a block of columns of four blocks of rows to tiles 0 to 3, which keep their values from block to block."""
    tiles, n_columns = product.tiles, min(FEW_COLUMNS, product.columns - start)
    block = n_columns * ROWS_PER_BLOCK
    if start == 0:
        zero_tile(tiles, 0)
        zero_tile(tiles, 1)
        zero_tile(tiles, 2)
        zero_tile(tiles, 3)
    for at in range(codes, codes + block, TILE_COLUMNS * ROWS_PER_BLOCK):
        load_tile(tiles, 4, product.activations, start * TILE_TOKENS + at - codes, TILE_COLUMNS)
        load_tile(tiles, 5, product.codes, at, LINE)
        tile_dot(tiles, 0, 4, 5)
        load_tile(tiles, 6, product.codes, at + block, LINE)
        tile_dot(tiles, 1, 4, 6)
        load_tile(tiles, 7, product.codes, at + 2 * block, LINE)
        tile_dot(tiles, 2, 4, 7)
        load_tile(tiles, 5, product.codes, at + 3 * block, LINE)
        tile_dot(tiles, 3, 4, 5)
    if start + n_columns == product.columns:
        stride = 4 * FEW_BLOCKS * ROWS_PER_BLOCK
        store_tile(tiles, 0, product.acc, 0, stride)
        store_tile(tiles, 1, product.acc, ROWS_PER_BLOCK, stride)
        store_tile(tiles, 2, product.acc, 2 * ROWS_PER_BLOCK, stride)
        store_tile(tiles, 3, product.acc, 3 * ROWS_PER_BLOCK, stride)


@jit
def _multiply_many(product: Product, first: int, n_tokens: int, start: int, codes: int) -> None:
    """Add a block of columns of two blocks of rows to a task's accumulators, two tiles of tokens at a time."""
    tiles, block = product.tiles, min(MANY_COLUMNS, product.columns - start) * ROWS_PER_BLOCK
    further = TILE_TOKENS * product.columns  # the second tile of tokens
    for pair in range(0, n_tokens, PAIR):
        _load_acc(product, pair, start)
        activations = (first + pair) * product.columns + start * TILE_TOKENS
        for at in range(0, block, TILE_COLUMNS * ROWS_PER_BLOCK):
            load_tile(tiles, 4, product.activations, activations + at, TILE_COLUMNS)
            load_tile(tiles, 6, product.codes, codes + at, LINE)
            tile_dot(tiles, 0, 4, 6)
            load_tile(tiles, 7, product.codes, codes + at + block, LINE)
            tile_dot(tiles, 1, 4, 7)
            load_tile(tiles, 5, product.activations, activations + at + further, TILE_COLUMNS)
            tile_dot(tiles, 2, 5, 6)
            tile_dot(tiles, 3, 5, 7)
        acc, stride = pair * MANY_BLOCKS * ROWS_PER_BLOCK, 4 * MANY_BLOCKS * ROWS_PER_BLOCK
        store_tile(tiles, 0, product.acc, acc, stride)
        store_tile(tiles, 1, product.acc, acc + ROWS_PER_BLOCK, stride)
        store_tile(tiles, 2, product.acc, acc + TILE_TOKENS * MANY_BLOCKS * ROWS_PER_BLOCK, stride)
        store_tile(tiles, 3, product.acc, acc + TILE_TOKENS * MANY_BLOCKS * ROWS_PER_BLOCK + ROWS_PER_BLOCK, stride)


@jit
def _load_acc(product: Product, pair: int, start: int) -> None:
    """Load the accumulators of 32 tokens into tiles 0 to 3; zeros before the first columns."""
    tiles, acc, stride = product.tiles, pair * MANY_BLOCKS * ROWS_PER_BLOCK, 4 * MANY_BLOCKS * ROWS_PER_BLOCK
    if start == 0:
        zero_tile(tiles, 0)
        zero_tile(tiles, 1)
        zero_tile(tiles, 2)
        zero_tile(tiles, 3)
    else:
        load_tile(tiles, 0, product.acc, acc, stride)
        load_tile(tiles, 1, product.acc, acc + ROWS_PER_BLOCK, stride)
        load_tile(tiles, 2, product.acc, acc + TILE_TOKENS * MANY_BLOCKS * ROWS_PER_BLOCK, stride)
        load_tile(tiles, 3, product.acc, acc + TILE_TOKENS * MANY_BLOCKS * ROWS_PER_BLOCK + ROWS_PER_BLOCK, stride)


@jit
def _write_out(product: Product, panel: int, first: int, n_tokens: int) -> None:
    for token in range(n_tokens):
        excess = v.broadcast_i32(product.q_sum[first + token])  # a code is its weight + 1
        for block in range(product.n_blocks):
            acc = load_i32(product.acc, (token * product.n_blocks + block) * ROWS_PER_BLOCK)
            at = (first + token) * product.rows + (panel * product.n_blocks + block) * ROWS_PER_BLOCK
            store_i32(product.out, at, v.sub_i32(acc, excess))
