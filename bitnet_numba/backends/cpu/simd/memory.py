"""Unaligned vector loads and stores, converting from and to the number format of the array.

Numba has no float16 or bfloat16 type, so integer arrays hold their bits, and the dtype tells the format: ``float32``,
``uint16`` = float16 bits, ``int16`` = bfloat16 bits, ``int8`` = integers. No operation checks an index.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from llvmlite import ir
from numba.core import types

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.operation import (
    F16,
    F32,
    I8,
    I16,
    I32,
    Access,
    Builder,
    Value,
    address,
    array_op,
    call,
    load_op,
    splat,
    spread,
    store_op,
)
from bitnet_numba.backends.cpu.simd.types import F32x16, I32x16, U8x64

_I16x16 = ir.VectorType(I16, 16)
_F16x16 = ir.VectorType(F16, 16)
_COLUMN_STRIDE = 16

PREFETCH_BYTES = 4096
"""Distance from a load to what is prefetched meanwhile; hides the latency of memory."""


# ---- number formats --------------------------------------------------------------------------------------------------
def _half_to_f32(b: Builder, bits: Value) -> Value:
    if cpu.has_hardware_floats():
        return b.fpext(b.bitcast(bits, _F16x16), F32x16.llvm)
    wide = b.zext(bits, I32x16.llvm)
    magnitude = b.and_(wide, splat(I32x16.llvm, 0x7FFF))
    moved = b.shl(magnitude, splat(I32x16.llvm, 13))
    scaled = b.fmul(b.bitcast(moved, F32x16.llvm), splat(F32x16.llvm, 2.0**112))  # exact: adds 127 - 15 to the exponent
    special = b.icmp_signed(">=", magnitude, splat(I32x16.llvm, 0x7C00))  # infinity and NaN
    finite_or_not = b.select(special, b.or_(moved, splat(I32x16.llvm, 0x7F800000)), b.bitcast(scaled, I32x16.llvm))
    sign = b.shl(b.and_(wide, splat(I32x16.llvm, 0x8000)), splat(I32x16.llvm, 16))
    return b.bitcast(b.or_(finite_or_not, sign), F32x16.llvm)


def _f32_to_half(b: Builder, x: Value) -> Value:
    """Round to the nearest half, ties to even."""
    if cpu.has_hardware_floats():
        return b.bitcast(b.fptrunc(x, _F16x16), _I16x16)

    def number(value: int) -> Value:
        return splat(I32x16.llvm, value)

    bits = b.bitcast(x, I32x16.llvm)
    magnitude = b.and_(bits, number(0x7FFFFFFF))
    odd = b.and_(b.lshr(magnitude, number(13)), number(1))
    rebiased = b.add(b.add(magnitude, number(((15 - 127) << 23) + 0xFFF)), odd)
    normal = b.lshr(rebiased, number(13))
    denormal_magic = number((127 - 15 + 23 - 10 + 1) << 23)  # its last bit is the smallest half: the sum rounds there
    shifted = b.fadd(b.bitcast(magnitude, F32x16.llvm), b.bitcast(denormal_magic, F32x16.llvm))
    denormal = b.sub(b.bitcast(shifted, I32x16.llvm), denormal_magic)
    special = b.select(b.icmp_signed(">", magnitude, number(0x7F800000)), number(0x7E00), number(0x7C00))
    small = b.icmp_signed("<", magnitude, number((127 - 14) << 23))
    large = b.icmp_signed(">=", magnitude, number((127 + 16) << 23))
    half = b.select(large, special, b.select(small, denormal, normal))
    sign = b.and_(b.lshr(bits, number(16)), number(0x8000))
    return b.trunc(b.or_(half, sign), _I16x16)


def _bfloat_to_f32(b: Builder, bits: Value) -> Value:
    return b.bitcast(b.shl(b.zext(bits, I32x16.llvm), splat(I32x16.llvm, 16)), F32x16.llvm)


def _int8_to_f32(b: Builder, x: Value) -> Value:
    return b.sitofp(x, F32x16.llvm)


def _f32_to_int8(b: Builder, x: Value) -> Value:
    """Convert integers that fit; kernels round and clip first."""
    return b.fptosi(x, ir.VectorType(I8, 16))


def _unchanged(b: Builder, x: Value) -> Value:
    return x


_Conversion = tuple[Any, Callable[[Builder, Value], Value]]  # LLVM type of a stored lane; to or from float32
_TO_F32: Mapping[Any, _Conversion] = MappingProxyType(
    {
        types.float32: (F32, _unchanged),
        types.uint16: (I16, _half_to_f32),
        types.int16: (I16, _bfloat_to_f32),
        types.int8: (I8, _int8_to_f32),
    }
)
_FROM_F32: Mapping[Any, _Conversion] = MappingProxyType(
    {types.float32: (F32, _unchanged), types.uint16: (I16, _f32_to_half), types.int8: (I8, _f32_to_int8)}
)


def lane_type(array: types.Array) -> Any:
    """Return the LLVM type of an array's elements."""
    return _TO_F32[array.dtype][0]


