"""The byte dot product with int32 accumulators: the one operation with a body for each instruction set.

``dot(acc, unsigned, signed)`` adds, in each of sixteen int32 lanes i, the sum over k < 4 of
``unsigned[4 * i + k] * signed[4 * i + k]``. It is exact for unsigned bytes up to 127, and for 128 where
``cpu.has_signed_dot()`` is false.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from llvmlite import ir

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.operation import I16, I32, Builder, Value, call, in_parts, splat, vector_op
from bitnet_numba.backends.cpu.simd.types import I32x16, U8x64

dot_op = vector_op(I32x16, I32x16, U8x64, U8x64)


@dot_op
def _dot_avx512_vnni(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
    return call(b, "llvm.x86.avx512.vpdpbusd.512", I32x16.llvm, acc, unsigned, signed)


def _by_dot_instruction(n_parts: int, instruction: str) -> Any:
    """Make a body of a dot product instruction on narrower vectors."""
    sums = ir.VectorType(I32, 16 // n_parts)
    return dot_op(lambda b, *vectors: in_parts(b, n_parts, lambda *part: call(b, instruction, sums, *part), *vectors))


_dot_avx_vnni = _by_dot_instruction(2, "llvm.x86.avx512.vpdpbusd.256")  # named after AVX-512, encoded for the target
_dot_neon_dotprod = _by_dot_instruction(4, "llvm.aarch64.neon.sdot.v4i32.v16i8")  # takes both bytes as signed


def _by_byte_pairs(n_parts: int, multiply_bytes: str, multiply_words: str) -> Any:
    """Make a body that multiplies bytes and adds pairs.

    The int16 of a pair cannot saturate: -128 * 128 * 2 still fits.
    """
    words, sums = ir.VectorType(I16, 32 // n_parts), ir.VectorType(I32, 16 // n_parts)

    def emit(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
        def part(u: Value, s: Value) -> Value:
            return call(b, multiply_words, sums, call(b, multiply_bytes, words, u, s), splat(words, 1))

        return b.add(acc, in_parts(b, n_parts, part, unsigned, signed))

    return dot_op(emit)


_dot_avx2 = _by_byte_pairs(2, "llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd")
dot_ssse3 = _by_byte_pairs(4, "llvm.x86.ssse3.pmadd.ub.sw.128", "llvm.x86.sse2.pmadd.wd")


@dot_op
def dot_sse2(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Even and odd bytes as words, multiplied and added in pairs: runs on any x86-64."""
    words, sums = ir.VectorType(I16, 8), ir.VectorType(I32, 4)
    eight = splat(words, 8)

    def part(total: Value, unsigned: Value, signed: Value) -> Value:
        u, s = b.bitcast(unsigned, words), b.bitcast(signed, words)
        even_signed, odd_signed = b.ashr(b.shl(s, eight), eight), b.ashr(s, eight)
        even = call(b, "llvm.x86.sse2.pmadd.wd", sums, b.and_(u, splat(words, 255)), even_signed)
        odd = call(b, "llvm.x86.sse2.pmadd.wd", sums, b.lshr(u, eight), odd_signed)
        return b.add(total, b.add(even, odd))

    return in_parts(b, 4, part, acc, unsigned, signed)


@dot_op
def dot_plain(b: Builder, acc: Value, unsigned: Value, signed: Value) -> Value:
    """Split each word into its four bytes, multiply, add: runs on any CPU, exact for every byte."""
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
