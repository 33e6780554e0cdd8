"""Vector arithmetic with the same bits on every CPU.

No operation lets the compiler reorder a sum or contract a product; what a CPU lacks is composed of exact operations.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.operation import (
    F32,
    F64,
    I32,
    I64,
    Builder,
    Value,
    call,
    splat,
    spread,
    tree,
    vector_op,
)
from bitnet_numba.backends.cpu.simd.types import F32x16, I32x16, U8x64, VectorType

_F64x16 = ir.VectorType(F64, 16)
_I64x16 = ir.VectorType(I64, 16)

WHOLE = np.float32(1.5 * 2.0**23)
"""Adding it to a number within 2**22 rounds that to an integer, ties to even; subtract it to get the integer."""


# ---- float32 -------------------------------------------------------------------------------------------------------
@vector_op(F32x16)
def zero_f32(b: Builder) -> Value:
    return splat(F32x16.llvm, 0.0)


@vector_op(F32x16, types.float32)
def broadcast_f32(b: Builder, x: Value) -> Value:
    return spread(b, x, F32x16.llvm)


def _lanewise(vector: VectorType, instruction: str) -> Any:
    """Make an operation on two vectors that is one LLVM instruction."""
    return vector_op(vector, vector, vector)(lambda b, x, y: getattr(b, instruction)(x, y))


add_f32, sub_f32, mul_f32, div_f32 = (_lanewise(F32x16, name) for name in ("fadd", "fsub", "fmul", "fdiv"))


@vector_op(F32x16, F32x16, F32x16)
def max_f32(b: Builder, x: Value, y: Value) -> Value:
    """The larger lane; ``y`` where either is NaN. (LLVM's maximum costs three instructions, a select one.)"""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


@vector_op(F32x16, F32x16, F32x16)
def min_f32(b: Builder, x: Value, y: Value) -> Value:
    """The smaller lane; ``y`` where either is NaN."""
    return b.select(b.fcmp_ordered("<", x, y), x, y)


@vector_op(F32x16, F32x16)
def abs_f32(b: Builder, x: Value) -> Value:
    return call(b, "llvm.fabs.v16f32", F32x16.llvm, x)


@vector_op(F32x16, F32x16)
def round_f32(b: Builder, x: Value) -> Value:
    """The nearest integer, ties to even, for x within 2**22."""
    magic = splat(F32x16.llvm, float(WHOLE))
    return b.fsub(b.fadd(x, magic), magic)


@vector_op(F32x16, F32x16, F32x16, F32x16, F32x16)
def where_greater(b: Builder, x: Value, y: Value, then: Value, otherwise: Value) -> Value:
    """``then`` in the lanes where x > y, ``otherwise`` in the others."""
    return b.select(b.fcmp_ordered(">", x, y), then, otherwise)


@vector_op(F32x16, F32x16, types.int32, types.float32)
def keep_first(b: Builder, x: Value, count: Value, filler: Value) -> Value:
    """The first ``count`` lanes of x, and ``filler`` in the others."""
    lanes = ir.Constant(I32x16.llvm, list(range(16)))
    kept = b.icmp_signed("<", lanes, spread(b, count, I32x16.llvm))
    return b.select(kept, x, spread(b, filler, F32x16.llvm))


@vector_op(types.float32, F32x16)
def sum_f32(b: Builder, x: Value) -> Value:
    """The sum of the lanes, by a fixed tree."""
    return tree(b, x, b.fadd)


@vector_op(types.float32, F32x16)
def largest_f32(b: Builder, x: Value) -> Value:
    """The largest lane."""
    return tree(b, x, lambda low, high: b.select(b.fcmp_ordered(">", low, high), low, high))


# ---- fused multiply-add ----------------------------------------------------------------------------------------------
def _fma_hardware(b: Builder, x: Value, y: Value, z: Value) -> Value:
    return call(b, "llvm.fma.v16f32", F32x16.llvm, x, y, z)


def _fma_composed(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """Compose x * y + z, rounded once: exact product in float64, sum rounded to odd, then to float32.

    A float64 holds 53 bits, more than twice 24 + 2, so rounding to odd first cannot change the second rounding
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    product = b.fmul(b.fpext(x, _F64x16), b.fpext(y, _F64x16))
    addend = b.fpext(z, _F64x16)
    total = b.fadd(product, addend)
    back = b.fsub(total, product)  # Knuth's exact error of the sum
    error = b.fadd(b.fsub(product, b.fsub(total, back)), b.fsub(addend, back))
    bits = b.bitcast(total, _I64x16)
    one = splat(_I64x16, 1)
    inexact = b.fcmp_ordered("!=", error, splat(_F64x16, 0.0))
    even = b.icmp_signed("==", b.and_(bits, one), splat(_I64x16, 0))
    outward = b.icmp_signed(">=", b.xor(bits, b.bitcast(error, _I64x16)), splat(_I64x16, 0))  # equal signs
    odd = b.add(bits, b.select(outward, one, splat(_I64x16, -1)))
    exact_or_odd = b.select(b.and_(inexact, even), odd, bits)
    return b.fptrunc(b.bitcast(exact_or_odd, _F64x16), F32x16.llvm)


@vector_op(F32x16, F32x16, F32x16, F32x16)
def fma_f32(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """x * y + z, rounded once."""
    return (_fma_hardware if cpu.has_hardware_floats() else _fma_composed)(b, x, y, z)


# ---- int32 -----------------------------------------------------------------------------------------------------------
@vector_op(I32x16)
def zero_i32(b: Builder) -> Value:
    return splat(I32x16.llvm, 0)


@vector_op(I32x16, types.int32)
def broadcast_i32(b: Builder, x: Value) -> Value:
    return spread(b, x, I32x16.llvm)


add_i32, sub_i32 = (_lanewise(I32x16, name) for name in ("add", "sub"))


@vector_op(types.int32, I32x16)
def sum_i32(b: Builder, x: Value) -> Value:
    return tree(b, x, b.add)


@vector_op(F32x16, I32x16)
def to_f32(b: Builder, x: Value) -> Value:
    return b.sitofp(x, F32x16.llvm)


@vector_op(I32x16, F32x16)
def to_i32(b: Builder, x: Value) -> Value:
    """Truncate; x must fit an int32 (the result for NaN differs between CPUs)."""
    return b.fptosi(x, I32x16.llvm)


@vector_op(F32x16, F32x16, F32x16)
def add_to_exponent(b: Builder, x: Value, whole: Value) -> Value:
    """x * 2.0**n where that is a normal number; ``whole`` is n + WHOLE, whose lowest bits are those of n."""
    n = b.shl(b.bitcast(whole, I32x16.llvm), splat(I32x16.llvm, 23))
    return b.bitcast(b.add(b.bitcast(x, I32x16.llvm), n), F32x16.llvm)


def _shift_right(bits: int) -> Any:
    """Make an operation that shifts each int32 lane right arithmetically."""
    return vector_op(I32x16, I32x16)(lambda b, x: b.ashr(x, splat(I32x16.llvm, bits)))


_TOP = 5 if cpu.has_signed_dot() else 6  # lowest bit of the top bit pair, as a dot product can take it
shift_right_top, shift_right_4, shift_right_2 = (_shift_right(bits) for bits in (_TOP, 4, 2))


# ---- bytes -----------------------------------------------------------------------------------------------------------
@vector_op(U8x64, U8x64)
def top_bit_pair(b: Builder, x: Value) -> Value:
    """The top two bits of each byte at bit ``_TOP``; ``shift_right_top`` scales the dot product's sums back."""
    return b.and_(b.lshr(x, splat(U8x64.llvm, 6 - _TOP)), splat(U8x64.llvm, 3 << _TOP))


def _bit_pair(shift: int) -> Any:
    """Make an operation that masks two bits of each byte."""
    return vector_op(U8x64, U8x64)(lambda b, x: b.and_(x, splat(U8x64.llvm, 3 << shift)))


def _code(shift: int) -> Any:
    """Make an operation that shifts two bits of each byte down to 0..3."""
    words = ir.VectorType(I32, 16)

    def emit(b: Builder, x: Value) -> Value:
        shifted = b.bitcast(b.lshr(b.bitcast(x, words), splat(words, shift)), U8x64.llvm)
        return b.and_(shifted, splat(U8x64.llvm, 3))

    return vector_op(U8x64, U8x64)(emit)


bit_pair_4, bit_pair_2, bit_pair_0 = (_bit_pair(shift) for shift in (4, 2, 0))
code_6, code_4, code_2 = (_code(shift) for shift in (6, 4, 2))
code_0 = bit_pair_0


# ---- scalars ---------------------------------------------------------------------------------------------------------
@vector_op(types.float32, types.float32)
def sqrt_f32(b: Builder, x: Value) -> Value:
    """The square root, correctly rounded (IEEE 754)."""
    return call(b, "llvm.sqrt.f32", F32, x)
