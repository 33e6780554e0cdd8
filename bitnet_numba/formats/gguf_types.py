"""What a GGUF file is made of: value types, tensor types and their sizes, the limits of a strict reader."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

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
"""In all arrays of a file together: a vocabulary of 128,256 words needs 665,000."""
MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 2**48

FILE_TYPE_I2_S = 40
"""``general.file_type`` of a file that bitnet.cpp quantized to I2_S."""


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
    """A metadata value with its stored type.

    Attributes
    ----------
    type : ValueType
        The type of the value, or of the items where the value is a list; never ``ARRAY``.
    value : int, float, bool, str, or a list of one of them
    """

    type: ValueType
    value: Any


class TensorType(IntEnum):
    """How a tensor is stored; only the types in :data:`LAYOUTS` are read, the others are refused by name.

    Numbers 36 to 39 mean what bitnet.cpp means by them; :data:`UPSTREAM_TWINS` holds their other meaning.
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


class Layout(NamedTuple):
    """How weights become bytes: every ``block`` weights take ``block_bytes``, and ``tail_bytes`` follow the last."""

    block: int
    block_bytes: int
    tail_bytes: int = 0
    blocks_span_rows: bool = False


LAYOUTS = {
    TensorType.F32: Layout(1, 4),
    TensorType.F16: Layout(1, 2),
    TensorType.BF16: Layout(1, 2),
    TensorType.Q8_0: Layout(32, 34),
    TensorType.Q6_K: Layout(256, 210),
    TensorType.TQ1_0: Layout(256, 54),
    TensorType.TQ2_0: Layout(256, 66),
    TensorType.I2_S: Layout(128, 32, tail_bytes=32, blocks_span_rows=True),
}
"""The types that can be read. I2_S packs the flattened tensor: a block may hold the end of one row and the next."""

UPSTREAM_TWINS = {
    TensorType.I2_S: ("IQ4_NL_4_4", Layout(32, 18)),
    TensorType.I8_S: ("IQ4_NL_4_8", Layout(32, 18)),
    TensorType.TL1: ("IQ4_NL_8_8", Layout(32, 18)),
    TensorType.TL2: ("MXFP4", Layout(32, 17)),
}
"""Numbers that llama.cpp and bitnet.cpp gave out independently: what they mean in a file of llama.cpp."""

_TAKE_I2_S = "take the I2_S file of the same model"
_TAKE_TERNARY = "take the model's I2_S, TQ1_0 or TQ2_0 file"
_WAYS_OUT = {
    TensorType.I8_S: f"it holds activations, not weights; {_TAKE_I2_S}",
    TensorType.TL1: f"its order depends on the program that made it; {_TAKE_I2_S}",
    TensorType.TL2: f"its order depends on the program that made it; {_TAKE_I2_S}",
    TensorType.Q1_0: _TAKE_TERNARY,
    TensorType.Q2_0: _TAKE_TERNARY,
    TensorType.IQ1_BN: f"only ik_llama.cpp reads it; {_TAKE_I2_S}",
    TensorType.IQ2_BN: f"only ik_llama.cpp reads it; {_TAKE_I2_S}",
    TensorType.PQ2_0: f"its weights are Hadamard-folded and mean nothing when run plainly; {_TAKE_TERNARY}",
    TensorType.PTQ1_0: f"its weights are Hadamard-folded and mean nothing when run plainly; {_TAKE_TERNARY}",
}


def way_out(tensor_type: TensorType | None) -> str:
    """Return what a user can do about a tensor type that is not read (None: an unknown or a foreign one)."""
    general = f"use a file that holds only {', '.join(readable.name for readable in LAYOUTS)}"
    return general if tensor_type is None else _WAYS_OUT.get(tensor_type, general)


def is_alignment(value: object) -> bool:
    """Tell whether tensors may be aligned to this many bytes."""
    return isinstance(value, int) and MIN_ALIGNMENT <= value <= MAX_ALIGNMENT and value.bit_count() == 1


def align_up(position: int, alignment: int) -> int:
    """Return the smallest multiple of ``alignment`` that is not below ``position``."""
    return -(-position // alignment) * alignment


def check_shape(shape: Sequence[int]) -> None:
    """Check that a tensor may have this shape.

    Raises
    ------
    ValueError
        If the number of dimensions, one of them, or their product is out of range.
    """
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise ValueError(f"{len(shape):,} dimensions, expected 1 to {MAX_DIMENSIONS}")
    if min(shape) < 1 or math.prod(shape) >= MAX_ELEMENTS:
        shown = " x ".join(f"{size:,}" for size in shape)
        raise ValueError(f"{shown} weights, expected at least 1 in each dimension and fewer than 2^48 in all")


def layout_bytes(layout: Layout, shape: Sequence[int]) -> int:
    """Return how many bytes a tensor of this shape takes.

    Parameters
    ----------
    layout : Layout
    shape : sequence of int
        Outermost dimension first.

    Raises
    ------
    ValueError
        If the weights do not fill whole blocks.
    """
    n_weights = math.prod(shape)
    run, unit = (n_weights, "tensor") if layout.blocks_span_rows else (shape[-1], "row")
    if run % layout.block:
        raise ValueError(f"a {unit} of {run:,} weights is not a multiple of the block of {layout.block}")
    return n_weights // layout.block * layout.block_bytes + layout.tail_bytes


def tensor_bytes(tensor_type: TensorType, shape: Sequence[int]) -> int:
    """Return how many bytes a tensor of a readable type takes; see :func:`layout_bytes`.

    Raises
    ------
    ValueError
        If the shape is out of range, its weights do not fill whole blocks, or the type is not one of :data:`LAYOUTS`.
    """
    check_shape(shape)
    if tensor_type not in LAYOUTS:
        raise ValueError(f"type {tensor_type.name} has no known size; {way_out(tensor_type)}")
    return layout_bytes(LAYOUTS[tensor_type], shape)
