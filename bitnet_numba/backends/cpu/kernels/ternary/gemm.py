"""Many tokens: arithmetic is the limit, so each load serves as many products as registers hold sums.

Where the CPU has tiles, those take over from a few tokens on. Elsewhere a panel is one or two blocks of sixteen rows,
whose codes stay in the first cache while all tokens pass by, a register tile of them at a time.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.kernels.jit import TERNARY_GEMM, jit
from bitnet_numba.backends.cpu.kernels.ternary.layout import (
    FIFTH,
    GROUP_RUNS,
    LINES,
    ROWS,
    WORD,
    Activations,
    Bytes,
    Sums,
)
from bitnet_numba.backends.cpu.kernels.ternary.tiles import FEW_BLOCKS, TileScratch, tile_scratch, tile_worker
from bitnet_numba.backends.cpu.packed_sizes import FIVE_TRITS, GROUP, RUN
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


class TileShape(NamedTuple):
    """How the registers of an instruction set are spent.

    Attributes
    ----------
    blocks : {1, 2}
        Blocks of sixteen rows in a panel.
    tokens : int
        Tokens in a tile.
    few : int
        Tokens in the tile that takes what is left over.
    unpacks : bool
        Whether codes are unpacked once for all tiles, not for each: it pays where a tile is small.
    """

    blocks: int
    tokens: int
    few: int
    unpacks: bool


TILES: Mapping[str, TileShape] = MappingProxyType(
    {
        "avx512_vnni": TileShape(2, 8, 4, unpacks=False),
        "avx_vnni": TileShape(1, 6, 4, unpacks=True),
        "avx2": TileShape(1, 4, 2, unpacks=True),
        "neon_dotprod": TileShape(1, 6, 4, unpacks=True),
        "generic": TileShape(1, 2, 2, unpacks=True),
    }
)
"""Measured with bench/kernels.py; neon_dotprod is reckoned, from its 32 registers of a quarter vector."""

BLOCKS, TILE_TOKENS, FEW_TOKENS, UNPACKS = TILES[cpu.vector_isa()]
_TILE_SUMS, _FEW_SUMS = BLOCKS * TILE_TOKENS, BLOCKS * FEW_TOKENS  # names of constants, which Numba knows by value


class Panel(NamedTuple):
    """Rows that share each load of activations.

    Attributes
    ----------
    codes : uint8[n] or int8[n]
        Packed lines, or lines unpacked to a byte a code.
    line, distance : int
        The first block's first line, and how many lines later the next block's is.
    row : int
        The first block's first row.
    """

    codes: npt.NDArray[Any]
    line: int
    distance: int
    row: int


class Tokens(NamedTuple):
    """What a panel is multiplied with, and where the sums go: :func:`gemm_worker`'s arrays, flat."""

    q: Activations
    columns: int
    slots: int
    q_sum: Sums
    out: Sums
    rows: int


class GemmScratch(NamedTuple):
    """Memory of a whole pool that :func:`gemm_worker` writes to besides its result.

    Attributes
    ----------
    unpacked : int8[n_threads, ...]
        Codes of a panel, on instruction sets that unpack them for register tiles.
    tiles : TileScratch
        Empty where there are no tiles.
    """

    unpacked: npt.NDArray[np.int8]
    tiles: TileScratch


def gemm_scratch(n_threads: int, slots: int, columns: int) -> GemmScratch:
    """Allocate the scratch memory of products of up to so many slots and columns."""
    unpacked = np.zeros((n_threads, BLOCKS * ROWS * columns if UNPACKS else 0), np.int8)
    return GemmScratch(unpacked, tile_scratch(n_threads, slots, columns) if cpu.has_tiles() else tile_scratch(0, 0, 0))


@jit
def choosing_worker(
    ctx: ThreadContext,
    counts: npt.NDArray[np.int64],
    weights: Bytes,
    q: Activations,
    q_sum: Sums,
    out: Sums,
    scratch: GemmScratch,
) -> None:
    """Multiply a few tokens by vectors, which waste less than tiles then; of more, tiles take sixteen in one go."""
    n_tokens, rows = out.shape
    if n_tokens > TILE_ROWS or (n_tokens > FEW_TOKENS and rows % (FEW_BLOCKS * ROWS) == 0):
        tile_worker(ctx, counts, weights, q, q_sum, out, scratch.tiles)
    else:
        register_worker(ctx, counts, weights, q, q_sum, out, scratch)


