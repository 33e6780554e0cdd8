"""AMX tiles emulated in memory, so that kernels written for tiles are tested on any CPU.

A thread's memory holds the configuration to load, the loaded one, then the tiles. As in hardware, loading a
configuration clears the tiles; without one they have no rows, so a kernel that forgets it computes nothing.
"""

from llvmlite import ir
from numba.core import cgutils

from bitnet_numba.backends.cpu.simd.dot import dot_plain
from bitnet_numba.backends.cpu.simd.operation import I32, I64, Builder, Value, spread
from bitnet_numba.backends.cpu.simd.types import I32x16, U8x64

_LOADED = 64  # offset of the loaded configuration, in bytes
_ROW_COUNTS = _LOADED + 48
_CONTENTS = _LOADED + 64
_TILE = 1024  # bytes
STATE_BYTES = 64 + 8 * _TILE
"""Bytes after the configuration to load."""


def _at(b: Builder, base: Value, offset: Value | int) -> Value:
    """Return the address of a vector of bytes at an offset in bytes."""
    offset = ir.Constant(I64, offset) if isinstance(offset, int) else offset
    return b.bitcast(b.gep(base, [offset]), U8x64.llvm.as_pointer())


def _row(b: Builder, tiles: Value, tile: int, row: Value) -> Value:
    first = ir.Constant(I64, _CONTENTS + tile * _TILE)
    return _at(b, tiles, b.add(first, b.mul(row, ir.Constant(I64, 64))))


def _n_rows(b: Builder, tiles: Value, tile: int) -> Value:
    return b.zext(b.load(b.gep(tiles, [ir.Constant(I64, _ROW_COUNTS + tile)])), I64)


class EmulatedTiles:
    """Emitters with the signatures of ``HardwareTiles``."""

    @staticmethod
    def configure(b: Builder, tiles: Value) -> None:
        b.store(b.load(_at(b, tiles, 0), align=1), _at(b, tiles, _LOADED), align=1)
        for tile in range(8):
            EmulatedTiles.zero(b, tiles, tile)

    @staticmethod
    def release(b: Builder, tiles: Value) -> None:
        b.store(ir.Constant(U8x64.llvm, [0] * 64), _at(b, tiles, _LOADED), align=1)

    @staticmethod
    def zero(b: Builder, tiles: Value, tile: int) -> None:
        with cgutils.for_range(b, _n_rows(b, tiles, tile)) as rows:
            b.store(ir.Constant(U8x64.llvm, [0] * 64), _row(b, tiles, tile, rows.index), align=1)

    @staticmethod
    def load(b: Builder, tiles: Value, tile: int, at: Value, stride: Value) -> None:
        with cgutils.for_range(b, _n_rows(b, tiles, tile)) as rows:
            line = b.load(_at(b, at, b.mul(rows.index, stride)), align=1)
            b.store(line, _row(b, tiles, tile, rows.index), align=1)

    @staticmethod
    def store(b: Builder, tiles: Value, tile: int, at: Value, stride: Value) -> None:
        with cgutils.for_range(b, _n_rows(b, tiles, tile)) as rows:
            line = b.load(_row(b, tiles, tile, rows.index), align=1)
            b.store(line, _at(b, at, b.mul(rows.index, stride)), align=1)

    @staticmethod
    def dot(b: Builder, tiles: Value, sums: int, signed: int, codes: int) -> None:
        with cgutils.for_range(b, _n_rows(b, tiles, sums)) as rows:
            total = b.bitcast(_row(b, tiles, sums, rows.index), I32x16.llvm.as_pointer())
            activations = b.bitcast(_row(b, tiles, signed, rows.index), I32.as_pointer())
            with cgutils.for_range(b, _n_rows(b, tiles, codes)) as words:
                word = b.load(b.gep(activations, [words.index]), align=1)
                four = b.bitcast(spread(b, word, I32x16.llvm), U8x64.llvm)
                line = b.load(_row(b, tiles, codes, words.index), align=1)
                b.store(dot_plain.emit(b, b.load(total, align=1), line, four), total, align=1)
