"""Tiles: eight registers of sixteen rows of 64 bytes, and the product of two of them (Intel AMX).

A thread configures its tiles before it uses them, and releases them at the end, which makes its next switch cheap. The
operations take a thread's row of :func:`new_tiles` first; a tile's number is a constant. The product treats one
tile as int8[16, 64] and another as the unsigned bytes of ``dot``, [16][16][4]:

    sums[m, n] += sum of signed[m, 4 * k + j] * codes[k, n, j] over k < 16 and j < 4.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types

from bitnet_numba.backends.cpu.simd import cpu, emulated_tile
from bitnet_numba.backends.cpu.simd.operation import I8, Builder, Value, address, array_op, call, literal_op

TILE_ROWS = 16
ROW_BYTES = 64
N_TILES = 8
_CONFIGURATION = 64  # bytes: a table of each tile's rows, and of the bytes in them


def new_tiles(n_threads: int) -> npt.NDArray[np.uint8]:
    """Return what each thread's tiles are configured from, uint8[n_threads, ...]; emulated ones lie there as well."""
    tiles = np.zeros((n_threads, _CONFIGURATION + emulated_tile.STATE_BYTES), np.uint8)
    tiles[:, 0] = 1  # the palette of eight tiles
    tiles[:, 16 : 16 + 2 * N_TILES].view(np.uint16)[:] = ROW_BYTES
    tiles[:, 48 : 48 + N_TILES] = TILE_ROWS
    return tiles


# ---- the instructions ------------------------------------------------------------------------------------------------
class HardwareTiles:
    """Emitters of AMX instructions. LLVM keeps their order: it takes each for one that may read and write anything."""

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
    def load(b: Builder, tiles: Value, tile: int, place: Value, stride: Value) -> None:
        call(b, "llvm.x86.tileloadd64", ir.VoidType(), ir.Constant(I8, tile), place, stride)

    @staticmethod
    def store(b: Builder, tiles: Value, tile: int, place: Value, stride: Value) -> None:
        call(b, "llvm.x86.tilestored64", ir.VoidType(), ir.Constant(I8, tile), place, stride)

    @staticmethod
    def dot(b: Builder, tiles: Value, sums: int, signed: int, codes: int) -> None:
        numbers = (ir.Constant(I8, tile) for tile in (sums, signed, codes))
        call(b, "llvm.x86.tdpbsud", ir.VoidType(), *numbers)


# ---- operations for jitted code --------------------------------------------------------------------------------------
class TileOperations(NamedTuple):
    """What jitted code does with tiles; bind each to a module-level name, or Numba's cache never recognises it."""

    configure: Any
    release: Any
    zero: Any
    load: Any
    store: Any
    dot: Any


def operations(emitters: Any) -> TileOperations:
    """Make the operations of :class:`HardwareTiles`, or of ``EmulatedTiles``."""
    return TileOperations(
        configure=_whole(emitters.configure),
        release=_whole(emitters.release),
        zero=_zero(emitters.zero),
        load=_move(emitters.load),
        store=_move(emitters.store),
        dot=_dot(emitters.dot),
    )


def _tiles(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
    return address(context, b, signature.args[0], args[0], ir.Constant(ir.IntType(64), 0), I8)


def _whole(emit: Any) -> Any:
    """Make an operation ``(tiles)`` on all of them."""

    def operation(_: Any, tiles: types.Array) -> Any:
        def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
            emit(b, _tiles(context, b, signature, args))
            return context.get_dummy_value()

        return types.void(tiles), lower

    return array_op(operation)


def _zero(emit: Any) -> Any:
    """Make an operation ``(tiles, tile)``."""

    def operation(_: Any, tiles: types.Array, tile: types.IntegerLiteral) -> Any:
        def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
            emit(b, _tiles(context, b, signature, args), tile.literal_value)
            return context.get_dummy_value()

        return types.void(tiles, tile), lower

    return literal_op(operation)


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
            place = address(context, b, signature.args[2], args[2], args[3], I8)
            emit(b, _tiles(context, b, signature, args), tile.literal_value, place, args[4])
            return context.get_dummy_value()

        return types.void(tiles, tile, array, types.intp, types.intp), lower

    return literal_op(operation)


def _dot(emit: Any) -> Any:
    """Make an operation ``(tiles, sums, signed, codes)`` on three of them."""

    def operation(
        _: Any,
        tiles: types.Array,
        sums: types.IntegerLiteral,
        signed: types.IntegerLiteral,
        codes: types.IntegerLiteral,
    ) -> Any:
        numbers = sums, signed, codes

        def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
            emit(b, _tiles(context, b, signature, args), *(number.literal_value for number in numbers))
            return context.get_dummy_value()

        return types.void(tiles, *numbers), lower

    return literal_op(operation)


_bound = operations(HardwareTiles if cpu.isa() == cpu.TILES else emulated_tile.EmulatedTiles)
configure_tiles, release_tiles, zero_tile, load_tile, store_tile, tile_dot = _bound
