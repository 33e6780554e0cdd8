"""Five ternary weights a byte, 81 a + 27 b + 9 c + 3 d + e with trits 0, 1 or 2; unpacking them needs AVX-512 VBMI."""

from typing import Any

from llvmlite import ir

from bitnet_numba.backends.cpu.simd.operation import Builder, Value, call, splat, vector_op
from bitnet_numba.backends.cpu.simd.types import U8x64

_FOUR = [b << 6 | c << 4 | d << 2 | e for b in range(3) for c in range(3) for d in range(3) for e in range(3)]
_TABLE = [*_FOUR, *[0] * (128 - len(_FOUR))]


@vector_op(U8x64, U8x64)
def below_81(b: Builder, x: Value) -> Value:
    """Each byte modulo 81; a difference that would be negative wraps to a large one."""
    for _ in range(2):
        less = b.sub(x, splat(U8x64.llvm, 81))
        x = b.select(b.icmp_unsigned("<", less, x), less, x)
    return x


@vector_op(U8x64, U8x64)
def four_codes(b: Builder, x: Value) -> Value:
    """The bit pairs b, c, d, e of bytes below 81, from the top down, by lookup in 128 bytes."""
    low, high = (ir.Constant(U8x64.llvm, half) for half in (_TABLE[:64], _TABLE[64:]))
    return call(b, "llvm.x86.avx512.vpermi2var.qi.512", U8x64.llvm, low, x, high)


@vector_op(U8x64, U8x64, U8x64)
def first_code(b: Builder, x: Value, rest: Value) -> Value:
    """The trit a, where ``rest`` is ``below_81(x)``: 81 and 162 end in the bits 01 and 10."""
    return b.and_(b.sub(x, rest), splat(U8x64.llvm, 3))


def five_codes(b: Builder, x: Value) -> tuple[Value, Value]:
    """Return the bit pairs b, c, d, e as one byte, and a."""
    rest = below_81.emit(b, x)
    return four_codes.emit(b, rest), first_code.emit(b, x, rest)


def _adding_trit(bits: int) -> Any:
    """Make an operation that packs the four codes of each byte with a fifth trit: two bits of another vector."""

    def emit(b: Builder, codes: Value, fifth: Value) -> Value:
        def field(x: Value, shift: int) -> Value:
            return b.and_(b.lshr(x, splat(U8x64.llvm, shift)), splat(U8x64.llvm, 3))

        total = field(codes, 0)
        for x, shift, worth in ((codes, 2, 3), (codes, 4, 9), (codes, 6, 27), (fifth, bits, 81)):
            total = b.add(total, b.mul(field(x, shift), splat(U8x64.llvm, worth)))
        return total

    return vector_op(U8x64, U8x64, U8x64)(emit)


add_trit_6, add_trit_4, add_trit_2, add_trit_0 = (_adding_trit(bits) for bits in (6, 4, 2, 0))
