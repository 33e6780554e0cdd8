"""F32, F16 and BF16: the unquantized formats of norms, embeddings, heads and master weights."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.formats.packing.codec import Float32, FloatCodec


def bf16_to_float32(bits: npt.NDArray[np.uint16]) -> Float32:
    """Widen bfloat16 bit patterns, exactly: they are the upper halves of float32 ones."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def float32_to_bf16(values: Float32) -> npt.NDArray[np.uint16]:
    """Round to bfloat16 bit patterns, halves to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2")


def _float32(values: npt.NDArray[Any]) -> Float32:
    return values.astype(np.float32)


def _f16(values: Float32) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore", under="ignore"):
        return values.astype("<f2")


CODECS = {
    "F32": FloatCodec("<f4", np.float32, _float32, lambda values: values.astype("<f4", copy=False)),
    "F16": FloatCodec("<f2", np.uint16, _float32, _f16),
    "BF16": FloatCodec("<u2", np.int16, bf16_to_float32, float32_to_bf16),
}
