"""GGUF's numbers: value types, tensor types, and the limits of a strict reader."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MIN_ALIGNMENT = 8
MAX_ALIGNMENT = 64 * 1024

MAX_HEADER_BYTES = 64 * 1024 * 1024
MAX_KEYS = 4096
MAX_TENSORS = 16384
MAX_KEY_BYTES = 256
MAX_STRING_BYTES = 16 * 1024 * 1024
MAX_TEMPLATE_BYTES = 64 * 1024
MAX_ARRAY_ITEMS = 4 * 1024 * 1024
"""In all arrays of a file together; a vocabulary of 128,256 words needs 665,000."""
MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 2**48


class ValueType(IntEnum):
    """How a metadata value is stored."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


NUMBER_FORMATS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""The code of each number, for ``struct`` after "<"."""


@dataclass(frozen=True, slots=True)
class TypedValue:
    """A metadata value, or a list of them, with the stored type of the value or the items; never ``ARRAY``."""

    type: ValueType
    value: Any


class TensorType(IntEnum):
    """The number of a tensor format.

    Those in :data:`bitnet_numba.formats.tensor_formats.FORMATS` are read, the others refused by name. Numbers 36 to 39
    are those of bitnet.cpp; ``UPSTREAM_TWINS`` there holds their other meaning.
    """

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    I2_S = 36
    I8_S = 37
    TL1 = 38
    TL2 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42
    IQ1_BN = 134
    IQ2_BN = 135
    PQ2_0 = 142
    PTQ1_0 = 143


def is_alignment(value: object) -> bool:
    """Tell whether tensors may be aligned to this many bytes."""
    return isinstance(value, int) and MIN_ALIGNMENT <= value <= MAX_ALIGNMENT and value.bit_count() == 1


def align_up(position: int, alignment: int) -> int:
    """Return the smallest multiple of ``alignment`` that is not below ``position``."""
    return -(-position // alignment) * alignment


def check_shape(shape: Sequence[int]) -> None:
    """Raise ValueError if the number of dimensions, one of them, or their product is out of range."""
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise ValueError(f"{len(shape):,} dimensions, expected 1 to {MAX_DIMENSIONS}")
    if min(shape) < 1 or math.prod(shape) >= MAX_ELEMENTS:
        shown = " x ".join(f"{size:,}" for size in shape)
        raise ValueError(f"{shown} weights, expected at least 1 in each dimension and fewer than 2^48 in all")
