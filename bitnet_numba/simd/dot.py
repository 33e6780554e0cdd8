"""The integer dot product: the one operation whose body differs between instruction sets.

``dot(acc, unsigned, signed)`` adds, in each of sixteen int32 lanes i, the sum over k < 4 of
``unsigned[4 * i + k] * signed[4 * i + k]``. It is exact for unsigned bytes up to 127, and for 128 where
``cpu.has_signed_dot()`` is false.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from llvmlite import ir

from bitnet_numba.simd import cpu
from bitnet_numba.simd.operation import I16, I32, Builder, Value, call, join, pick, splat, vector_op
from bitnet_numba.simd.types import I32x16, U8x64


@vector_op(I32x16, I32x16, U8x64, U8x64)
def _dot_avx512_vnni(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
    return call(b, "llvm.x86.avx512.vpdpbusd.512", I32x16.llvm, acc, unsigned, signed)


@vector_op(I32x16, I32x16, U8x64, U8x64)
def _dot_avx_vnni(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Two 256-bit halves; the instruction's name is that of AVX-512, LLVM encodes it for the target."""
    longs = ir.VectorType(I32, 8)

    def half(start: int) -> Value:
        sums = pick(b, acc, list(range(start // 4, start // 4 + 8)))
        lanes = list(range(start, start + 32))
        return call(b, "llvm.x86.avx512.vpdpbusd.256", longs, sums, pick(b, unsigned, lanes), pick(b, signed, lanes))

    return join(b, half(0), half(32))


@vector_op(I32x16, I32x16, U8x64, U8x64)
def _dot_neon_dotprod(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Four 128-bit quarters; the instruction takes both bytes as signed."""
    longs = ir.VectorType(I32, 4)

    def quarter(start: int) -> Value:
        sums = pick(b, acc, list(range(start // 4, start // 4 + 4)))
        lanes = list(range(start, start + 16))
        return call(
            b, "llvm.aarch64.neon.sdot.v4i32.v16i8", longs, sums, pick(b, unsigned, lanes), pick(b, signed, lanes)
        )

    return join(b, join(b, quarter(0), quarter(16)), join(b, quarter(32), quarter(48)))


@vector_op(I32x16, I32x16, U8x64, U8x64)
def _dot_avx2(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Two 256-bit halves; the int16 pair sums cannot saturate: -128 * 128 * 2 is still an int16."""
    words16, longs8 = ir.VectorType(I16, 16), ir.VectorType(I32, 8)
    halves = []
    for start in (0, 32):
        lanes = list(range(start, start + 32))
        pairs = call(b, "llvm.x86.avx2.pmadd.ub.sw", words16, pick(b, unsigned, lanes), pick(b, signed, lanes))
        halves.append(call(b, "llvm.x86.avx2.pmadd.wd", longs8, pairs, splat(words16, 1)))
    return b.add(acc, join(b, *halves))


@vector_op(I32x16, I32x16, U8x64, U8x64)
def _dot_generic(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Plain LLVM: split each word into its four bytes, multiply, add. Runs on any CPU."""
    u, s = b.bitcast(unsigned, I32x16.llvm), b.bitcast(signed, I32x16.llvm)
    for k in range(4):
        byte = b.and_(b.lshr(u, splat(I32x16.llvm, 8 * k)), splat(I32x16.llvm, 255))
        signed_byte = b.ashr(b.shl(s, splat(I32x16.llvm, 24 - 8 * k)), splat(I32x16.llvm, 24))
        acc = b.add(acc, b.mul(byte, signed_byte))
    return acc


BODIES: Mapping[str, Any] = MappingProxyType(
    {
        "avx512_vnni": _dot_avx512_vnni,
        "avx_vnni": _dot_avx_vnni,
        "avx2": _dot_avx2,
        "neon_dotprod": _dot_neon_dotprod,
        "generic": _dot_generic,
    }
)
dot = BODIES[cpu.vector_isa()]
