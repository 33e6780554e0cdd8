"""Many tokens on tiles: one instruction multiplies sixteen tokens with sixteen rows, 64 columns of each.

Activations are laid out as tiles first. Then each task is a panel of rows times a chunk of tokens that the second cache
holds: block after block of its columns is unpacked to tiles in the first cache, the next one while this one is
multiplied, since a tile that is loaded must not meet stores in flight.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.kernels.jit import TERNARY_TILES, jit
from bitnet_numba.backends.cpu.kernels.ternary.layout import LINE, LINES, ROWS, Activations, Bytes, Sums
from bitnet_numba.backends.cpu.packed_sizes import RUN
from bitnet_numba.backends.cpu.simd.memory import AHEAD, load_bytes, load_i32, prefetch, store_bytes, store_i32
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
FEW_BLOCKS, FEW_COLUMNS = 4, 128  # of up to a tile of tokens: blocks of rows in a panel, columns unpacked at once
MANY_BLOCKS, MANY_COLUMNS = 2, 512  # of more tokens
CODES = MANY_BLOCKS * ROWS * MANY_COLUMNS  # bytes of a block of columns, unpacked: a third of the first cache
CHUNK = 256  # tokens, whose activations stay in the second cache
WIDE_CHUNK, WIDE_COLUMNS = 128, 4096  # fewer tokens, from more columns on


class TileScratch(NamedTuple):
    """Memory that :func:`tile_worker` writes to besides its result, each array at the start of a cache line.

    Attributes
    ----------
    activations : int8[tokens * columns]
        Of all threads: tiles of 16 tokens by 64 columns, those of the first 16 tokens first.
    codes : int8[n_threads, 2 * CODES]
        A block of columns to multiply with, and the next.
    sums : int32[n_threads, CHUNK * MANY_BLOCKS * 16]
        Of a chunk of tokens, a panel's rows of each.
    tiles : uint8[n_threads, ...]
        From ``new_tiles``.
    """

    activations: Activations
    codes: npt.NDArray[np.int8]
    sums: Sums
    tiles: npt.NDArray[np.uint8]


def tile_scratch(n_threads: int, slots: int, columns: int) -> TileScratch:
    """Allocate the scratch memory of a thread pool, for products of up to so many slots and columns."""
    tokens = -(-slots // PAIR) * PAIR
    return TileScratch(
        activations=_on_lines((tokens * columns,), np.int8),
        codes=_on_lines((n_threads, 2 * CODES), np.int8),
        sums=_on_lines((n_threads, CHUNK * MANY_BLOCKS * ROWS), np.int32),
        tiles=new_tiles(n_threads),
    )


def _on_lines(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros that begin with a cache line: a row of a tile that lies in two takes twice as long to load."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    whole = np.zeros(n_bytes + LINE, np.uint8)
    start = -whole.ctypes.data % LINE
    return np.asarray(whole[start : start + n_bytes].view(dtype).reshape(shape))


class Product(NamedTuple):
    """What is multiplied, with what, and how it is cut; arrays are flat, scratch memory is this thread's.

    Attributes
    ----------
    n_blocks : int
        Blocks of sixteen rows in a panel.
    block_columns : int
        Columns that are unpacked at once.
    chunk : int
        Tokens that a panel is multiplied with before the next panel is.
    """

    weights: Bytes
    q_sum: Sums
    out: Sums
    rows: int
    columns: int
    n_blocks: int
    block_columns: int
    chunk: int
    activations: Activations
    codes: npt.NDArray[np.int8]
    sums: Sums
    tiles: npt.NDArray[np.uint8]


@jit
def tile_worker(
    ctx: ThreadContext,
    counts: npt.NDArray[np.int64],
    weights: Bytes,
    q: Activations,
    q_sum: Sums,
    out: Sums,
    scratch: TileScratch,
) -> None:
    """Multiply; up to a tile of tokens need a multiple of 64 rows."""
    if ctx.thread == 0:
        counts[TERNARY_TILES] += 1
    rows, columns = out.shape[1], q.shape[1]
    _lay_out(ctx, q.reshape(-1), columns, q_sum.size, scratch.activations)
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
        TILE_TOKENS if few else CHUNK if columns <= WIDE_COLUMNS else WIDE_CHUNK,
        scratch.activations,
        scratch.codes[own],
        scratch.sums[own],
        scratch.tiles[own],
    )
    configure_tiles(product.tiles)  # each thread has tiles of its own
    _take_tasks(ctx, product, few)
    release_tiles(product.tiles)


@jit
def _lay_out(ctx: ThreadContext, q: Activations, columns: int, n_tokens: int, tiled: Activations) -> None:
    """Copy every thread's share of the columns to tiles; what is left of the last tokens' tiles may hold anything."""
    for first in range(0, n_tokens, TILE_TOKENS):
        for column in range(ctx.thread * TILE_COLUMNS, columns, ctx.n_threads * TILE_COLUMNS):
            place = first * columns + column * TILE_TOKENS
            for token in range(min(TILE_TOKENS, n_tokens - first)):
                store_bytes(tiled, place + token * TILE_COLUMNS, load_bytes(q, (first + token) * columns + column))


@jit
def _take_tasks(ctx: ThreadContext, product: Product, few: bool) -> None:
    """Take a panel and a chunk of tokens, again and again; each next one is known early, to be unpacked early."""
    n_panels = product.rows // (product.n_blocks * ROWS)
    n_tasks = n_panels * ((product.q_sum.size + product.chunk - 1) // product.chunk)
    task, half = claim(ctx, n_tasks), 0
    if task >= 0:
        _unpack(product, task % n_panels, 0, half)
    while task >= 0:
        following = claim(ctx, n_tasks)
        panel, first = task % n_panels, task // n_panels * product.chunk
        n_tokens = min(product.chunk, product.q_sum.size - first)
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
        _write_sums(product, panel, first, n_tokens)
        task = following


@jit
def _unpack(product: Product, panel: int, start: int, place: int) -> None:
    """Write tiles of codes, 16 lines of four columns by 16 rows, from ``place`` on: first all of the first block."""
    n_columns = min(product.block_columns, product.columns - start)
    for block in range(product.n_blocks):
        at = ((panel * product.n_blocks + block) * product.columns + start) * (ROWS // 4)
        for _ in range(0, n_columns, RUN):
            for line in range(LINES):
                prefetch(product.weights, at + AHEAD)
                packed, to = load_bytes(product.weights, at), place + line * LINE
                store_bytes(product.codes, to, v.code_6(packed))
                store_bytes(product.codes, to + LINES * LINE, v.code_4(packed))  # 32 columns further on
                store_bytes(product.codes, to + 2 * LINES * LINE, v.code_2(packed))
                store_bytes(product.codes, to + 3 * LINES * LINE, v.code_0(packed))
                at += LINE
            place += RUN * ROWS


@jit
def _multiply_few(product: Product, start: int, codes: int) -> None:
    """Add a block of columns of four blocks of rows to tiles 0 to 3, which keep their sums from block to block."""
    tiles, n_columns = product.tiles, min(FEW_COLUMNS, product.columns - start)
    block = n_columns * ROWS
    if start == 0:
        zero_tile(tiles, 0)
        zero_tile(tiles, 1)
        zero_tile(tiles, 2)
        zero_tile(tiles, 3)
    for place in range(codes, codes + block, TILE_COLUMNS * ROWS):
        load_tile(tiles, 4, product.activations, start * TILE_TOKENS + place - codes, TILE_COLUMNS)
        load_tile(tiles, 5, product.codes, place, LINE)
        tile_dot(tiles, 0, 4, 5)
        load_tile(tiles, 6, product.codes, place + block, LINE)
        tile_dot(tiles, 1, 4, 6)
        load_tile(tiles, 7, product.codes, place + 2 * block, LINE)
        tile_dot(tiles, 2, 4, 7)
        load_tile(tiles, 5, product.codes, place + 3 * block, LINE)
        tile_dot(tiles, 3, 4, 5)
    if start + n_columns == product.columns:
        stride = 4 * FEW_BLOCKS * ROWS
        store_tile(tiles, 0, product.sums, 0, stride)
        store_tile(tiles, 1, product.sums, ROWS, stride)
        store_tile(tiles, 2, product.sums, 2 * ROWS, stride)
        store_tile(tiles, 3, product.sums, 3 * ROWS, stride)


@jit
def _multiply_many(product: Product, first: int, n_tokens: int, start: int, codes: int) -> None:
    """Add a block of columns of two blocks of rows to the sums of a chunk, two tiles of tokens at a time."""
    tiles, block = product.tiles, min(MANY_COLUMNS, product.columns - start) * ROWS
    further = TILE_TOKENS * product.columns  # the second tile of tokens
    for pair in range(0, n_tokens, PAIR):
        _begin_sums(product, pair, start)
        activations = (first + pair) * product.columns + start * TILE_TOKENS
        for at in range(0, block, TILE_COLUMNS * ROWS):
            load_tile(tiles, 4, product.activations, activations + at, TILE_COLUMNS)
            load_tile(tiles, 6, product.codes, codes + at, LINE)
            tile_dot(tiles, 0, 4, 6)
            load_tile(tiles, 7, product.codes, codes + at + block, LINE)
            tile_dot(tiles, 1, 4, 7)
            load_tile(tiles, 5, product.activations, activations + at + further, TILE_COLUMNS)
            tile_dot(tiles, 2, 5, 6)
            tile_dot(tiles, 3, 5, 7)
        sums, stride = pair * MANY_BLOCKS * ROWS, 4 * MANY_BLOCKS * ROWS
        store_tile(tiles, 0, product.sums, sums, stride)
        store_tile(tiles, 1, product.sums, sums + ROWS, stride)
        store_tile(tiles, 2, product.sums, sums + TILE_TOKENS * MANY_BLOCKS * ROWS, stride)
        store_tile(tiles, 3, product.sums, sums + TILE_TOKENS * MANY_BLOCKS * ROWS + ROWS, stride)


@jit
def _begin_sums(product: Product, pair: int, start: int) -> None:
    """Bring the sums of 32 tokens to tiles 0 to 3, or zeros before the first columns."""
    tiles, sums, stride = product.tiles, pair * MANY_BLOCKS * ROWS, 4 * MANY_BLOCKS * ROWS
    if start == 0:
        zero_tile(tiles, 0)
        zero_tile(tiles, 1)
        zero_tile(tiles, 2)
        zero_tile(tiles, 3)
    else:
        load_tile(tiles, 0, product.sums, sums, stride)
        load_tile(tiles, 1, product.sums, sums + ROWS, stride)
        load_tile(tiles, 2, product.sums, sums + TILE_TOKENS * MANY_BLOCKS * ROWS, stride)
        load_tile(tiles, 3, product.sums, sums + TILE_TOKENS * MANY_BLOCKS * ROWS + ROWS, stride)


@jit
def _write_sums(product: Product, panel: int, first: int, n_tokens: int) -> None:
    for token in range(n_tokens):
        surplus = v.broadcast_i32(product.q_sum[first + token])  # a code is its weight + 1
        for block in range(product.n_blocks):
            sums = load_i32(product.sums, (token * product.n_blocks + block) * ROWS)
            place = (first + token) * product.rows + (panel * product.n_blocks + block) * ROWS
            store_i32(product.out, place, v.sub_i32(sums, surplus))
