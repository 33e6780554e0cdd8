"""The integer dot product: the one operation whose body differs between instruction sets.

``dot(acc, unsigned, signed)`` adds, in each of sixteen int32 lanes i, the sum over k < 4 of
``unsigned[4 * i + k] * signed[4 * i + k]``. It is exact for unsigned bytes up to 127, and for 128 where
``cpu.has_signed_dot()`` is false.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from llvmlite import ir

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.operation import I16, I32, Builder, Emit, Value, call, join, pick, splat, vector_op
from bitnet_numba.backends.cpu.simd.types import I32x16, U8x64


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


def _by_byte_pairs(width: int, multiply_bytes: str, multiply_words: str) -> Emit:
    """Products of bytes added in pairs, in parts of ``width`` bytes.

    The int16 of a pair cannot saturate: -128 * 128 * 2 still is one.
    """
    words, longs = ir.VectorType(I16, width // 2), ir.VectorType(I32, width // 4)

    def emit(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
        parts = []
        for start in range(0, 64, width):
            lanes = list(range(start, start + width))
            pairs = call(b, multiply_bytes, words, pick(b, unsigned, lanes), pick(b, signed, lanes))
            parts.append(call(b, multiply_words, longs, pairs, splat(words, 1)))
        while len(parts) > 1:
            parts = [join(b, low, high) for low, high in zip(parts[::2], parts[1::2], strict=True)]
        return b.add(acc, parts[0])

    return emit


_dot_avx2 = vector_op(I32x16, I32x16, U8x64, U8x64)(
    _by_byte_pairs(32, "llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd")
)
dot_ssse3 = vector_op(I32x16, I32x16, U8x64, U8x64)(
    _by_byte_pairs(16, "llvm.x86.ssse3.pmadd.ub.sw.128", "llvm.x86.sse2.pmadd.wd")
)


@vector_op(I32x16, I32x16, U8x64, U8x64)
def dot_sse2(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Four 128-bit quarters on any x86-64: even and odd bytes as words, of which neighbours' products are added."""
    words, longs = ir.VectorType(I16, 8), ir.VectorType(I32, 4)
    eight = splat(words, 8)

    def quarter(start: int) -> Value:
        lanes = list(range(start, start + 16))
        u, s = b.bitcast(pick(b, unsigned, lanes), words), b.bitcast(pick(b, signed, lanes), words)
        even_signed, odd_signed = b.ashr(b.shl(s, eight), eight), b.ashr(s, eight)
        even = call(b, "llvm.x86.sse2.pmadd.wd", longs, b.and_(u, splat(words, 255)), even_signed)
        odd = call(b, "llvm.x86.sse2.pmadd.wd", longs, b.lshr(u, eight), odd_signed)
        return b.add(pick(b, acc, list(range(start // 4, start // 4 + 4))), b.add(even, odd))

    return join(b, join(b, quarter(0), quarter(16)), join(b, quarter(32), quarter(48)))


@vector_op(I32x16, I32x16, U8x64, U8x64)
def dot_plain(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Plain LLVM: split each word into its four bytes, multiply, add. Runs on any CPU, exact for every byte."""
    u, s = b.bitcast(unsigned, I32x16.llvm), b.bitcast(signed, I32x16.llvm)
    for k in range(4):
        byte = b.and_(b.lshr(u, splat(I32x16.llvm, 8 * k)), splat(I32x16.llvm, 255))
        signed_byte = b.ashr(b.shl(s, splat(I32x16.llvm, 24 - 8 * k)), splat(I32x16.llvm, 24))
        acc = b.add(acc, b.mul(byte, signed_byte))
    return acc


def _generic_body() -> Any:
    if not cpu.is_x86():
        return dot_plain
    return dot_ssse3 if "ssse3" in cpu.target_features() else dot_sse2


BODIES: Mapping[str, Any] = MappingProxyType(
    {
        "avx512_vnni": _dot_avx512_vnni,
        "avx_vnni": _dot_avx_vnni,
        "avx2": _dot_avx2,
        "neon_dotprod": _dot_neon_dotprod,
        "generic": _generic_body(),
    }
)
dot = BODIES[cpu.vector_isa()]
