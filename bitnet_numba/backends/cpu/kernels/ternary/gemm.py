"""Ternary matrix times many tokens (prefill, batches): bound by arithmetic, so each load serves many products.

Where the CPU has AMX tiles, those take over from a few tokens on. Elsewhere a panel of one or two blocks of rows, whose
codes stay in the L1 cache, is multiplied by all tokens, a register tile of them at a time.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.array_types import Bytes, Int8s, Int32s, Numbers
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_separate
from bitnet_numba.backends.cpu.kernels.registry import Counts, Kernel
from bitnet_numba.backends.cpu.kernels.ternary.layout import FIFTH, GROUP_RUNS, LINES
from bitnet_numba.backends.cpu.kernels.ternary.tiles import FEW_BLOCKS, TileScratch, ternary_gemm_tiles, tile_scratch
from bitnet_numba.backends.cpu.packed_sizes import FIVE_TRITS, GROUP, ROWS_PER_BLOCK, RUN, WORD
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.memory import store_i32
from bitnet_numba.backends.cpu.simd.register_tile import (
    SUM_COLUMNS,
    add_products,
    add_widened,
    load_codes,
    load_trits,
    store_codes,
    widen,
    zero_sums,
)
from bitnet_numba.backends.cpu.simd.tile import TILE_ROWS
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, claim


class RegisterTile(NamedTuple):
    """How an instruction set spends its registers."""

    blocks: int  # of sixteen rows in a panel: 1 or 2
    tokens: int
    few_tokens: int  # of the tile for the remaining ones
    unpacks: bool  # whether codes are unpacked once for all tiles, not for each: it pays where a tile is small


REGISTER_TILES: Mapping[str, RegisterTile] = MappingProxyType(
    {
        "avx512_vnni": RegisterTile(2, 8, 4, unpacks=False),
        "avx_vnni": RegisterTile(1, 6, 4, unpacks=True),
        "avx2": RegisterTile(1, 4, 2, unpacks=True),
        "neon_dotprod": RegisterTile(1, 6, 4, unpacks=True),
        "generic": RegisterTile(1, 2, 2, unpacks=True),
    }
)
"""Measured with bench/kernels.py; neon_dotprod is an estimate from its 32 registers of a quarter vector."""

PANEL_BLOCKS, TILE_TOKENS, FEW_TOKENS, UNPACKS = REGISTER_TILES[cpu.vector_isa()]
# names of constants, which Numba knows by value
_TILE_VECTORS, _FEW_VECTORS = PANEL_BLOCKS * TILE_TOKENS, PANEL_BLOCKS * FEW_TOKENS


class Panel(NamedTuple):
    """Rows that share each load of activations."""

    codes: Numbers  # uint8: packed lines; int8: lines unpacked to a byte a code
    line: int  # the first block's first line
    distance: int  # how many lines later the next block's is
    row: int  # the first block's first row


class Tokens(NamedTuple):
    """What a panel is multiplied by, and where to write: :func:`ternary_gemm`'s arrays, flat."""

    q: Int8s
    columns: int
    slots: int
    q_sum: Int32s
    out: Int32s
    rows: int


class GemmScratch(NamedTuple):
    """Scratch memory of a thread pool for :func:`ternary_gemm`."""

    unpacked: Int8s  # [n_threads, ...]: codes of a panel, on instruction sets that unpack them for register tiles
    tiles: TileScratch  # empty where there are no AMX tiles


def gemm_scratch(n_threads: int, slots: int, columns: int) -> GemmScratch:
    """Allocate the scratch memory of products of up to ``slots`` tokens and ``columns``."""
    unpacked = np.zeros((n_threads, PANEL_BLOCKS * ROWS_PER_BLOCK * columns if UNPACKS else 0), np.int8)
    return GemmScratch(unpacked, tile_scratch(n_threads, slots, columns) if cpu.has_tiles() else tile_scratch(0, 0, 0))


@jit_separate
def ternary_gemm_registers(
    ctx: ThreadContext,
    counts: Counts,
    weights: Bytes,
    q: Int8s,
    q_sum: Int32s,
    scratch: GemmScratch,
    out: Int32s,
) -> None:
    """Multiply with register tiles; shapes as for :func:`gemm_by_tokens`."""
    if ctx.thread == 0:
        counts[Kernel.TERNARY_GEMM] += 1
    rows, (slots, columns) = out.shape[1], q.shape
    tokens = Tokens(q.reshape(-1), columns, slots, q_sum, out.reshape(-1), rows)
    unpacks = UNPACKS and q_sum.size > TILE_TOKENS
    codes = scratch.unpacked[ctx.thread]
    n_panels, block_lines = rows // (PANEL_BLOCKS * ROWS_PER_BLOCK), weights.size // rows // WORD
    panel = claim(ctx, n_panels)
    while panel >= 0:
        # its blocks lie far apart: two distant streams keep memory busier than one
        packed = Panel(weights, panel * block_lines, n_panels * block_lines, panel * ROWS_PER_BLOCK)
        if unpacks:
            _unpack(packed, block_lines, codes)
            _panel_times_tokens(Panel(codes, 0, block_lines, packed.row), tokens)
        else:
            _panel_times_tokens(packed, tokens)
        panel = claim(ctx, n_panels)


