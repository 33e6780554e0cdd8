"""Pack and unpack each tensor format: bytes to exact codes and scales, and back. No mathematics of models."""

from bitnet_numba.formats.packing.codes import check_codes
from bitnet_numba.formats.packing.floats import bf16_to_float32
from bitnet_numba.formats.packing.huggingface import pack_hf, unpack_hf
from bitnet_numba.formats.packing.i2s import i2s_bytes, pack_i2s, read_i2s_scale, unpack_i2s
from bitnet_numba.formats.packing.int8_blocks import split_q6_k, split_q8_0
from bitnet_numba.formats.packing.masters import absmean_ternary, exact_ternary
from bitnet_numba.formats.packing.tq import pack_tq1_0, pack_tq2_0, unpack_tq1_0, unpack_tq2_0

__all__ = [
    "absmean_ternary",
    "bf16_to_float32",
    "check_codes",
    "exact_ternary",
    "i2s_bytes",
    "pack_hf",
    "pack_i2s",
    "pack_tq1_0",
    "pack_tq2_0",
    "read_i2s_scale",
    "split_q6_k",
    "split_q8_0",
    "unpack_hf",
    "unpack_i2s",
    "unpack_tq1_0",
    "unpack_tq2_0",
]
