"""Vectors as Numba types, which jitted code passes around like scalars."""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import models, register_model


class VectorType(types.Type):
    """A vector of ``lanes`` lanes of an LLVM type; LLVM splits one that is wider than the CPU's registers."""

    def __init__(self, name: str, lane: Any, lanes: int) -> None:
        self.llvm = ir.VectorType(lane, lanes)
        super().__init__(name=name)


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """A vector is represented by the LLVM vector."""

    def __init__(self, manager: Any, vector: VectorType) -> None:
        super().__init__(manager, vector, vector.llvm)


F32x16 = VectorType("f32x16", ir.FloatType(), 16)
I32x16 = VectorType("i32x16", ir.IntType(32), 16)
I16x32 = VectorType("i16x32", ir.IntType(16), 32)
U8x64 = VectorType("u8x64", ir.IntType(8), 64)

LANES = 16
"""Lanes of a float32 or int32 vector; float buffers are padded to a multiple of it."""