@jit
def gemm_by_tokens(
    ctx: ThreadContext,
    counts: Counts,
    weights: Bytes,
    q: Int8s,
    q_sum: Int32s,
    scratch: GemmScratch,
    out: Int32s,
) -> None:
    """Write the products of a ternary matrix and each token's activations to ``out``, int32[n_tokens, rows], exactly.

    All threads call it and share the rows; a barrier must follow. ``weights`` are from ``pack``; ``rows`` is a multiple
    of 32, ``columns`` of 128, at most 2**19. ``q`` is [slots, columns], a multiple of 8 slots, a token each; ``q_sum``
    is the sum of each token's activations. Few tokens would leave AMX tiles mostly empty, so they take register tiles.
    """
    n_tokens, rows = out.shape
    if n_tokens > TILE_ROWS or (n_tokens > FEW_TOKENS and rows % (FEW_BLOCKS * ROWS_PER_BLOCK) == 0):
        ternary_gemm_tiles(ctx, counts, weights, q, q_sum, scratch.tiles, out)
    else:
        ternary_gemm_registers(ctx, counts, weights, q, q_sum, scratch, out)


ternary_gemm = gemm_by_tokens if cpu.has_tiles() else ternary_gemm_registers


@jit
def _unpack(packed: Panel, block_lines: int, out: Int8s) -> None:
    for line in range(block_lines):
        codes = load_codes(packed.codes, packed.line + line, packed.distance, PANEL_BLOCKS)
        store_codes(out, line, block_lines, codes)


@jit
def _panel_times_tokens(panel: Panel, tokens: Tokens) -> None:
    """Take tile after tile; the last one begins early enough to end within the slots."""
    token, n_tokens = 0, tokens.q_sum.size
    while n_tokens - token > FEW_TOKENS:
        _tile(zero_sums(_TILE_VECTORS), panel, tokens, min(token, tokens.slots - TILE_TOKENS))
        token += TILE_TOKENS
    if token < n_tokens:
        _tile(zero_sums(_FEW_VECTORS), panel, tokens, min(token, tokens.slots - FEW_TOKENS))


@jit
def _tile(zeros: Any, panel: Panel, tokens: Tokens, first: int) -> None:
    """Multiply the panel by tokens from ``first`` on; the number of vectors in ``zeros`` is that of the tile."""
    totals, line, grouped = add_groups(widen(zeros), panel, tokens, first * tokens.columns)
    for start in range(grouped, tokens.columns, SUM_COLUMNS):
        acc = zeros
        for run in range(start, min(start + SUM_COLUMNS, tokens.columns), RUN):
            for word in range(0, WORD * LINES, WORD):
                acc = _add_line(acc, panel, line, tokens, first * tokens.columns + run + word)
                line += 1
        totals = add_widened(totals, acc)
    for index, total in enumerate(totals):
        token, block = first + index // PANEL_BLOCKS, index % PANEL_BLOCKS
        if token < tokens.q_sum.size:  # slots after the last token are multiplied too, and dropped
            at = token * tokens.rows + block * (tokens.rows // PANEL_BLOCKS) + panel.row
            store_i32(tokens.out, at, v.sub_i32(total, v.broadcast_i32(tokens.q_sum[token])))


# ---- four weights a byte ---------------------------------------------------------------------------------------------
@jit
def _add_line(acc: Any, panel: Panel, line: int, tokens: Tokens, at: int) -> Any:
    """Add a line's codes times their activations, 32 columns apart."""
    codes_6, codes_4, codes_2, codes_0 = load_codes(panel.codes, line, panel.distance, PANEL_BLOCKS)
    acc = add_products(acc, codes_6, tokens.q, at, tokens.columns)
    acc = add_products(acc, codes_4, tokens.q, at + 32, tokens.columns)
    acc = add_products(acc, codes_2, tokens.q, at + 64, tokens.columns)
    return add_products(acc, codes_0, tokens.q, at + 96, tokens.columns)


# ---- five weights a byte ---------------------------------------------------------------------------------------------
@jit
def _no_groups(totals: Any, panel: Panel, tokens: Tokens, at: int) -> Any:
    return totals, panel.line, 0


@jit
def _add_groups(totals: Any, panel: Panel, tokens: Tokens, at: int) -> Any:
    """Add the columns that are packed five to a byte; return the line after them, and the number of columns."""
    line, grouped = panel.line, tokens.columns // GROUP * GROUP
    for group in range(0, grouped, GROUP):
        for run in range(GROUP_RUNS):
            for word in range(0, WORD * LINES, WORD):
                own, fifth = at + group + run * RUN + word, at + group + GROUP_RUNS * RUN + run * FIFTH + word
                totals = _add_trits(totals, panel, line, tokens, own, fifth)
                line += 1
    return totals, line, grouped


@jit
def _add_trits(acc: Any, panel: Panel, line: int, tokens: Tokens, at: int, fifth: int) -> Any:
    """Add a line's codes times their activations: four 32 columns apart, and one of another run."""
    b, c, d, e, a = load_trits(panel.codes, line, panel.distance, PANEL_BLOCKS)
    acc = add_products(acc, b, tokens.q, at, tokens.columns)
    acc = add_products(acc, c, tokens.q, at + 32, tokens.columns)
    acc = add_products(acc, d, tokens.q, at + 64, tokens.columns)
    acc = add_products(acc, e, tokens.q, at + 96, tokens.columns)
    return add_products(acc, a, tokens.q, fifth, tokens.columns)


add_groups = _add_groups if FIVE_TRITS else _no_groups
