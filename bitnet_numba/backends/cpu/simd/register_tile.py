"""Register tiles of a GEMM on vectors: accumulators of several blocks of rows times several tokens.

A tile is a tuple of vectors, ``[token][block]``. Its accumulators are int16 where that saves instructions, so they must
be widened to int32 every ``SUM_COLUMNS`` columns.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.types.containers import UniTuple

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.dot import dot
from bitnet_numba.backends.cpu.simd.memory import PREFETCH_BYTES, emit_prefetch
from bitnet_numba.backends.cpu.simd.operation import (
    I8,
    I16,
    I32,
    Builder,
    Value,
    address,
    array_op,
    call,
    in_parts,
    literal_op,
    splat,
    spread,
)
from bitnet_numba.backends.cpu.simd.trits import five_codes
from bitnet_numba.backends.cpu.simd.types import I16x32, I32x16, U8x64, VectorType

_LINE = 64
_SHIFTS = (6, 4, 2, 0)
_NARROW = cpu.vector_isa() == "avx2"
_SUM = I16x32 if _NARROW else I32x16
SUM_COLUMNS = 256 if _NARROW else 1 << 19
"""Columns after which sums of codes 0..2 times int8 must be widened: -128 * 2 * 2 columns * 64 still fits an int16."""


# ---- one vector of sums ----------------------------------------------------------------------------------------------
def add_to_sum(b: Builder, total: Value, codes: Value, signed: Value) -> Value:
    """Add the products of codes 0..2 with int8.

    AVX2 multiplies and adds pairs to int16 with one instruction and needs a second one to widen that to int32.
    """
    if not _NARROW:
        return dot.emit(b, total, codes, signed)
    words = ir.VectorType(I16, 16)
    pairs = in_parts(b, 2, lambda *half: call(b, "llvm.x86.avx2.pmadd.ub.sw", words, *half), codes, signed)
    return b.add(total, pairs)


def _widen(b: Builder, total: Value) -> Value:
    if not _NARROW:
        return total
    longs, ones = ir.VectorType(I32, 8), splat(ir.VectorType(I16, 16), 1)
    return in_parts(b, 2, lambda half: call(b, "llvm.x86.avx2.pmadd.wd", longs, half, ones), total)


# ---- tiles of sums ---------------------------------------------------------------------------------------------------
def _zeros(vector: VectorType) -> Any:
    """Make an operation ``(count)`` that returns a tile of zero vectors."""

    def typing(_: Any, count: types.IntegerLiteral) -> Any:
        tile = UniTuple(vector, count.literal_value)

        def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
            return context.make_tuple(b, tile, [splat(vector.llvm, 0)] * tile.count)

        return tile(count), lower

    return literal_op(typing)


zero_sums = _zeros(_SUM)  # as narrow as add_products takes them
zero_totals = _zeros(I32x16)


@array_op
def widen(_: Any, sums: UniTuple) -> Any:
    """Return the tile as int32."""
    totals = UniTuple(I32x16, sums.count)

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        return context.make_tuple(b, totals, [_widen(b, total) for total in cgutils.unpack_tuple(b, args[0])])

    return totals(sums), lower


@array_op
def add_widened(_: Any, totals: UniTuple, sums: UniTuple) -> Any:
    """Add a tile to an int32 tile."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        pairs = zip(*(cgutils.unpack_tuple(b, tile) for tile in args), strict=True)
        return context.make_tuple(b, totals, [b.add(total, _widen(b, more)) for total, more in pairs])

    return totals(totals, sums), lower


def _adding(add: Callable[[Builder, Value, Value, Value], Value]) -> Any:
    """Make an operation that adds each block's codes times four bytes of each row of ``q``.

    Row r starts at ``index + r * stride``. ``add`` takes an accumulator, the codes and the bytes.
    """

    def typing(_: Any, sums: UniTuple, codes: UniTuple, q: types.Array, index: Any, stride: Any) -> Any:
        def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
            before, blocks = (cgutils.unpack_tuple(b, tile) for tile in args[:2])
            after: list[Value] = []
            at = address(context, b, signature.args[2], args[2], args[3], I8)
            while len(after) < len(before):
                word = b.load(b.bitcast(at, I32.as_pointer()), align=1)
                four = b.bitcast(spread(b, word, I32x16.llvm), U8x64.llvm)
                after += [add(b, before[len(after) + i], of_block, four) for i, of_block in enumerate(blocks)]
                at = b.gep(at, [args[4]])
            return context.make_tuple(b, sums, after)

        return sums(sums, codes, q, types.intp, types.intp), lower

    return array_op(typing)


