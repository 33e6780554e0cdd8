"""The tensor formats of GGUF: one record each, which loading, export, ``quantize``, ``inspect`` and the CLI read.

A new format is a record in :data:`FORMATS` and a module with its codec. Nothing here imports NumPy, so that help texts
can list the formats.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, cast

from bitnet_numba.formats.gguf_types import TensorType, check_shape

if TYPE_CHECKING:
    from bitnet_numba.formats.packing.codec import Codec, FloatCodec, MatrixCodec, TernaryCodec

_PACKING = "bitnet_numba.formats.packing"


class Kind(Enum):
    """Use of a format."""

    FLOAT = "norms, embeddings, heads, and master weights of linear layers"
    TERNARY = "linear layers"
    INT8 = "embeddings and heads that run as int8 codes with group scales"
    DEQUANTIZED = "embeddings and heads that the gguf package dequantizes to float32"


class Layout(NamedTuple):
    """How weights become bytes: each ``block`` weights take ``block_bytes``; ``tail_bytes`` follow the last block."""

    block: int
    block_bytes: int
    tail_bytes: int = 0
    blocks_span_rows: bool = False


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """A tensor format that is read.

    ``file_type`` is ``general.file_type`` of files whose linear layers have the format; None if ``export`` and
    ``quantize`` do not write it.
    """

    type: TensorType  # its number in files
    kind: Kind
    layout: Layout
    module: str  # has the codec in CODECS, under the name of the type
    file_type: int | None = None

    @property
    def codec(self) -> "Codec":
        """Unpacks and packs the format; imported when it is first used."""
        return cast("Codec", import_module(self.module).CODECS[self.type.name])


def _formats() -> dict[TensorType, TensorFormat]:
    """Return the records, in the order in which users see them."""
    kind, of = Kind, TensorType
    floats, int8, package = f"{_PACKING}.floats", f"{_PACKING}.int8_blocks", f"{_PACKING}.gguf_package"
    records = [
        TensorFormat(of.F16, kind.FLOAT, Layout(1, 2), floats, file_type=1),
        TensorFormat(of.BF16, kind.FLOAT, Layout(1, 2), floats, file_type=32),
        TensorFormat(of.F32, kind.FLOAT, Layout(1, 4), floats, file_type=0),
        # I2_S packs the flattened tensor: a block may hold the end of a row and the beginning of the next.
        TensorFormat(of.I2_S, kind.TERNARY, Layout(128, 32, 32, blocks_span_rows=True), f"{_PACKING}.i2s", 40),
        TensorFormat(of.TQ2_0, kind.TERNARY, Layout(256, 66), f"{_PACKING}.tq", file_type=37),
        TensorFormat(of.TQ1_0, kind.TERNARY, Layout(256, 54), f"{_PACKING}.tq", file_type=36),
        TensorFormat(of.Q8_0, kind.INT8, Layout(32, 34), int8),
        TensorFormat(of.Q6_K, kind.INT8, Layout(256, 210), int8),
        TensorFormat(of.Q4_0, kind.DEQUANTIZED, Layout(32, 18), package),
        TensorFormat(of.Q4_1, kind.DEQUANTIZED, Layout(32, 20), package),
        TensorFormat(of.Q5_0, kind.DEQUANTIZED, Layout(32, 22), package),
        TensorFormat(of.Q5_1, kind.DEQUANTIZED, Layout(32, 24), package),
        TensorFormat(of.Q2_K, kind.DEQUANTIZED, Layout(256, 84), package),
        TensorFormat(of.Q3_K, kind.DEQUANTIZED, Layout(256, 110), package),
        TensorFormat(of.Q4_K, kind.DEQUANTIZED, Layout(256, 144), package),
        TensorFormat(of.Q5_K, kind.DEQUANTIZED, Layout(256, 176), package),
        TensorFormat(of.IQ2_XXS, kind.DEQUANTIZED, Layout(256, 66), package),
        TensorFormat(of.IQ2_XS, kind.DEQUANTIZED, Layout(256, 74), package),
        TensorFormat(of.IQ2_S, kind.DEQUANTIZED, Layout(256, 82), package),
        TensorFormat(of.IQ3_XXS, kind.DEQUANTIZED, Layout(256, 98), package),
        TensorFormat(of.IQ3_S, kind.DEQUANTIZED, Layout(256, 110), package),
        TensorFormat(of.IQ1_S, kind.DEQUANTIZED, Layout(256, 50), package),
        TensorFormat(of.IQ1_M, kind.DEQUANTIZED, Layout(256, 56), package),
        TensorFormat(of.IQ4_NL, kind.DEQUANTIZED, Layout(32, 18), package),
        TensorFormat(of.IQ4_XS, kind.DEQUANTIZED, Layout(256, 136), package),
    ]
    return {record.type: record for record in records}


FORMATS: dict[TensorType, TensorFormat] = _formats()
"""Every format that is read."""

UPSTREAM_TWINS: Mapping[TensorType, tuple[str, Layout]] = {
    TensorType.I2_S: ("IQ4_NL_4_4", Layout(32, 18)),
    TensorType.I8_S: ("IQ4_NL_4_8", Layout(32, 18)),
    TensorType.TL1: ("IQ4_NL_8_8", Layout(32, 18)),
    TensorType.TL2: ("MXFP4", Layout(32, 17)),
}
"""Numbers that llama.cpp and bitnet.cpp assigned independently: their meaning in files of llama.cpp."""

_TAKE_I2_S = "take the I2_S file of the same model"
_TAKE_TERNARY = "take the model's I2_S, TQ1_0 or TQ2_0 file"
_REMEDIES = {
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


def remedy(tensor_type: TensorType | None) -> str:
    """Return the remedy for a type that is not read; None for an unknown type or one of llama.cpp."""
    names = ", ".join(known.type.name for known in FORMATS.values() if known.kind is not Kind.DEQUANTIZED)
    general = f"use a file that holds only {names}"
    return general if tensor_type is None else _REMEDIES.get(tensor_type, general)


# ---- formats by kind -------------------------------------------------------------------------------------------------
def writable(*kinds: Kind) -> dict[str, TensorFormat]:
    """Return the formats of these kinds that export and quantize write, by the names that users give them."""
    return {
        known.type.name.lower(): known
        for known in FORMATS.values()
        if known.kind in kinds and known.file_type is not None
    }


def type_names(*kinds: Kind) -> tuple[str, ...]:
    """Return the names of all types of these kinds, as files have them."""
    return tuple(known.type.name for known in FORMATS.values() if known.kind in kinds)


def float_codec(name: str) -> "FloatCodec | None":
    """Return the codec of F32, F16 or BF16, as GGUF and safetensors call them; None for other names."""
    known = FORMATS[TensorType[name]] if name in type_names(Kind.FLOAT) else None
    return None if known is None else cast("FloatCodec", known.codec)


def ternary_codec(tensor_type: TensorType) -> "TernaryCodec | None":
    """Return the codec of a ternary type; None for the other types that are read."""
    known = FORMATS[tensor_type]
    return cast("TernaryCodec", known.codec) if known.kind is Kind.TERNARY else None


def matrix_codec(tensor_type: TensorType) -> "MatrixCodec | None":
    """Return the codec of a type that embeddings and heads run in; None for ternary types."""
    known = FORMATS[tensor_type]
    return None if known.kind is Kind.TERNARY else cast("MatrixCodec", known.codec)


# ---- sizes -----------------------------------------------------------------------------------------------------------
def layout_bytes(layout: Layout, shape: Sequence[int]) -> int:
    """Return a tensor's size in bytes, its shape outermost dimension first; ValueError for a broken block."""
    n_weights = math.prod(shape)
    run, unit = (n_weights, "tensor") if layout.blocks_span_rows else (shape[-1], "row")
    if run % layout.block:
        raise ValueError(f"a {unit} of {run:,} weights is not a multiple of the block of {layout.block}")
    return n_weights // layout.block * layout.block_bytes + layout.tail_bytes


def tensor_bytes(tensor_type: TensorType, shape: Sequence[int]) -> int:
    """Return a tensor's size in bytes; ValueError for an impossible shape, a broken block, or a type not read."""
    check_shape(shape)
    if tensor_type not in FORMATS:
        raise ValueError(f"type {tensor_type.name} has no known size; {remedy(tensor_type)}")
    return layout_bytes(FORMATS[tensor_type].layout, shape)
