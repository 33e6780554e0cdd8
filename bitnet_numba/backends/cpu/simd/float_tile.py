"""Register tiles of float32 accumulators, ``[row][vector]``: the inner loop of attention and of float heads.

Each loaded vector serves all rows, each loaded factor all vectors of its row, and no accumulator waits for another.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.types.containers import UniTuple

from bitnet_numba.backends.cpu.simd.memory import emit_prefetch, lane_type, lanes_at
from bitnet_numba.backends.cpu.simd.operation import (
    F32,
    I32,
    Builder,
    Value,
    address,
    array_op,
    literal_op,
    splat,
    spread,
)
from bitnet_numba.backends.cpu.simd.types import F32x16
from bitnet_numba.backends.cpu.simd.vector import fma_f32


@literal_op
def zero_rows(_: Any, rows: types.IntegerLiteral, vectors: types.IntegerLiteral) -> Any:
    """Return a tile of zeros."""
    row = UniTuple(F32x16, vectors.literal_value)
    tile = UniTuple(row, rows.literal_value)

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        zeros = context.make_tuple(b, row, [splat(F32x16.llvm, 0.0)] * row.count)
        return context.make_tuple(b, tile, [zeros] * tile.count)

    return tile(rows, vectors), lower


@array_op
def load_vectors(_: Any, tile: UniTuple, array: types.Array, index: Any, distance: types.Integer, ahead: Any) -> Any:
    """Load the vectors of a row: vector i from ``array[index + i * distance :]``.

    ``ahead`` is the prefetch distance in elements, or None.
    """
    row = tile.dtype

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[1], args[1], args[2], lane_type(array))
        loaded = []
        for _ in range(row.count):
            if ahead != types.none:
                emit_prefetch(b, b.gep(at, [args[4]]))
            loaded.append(lanes_at(b, array, at))
            at = b.gep(at, [args[3]])
        return context.make_tuple(b, row, loaded)

    return row(tile, array, types.intp, types.intp, ahead), lower


@array_op
def add_to_rows(
    _: Any, tile: UniTuple, vectors: UniTuple, factors: types.Array, index: types.Integer, stride: types.Integer
) -> Any:
    """Add the vectors times ``factors[index + r * stride]`` to each row r."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        added = cgutils.unpack_tuple(b, args[1])
        at = address(context, b, signature.args[2], args[2], args[3], F32)
        rows = []
        for before in cgutils.unpack_tuple(b, args[0]):
            factor = spread(b, b.load(at, align=4), F32x16.llvm)
            pairs = zip(added, cgutils.unpack_tuple(b, before), strict=True)
            sums = [fma_f32.emit(b, vector, factor, total) for vector, total in pairs]
            rows.append(context.make_tuple(b, signature.args[1], sums))
            at = b.gep(at, [args[4]])
        return context.make_tuple(b, tile, rows)

    return tile(tile, vectors, factors, types.intp, types.intp), lower


@array_op
def load_rows(_: Any, tile: UniTuple, array: types.Array, index: types.Integer, stride: types.Integer) -> Any:
    """Load a tile of the same shape; row r lies in ``array[index + r * stride :]``."""
    row = tile.dtype

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[1], args[1], args[2], F32)
        rows = []
        for _ in range(tile.count):
            vectors = b.bitcast(at, F32x16.llvm.as_pointer())
            loaded = [b.load(b.gep(vectors, [ir.Constant(I32, i)]), align=4) for i in range(row.count)]
            rows.append(context.make_tuple(b, row, loaded))
            at = b.gep(at, [args[3]])
        return context.make_tuple(b, tile, rows)

    return tile(tile, array, types.intp, types.intp), lower


@array_op
def store_rows(_: Any, array: types.Array, index: types.Integer, stride: types.Integer, tile: UniTuple) -> Any:
    """Store row r to ``array[index + r * stride :]``."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[0], args[0], args[1], F32)
        for row in cgutils.unpack_tuple(b, args[3]):
            vectors = b.bitcast(at, F32x16.llvm.as_pointer())
            for number, vector in enumerate(cgutils.unpack_tuple(b, row)):
                b.store(vector, b.gep(vectors, [ir.Constant(I32, number)]), align=4)
            at = b.gep(at, [args[2]])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, tile), lower
