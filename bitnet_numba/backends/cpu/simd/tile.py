"""Matrix tiles (Intel AMX): eight registers of sixteen rows of 64 bytes, and the product of two of them.

A thread configures its tiles before use and releases them after it, which makes context switches cheap again. Each
operation takes the thread's row of :func:`new_tiles` first; tile numbers are constants. The product treats one tile as
int8[16, 64] and another as the unsigned bytes of ``dot``, [16][16][4]:

    sums[m, n] += sum of signed[m, 4 * k + j] * codes[k, n, j] over k < 16 and j < 4.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types

from bitnet_numba.backends.cpu.array_types import Bytes
from bitnet_numba.backends.cpu.simd import cpu, emulated_tile
from bitnet_numba.backends.cpu.simd.operation import I8, I64, Builder, Value, address, call, literal_op

TILE_ROWS = 16
ROW_BYTES = 64
N_TILES = 8
_CONFIGURATION = 64  # bytes: a table of each tile's rows, and of the bytes in them


def new_tiles(n_threads: int) -> Bytes:
    """Return each thread's tile configuration and memory for emulated tiles, uint8[n_threads, ...]."""
    tiles = np.zeros((n_threads, _CONFIGURATION + emulated_tile.STATE_BYTES), np.uint8)
    tiles[:, 0] = 1  # the palette of eight tiles
    tiles[:, 16 : 16 + 2 * N_TILES].view(np.uint16)[:] = ROW_BYTES
    tiles[:, 48 : 48 + N_TILES] = TILE_ROWS
    return tiles


# ---- the instructions ------------------------------------------------------------------------------------------------
class HardwareTiles:
    """Emitters of AMX instructions; LLVM keeps their order, since each may read and write any memory."""

    @staticmethod
    def configure(b: Builder, tiles: Value) -> None:
        call(b, "llvm.x86.ldtilecfg", ir.VoidType(), tiles)

    @staticmethod
    def release(b: Builder, tiles: Value) -> None:
        call(b, "llvm.x86.tilerelease", ir.VoidType())

    @staticmethod
    def zero(b: Builder, tiles: Value, tile: int) -> None:
        call(b, "llvm.x86.tilezero", ir.VoidType(), ir.Constant(I8, tile))

    @staticmethod
    def load(b: Builder, tiles: Value, tile: int, at: Value, stride: Value) -> None:
        call(b, "llvm.x86.tileloadd64", ir.VoidType(), ir.Constant(I8, tile), at, stride)

    @staticmethod
    def store(b: Builder, tiles: Value, tile: int, at: Value, stride: Value) -> None:
        call(b, "llvm.x86.tilestored64", ir.VoidType(), ir.Constant(I8, tile), at, stride)

    @staticmethod
    def dot(b: Builder, tiles: Value, sums: int, signed: int, codes: int) -> None:
        numbers = (ir.Constant(I8, tile) for tile in (sums, signed, codes))
        call(b, "llvm.x86.tdpbsud", ir.VoidType(), *numbers)


# ---- operations for jitted code --------------------------------------------------------------------------------------
class TileOperations(NamedTuple):
    """Operations for jitted code; bind each to a module-level name, or Numba's cache never recognises it."""

    configure: Any
    release: Any
    zero: Any
    load: Any
    store: Any
    dot: Any


def operations(emitters: Any) -> TileOperations:
    """Make the operations of :class:`HardwareTiles`, or of ``EmulatedTiles``."""
    return TileOperations(
        configure=_on_tiles(emitters.configure, 0),
        release=_on_tiles(emitters.release, 0),
        zero=_on_tiles(emitters.zero, 1),
        load=_move(emitters.load),
        store=_move(emitters.store),
        dot=_on_tiles(emitters.dot, 3),
    )


def _tiles(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
    return address(context, b, signature.args[0], args[0], ir.Constant(I64, 0), I8)


def _on_tiles(emit: Any, n_numbers: int) -> Any:
    """Make an operation ``(tiles, *numbers)`` on zero (all), one or three numbered tiles."""

    def typed(tiles: types.Array, *numbers: types.IntegerLiteral) -> Any:
        def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
            emit(b, _tiles(context, b, signature, args), *(number.literal_value for number in numbers))
            return context.get_dummy_value()

        return types.void(tiles, *numbers), lower

    by_arity: dict[int, Callable[..., Any]] = {
        0: lambda _, tiles: typed(tiles),
        1: lambda _, tiles, tile: typed(tiles, tile),
        3: lambda _, tiles, sums, signed, codes: typed(tiles, sums, signed, codes),
    }
    return literal_op(by_arity[n_numbers])


def _move(emit: Any) -> Any:
    """Make an operation ``(tiles, tile, array, index, stride)``: rows ``stride`` bytes apart, from ``array[index]``."""

    def operation(
        _: Any,
        tiles: types.Array,
        tile: types.IntegerLiteral,
        array: types.Array,
        index: types.Integer,
        stride: types.Integer,
    ) -> Any:
        def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
            at = address(context, b, signature.args[2], args[2], args[3], I8)
            emit(b, _tiles(context, b, signature, args), tile.literal_value, at, args[4])
            return context.get_dummy_value()

        return types.void(tiles, tile, array, types.intp, types.intp), lower

    return literal_op(operation)


_bound = operations(HardwareTiles if cpu.isa() == cpu.TILES else emulated_tile.EmulatedTiles)
configure_tiles, release_tiles, zero_tile, load_tile, store_tile, tile_dot = _bound