@jit
def register_worker(
    ctx: ThreadContext,
    counts: npt.NDArray[np.int64],
    weights: Bytes,
    q: Activations,
    q_sum: Sums,
    out: Sums,
    scratch: GemmScratch,
) -> None:
    if ctx.thread == 0:
        counts[TERNARY_GEMM] += 1
    rows, (slots, columns) = out.shape[1], q.shape
    tokens = Tokens(q.reshape(-1), columns, slots, q_sum, out.reshape(-1), rows)
    unpacks = UNPACKS and q_sum.size > TILE_TOKENS
    codes = scratch.unpacked[ctx.thread]
    n_panels, block_lines = rows // (BLOCKS * ROWS), weights.size // rows // WORD
    panel = claim(ctx, n_panels)
    while panel >= 0:
        # its blocks lie far apart: two distant streams keep memory busier than one
        packed = Panel(weights, panel * block_lines, n_panels * block_lines, panel * ROWS)
        if unpacks:
            _unpack(packed, codes, block_lines)
            _panel_times_tokens(Panel(codes, 0, block_lines, packed.row), tokens)
        else:
            _panel_times_tokens(packed, tokens)
        panel = claim(ctx, n_panels)


gemm_worker = choosing_worker if cpu.has_tiles() else register_worker


@jit
def _unpack(packed: Panel, codes: npt.NDArray[np.int8], block_lines: int) -> None:
    for line in range(block_lines):
        store_codes(codes, line, block_lines, load_codes(packed.codes, packed.line + line, packed.distance, BLOCKS))


@jit
def _panel_times_tokens(panel: Panel, tokens: Tokens) -> None:
    """Take tile after tile; the last one begins early enough to end within the slots."""
    token, n_tokens = 0, tokens.q_sum.size
    while n_tokens - token > FEW_TOKENS:
        _tile(zero_sums(_TILE_SUMS), panel, tokens, min(token, tokens.slots - TILE_TOKENS))
        token += TILE_TOKENS
    if token < n_tokens:
        _tile(zero_sums(_FEW_SUMS), panel, tokens, min(token, tokens.slots - FEW_TOKENS))


@jit
def _tile(zeros: Any, panel: Panel, tokens: Tokens, first: int) -> None:
    """Write the sums of the panel's rows and of as many tokens, from ``first`` on, as there are zeros to begin with."""
    totals, line, grouped = add_groups(widen(zeros), panel, tokens, first * tokens.columns)
    for start in range(grouped, tokens.columns, SUM_COLUMNS):
        sums = zeros
        for run in range(start, min(start + SUM_COLUMNS, tokens.columns), RUN):
            for word in range(0, WORD * LINES, WORD):
                sums = _add_line(sums, panel, line, tokens, first * tokens.columns + run + word)
                line += 1
        totals = add_widened(totals, sums)
    for index, total in enumerate(totals):
        token, block = first + index // BLOCKS, index % BLOCKS
        if token < tokens.q_sum.size:  # what lies in the slots after the last token is multiplied too, and dropped
            place = token * tokens.rows + block * (tokens.rows // BLOCKS) + panel.row
            store_i32(tokens.out, place, v.sub_i32(total, v.broadcast_i32(tokens.q_sum[token])))


# ---- four weights a byte ---------------------------------------------------------------------------------------------
@jit
def _add_line(sums: Any, panel: Panel, line: int, tokens: Tokens, place: int) -> Any:
    """Add a line's codes times their activations, 32 columns apart."""
    codes_6, codes_4, codes_2, codes_0 = load_codes(panel.codes, line, panel.distance, BLOCKS)
    sums = add_products(sums, codes_6, tokens.q, place, tokens.columns)
    sums = add_products(sums, codes_4, tokens.q, place + 32, tokens.columns)
    sums = add_products(sums, codes_2, tokens.q, place + 64, tokens.columns)
    return add_products(sums, codes_0, tokens.q, place + 96, tokens.columns)


# ---- five weights a byte ---------------------------------------------------------------------------------------------
@jit
def _no_groups(totals: Any, panel: Panel, tokens: Tokens, place: int) -> Any:
    return totals, panel.line, 0


@jit
def _add_groups(totals: Any, panel: Panel, tokens: Tokens, place: int) -> Any:
    """Add the columns that are packed five to a byte; return the line after them, and how many columns they are."""
    line, grouped = panel.line, tokens.columns // GROUP * GROUP
    for group in range(0, grouped, GROUP):
        for run in range(GROUP_RUNS):
            for word in range(0, WORD * LINES, WORD):
                at, fifth = place + group + run * RUN + word, place + group + GROUP_RUNS * RUN + run * FIFTH + word
                totals = _add_trits(totals, panel, line, tokens, at, fifth)
                line += 1
    return totals, line, grouped


@jit
def _add_trits(sums: Any, panel: Panel, line: int, tokens: Tokens, place: int, fifth: int) -> Any:
    """Add a line's codes times their activations: four 32 columns apart, and one of another run."""
    b, c, d, e, a = load_trits(panel.codes, line, panel.distance, BLOCKS)
    sums = add_products(sums, b, tokens.q, place, tokens.columns)
    sums = add_products(sums, c, tokens.q, place + 32, tokens.columns)
    sums = add_products(sums, d, tokens.q, place + 64, tokens.columns)
    sums = add_products(sums, e, tokens.q, place + 96, tokens.columns)
    return add_products(sums, a, tokens.q, fifth, tokens.columns)


add_groups = _add_groups if FIVE_TRITS else _no_groups