def lanes_at(b: Builder, array: types.Array, at: Value) -> Value:
    """Load sixteen elements of an array from an address, as float32."""
    lane, convert = _TO_F32[array.dtype]
    return convert(b, b.load(b.bitcast(at, ir.VectorType(lane, 16).as_pointer()), align=1))


# ---- float32 lanes ---------------------------------------------------------------------------------------------------
@load_op
def load_f32(array: types.Array) -> Access:
    """Load sixteen elements from ``array[index:]`` as float32."""
    return F32x16, lane_type(array), lambda b, at: lanes_at(b, array, at)


@store_op(F32x16)
def store_f32(array: types.Array) -> Access:
    """Store the lanes to ``array[index:]`` in the array's format."""
    lane, convert = _FROM_F32[array.dtype]
    return types.void, ir.VectorType(lane, 16), lambda b, at, lanes: b.store(convert(b, lanes), at, align=1)


@store_op(F32x16)
def store_column(array: types.Array) -> Access:
    """Store lane i to ``array[index + 16 * i]`` in the array's format: one column of 16 x 16 elements."""
    lane, convert = _FROM_F32[array.dtype]

    def emit(b: Builder, first: Value, lanes: Value) -> None:
        converted = convert(b, lanes)
        for i in range(16):
            at = b.gep(first, [ir.Constant(I32, _COLUMN_STRIDE * i)])
            b.store(b.extract_element(converted, ir.Constant(I32, i)), at)

    return types.void, lane, emit


@load_op
def broadcast_from(array: types.Array) -> Access:
    """Copy the float32 ``array[index]`` to every lane."""
    return F32x16, F32, lambda b, at: spread(b, b.load(at), F32x16.llvm)


# ---- int32 lanes and bytes -------------------------------------------------------------------------------------------
@load_op
def load_i32(array: types.Array) -> Access:
    """Load sixteen int32 from ``array[index:]``."""
    return I32x16, I32x16.llvm, lambda b, at: b.load(at, align=1)


@load_op
def load_bytes(array: types.Array) -> Access:
    """Load 64 bytes from ``array[index:]``."""
    return U8x64, U8x64.llvm, lambda b, at: b.load(at, align=1)


@store_op(I32x16)
def store_i32(array: types.Array) -> Access:
    """Store int32 lanes to ``array[index:]``; an array of bytes takes their low bytes."""
    lane = {types.int32: I32, types.int8: I8, types.uint8: I8}[array.dtype]
    vector = ir.VectorType(lane, 16)
    return types.void, vector, lambda b, at, x: b.store(x if lane is I32 else b.trunc(x, vector), at, align=1)


@store_op(U8x64)
def store_bytes(array: types.Array) -> Access:
    """Store 64 bytes to ``array[index:]``."""
    return types.void, U8x64.llvm, lambda b, at, x: b.store(x, at, align=1)


@array_op
def copy_word(_: Any, source: types.Array, index: types.Integer, target: types.Array, to: types.Integer) -> Any:
    """Copy the four bytes ``source[index : index + 4]`` to ``target[to:]``."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        word = b.load(address(context, b, signature.args[0], args[0], args[1], I32), align=1)
        b.store(word, address(context, b, signature.args[2], args[2], args[3], I32), align=1)
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), lower


@load_op
def broadcast_word(array: types.Array) -> Access:
    """Copy the four bytes ``array[index : index + 4]`` to all sixteen words of a vector."""
    return U8x64, I32, lambda b, at: b.bitcast(spread(b, b.load(at, align=1), I32x16.llvm), U8x64.llvm)


def emit_prefetch(b: Builder, at: Value) -> None:
    """Prefetch the cache line of any address, readable or not."""
    read, keep, data = (ir.Constant(I32, x) for x in (0, 3, 1))
    call(b, "llvm.prefetch.p0", ir.VoidType(), b.bitcast(at, I8.as_pointer()), read, keep, data)


@load_op
def prefetch(array: types.Array) -> Access:
    """Prefetch the cache line of ``array[index]``; any index is allowed, also one past the end."""
    return types.void, I8, emit_prefetch