def _add_swapped(b: Builder, total: Value, codes: Value, unsigned: Value) -> Value:
    return dot.emit(b, total, unsigned, codes)


add_products = _adding(add_to_sum)  # unsigned codes 0..2 times int8
add_unsigned_products = _adding(_add_swapped)  # int8 codes times unsigned bytes below 128, to sums of int32


@array_op
def store_totals(_: Any, out: types.Array, index: types.Integer, totals: UniTuple) -> Any:
    """Store the vectors of a tile one after the other to the int32 ``out[index:]``."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[0], args[0], args[1], I32x16.llvm)
        for number, total in enumerate(cgutils.unpack_tuple(b, args[2])):
            b.store(total, b.gep(at, [ir.Constant(I32, number)]), align=4)
        return context.get_dummy_value()

    return types.void(out, types.intp, totals), lower


# ---- tiles of codes --------------------------------------------------------------------------------------------------
def _unpacked(b: Builder, line: Value) -> list[Value]:
    """Return the four bit pairs of every byte; the mask removes bits shifted in from the next byte."""
    words = ir.VectorType(I32, 16)
    shifted = [b.lshr(b.bitcast(line, words), splat(words, shift)) for shift in _SHIFTS]
    return [b.and_(b.bitcast(x, U8x64.llvm), splat(U8x64.llvm, 3)) for x in shifted]


def _unpacked_trits(b: Builder, line: Value) -> list[Value]:
    four, fifth = five_codes(b, line)
    return [*_unpacked(b, four), fifth]


def _loading(n_codes: int, unpacked: Callable[[Builder, Value], list[Value]]) -> Any:
    """Make an operation that loads one line of each block, as one tile for each code of a byte.

    Blocks are ``distance`` lines apart. Lines of uint8 are packed, and prefetched; lines of int8 were unpacked by
    ``store_codes``.
    """

    def typing(
        _: Any, lines: types.Array, line: types.Integer, distance: types.Integer, blocks: types.IntegerLiteral
    ) -> Any:
        tile = UniTuple(U8x64, blocks.literal_value)
        tiles = UniTuple(tile, n_codes)
        packed = lines.dtype == types.uint8
        size = _LINE if packed else n_codes * _LINE

        def load(b: Builder, at: Value) -> list[Value]:
            vectors = b.bitcast(at, U8x64.llvm.as_pointer())
            if packed:
                emit_prefetch(b, b.gep(at, [ir.Constant(I32, PREFETCH_BYTES)]))
                return unpacked(b, b.load(vectors, align=1))
            return [b.load(b.gep(vectors, [ir.Constant(I32, code)]), align=1) for code in range(n_codes)]

        def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
            bytes_apart = ir.Constant(args[1].type, size)
            at = address(context, b, signature.args[0], args[0], b.mul(args[1], bytes_apart), I8)
            of_blocks = []
            for _ in range(tile.count):
                of_blocks.append(load(b, at))
                at = b.gep(at, [b.mul(args[2], bytes_apart)])
            tiles_by_code = [context.make_tuple(b, tile, list(code)) for code in zip(*of_blocks, strict=True)]
            return context.make_tuple(b, tiles, tiles_by_code)

        return tiles(lines, types.intp, types.intp, blocks), lower

    return literal_op(typing)


load_codes = _loading(len(_SHIFTS), _unpacked)  # from the highest bit pair to the lowest
load_trits = _loading(len(_SHIFTS) + 1, _unpacked_trits)  # the same four, and the fifth


@array_op
def store_codes(_: Any, lines: types.Array, line: types.Integer, distance: types.Integer, tiles: UniTuple) -> Any:
    """Store the tiles of ``load_codes`` to a line of an int8 array, one byte a code."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        of_pairs = [cgutils.unpack_tuple(b, tile) for tile in cgutils.unpack_tuple(b, args[3])]
        bytes_apart = ir.Constant(args[1].type, len(_SHIFTS) * _LINE)
        at = address(context, b, signature.args[0], args[0], b.mul(args[1], bytes_apart), I8)
        for of_block in zip(*of_pairs, strict=True):
            vectors = b.bitcast(at, U8x64.llvm.as_pointer())
            for pair, codes in enumerate(of_block):
                b.store(codes, b.gep(vectors, [ir.Constant(I32, pair)]), align=1)
            at = b.gep(at, [b.mul(args[2], bytes_apart)])
        return context.get_dummy_value()

    return types.void(lines, types.intp, types.intp, tiles), lower
