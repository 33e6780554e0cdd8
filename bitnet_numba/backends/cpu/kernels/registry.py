"""The numbered list of kernels: a kernel counts its runs by its number, and results report the counts by public id.

A whole step is one jitted call, so Python cannot see which kernels ran; the jitted code notes it, beside each call.
"""

import enum

import numpy as np

from bitnet_numba.backends.cpu.array_types import Int64s
from bitnet_numba.backends.cpu.simd import cpu

Counts = Int64s


class Kernel(enum.IntEnum):
    """Number of a kernel: its index in an array of counts. Jitted code reads a member as an integer constant."""

    TERNARY_GEMV = 0
    TERNARY_GEMM = enum.auto()
    TERNARY_GEMM_TILES = enum.auto()
    QUANTIZE_ABSMAX = enum.auto()
    RMS_NORM = enum.auto()
    ROPE = enum.auto()
    KV_CACHE_UPDATE = enum.auto()
    ATTENTION = enum.auto()
    FFN_RELU2 = enum.auto()
    FFN_SILU = enum.auto()
    EMBEDDING = enum.auto()
    HEAD_F16 = enum.auto()
    HEAD_BF16 = enum.auto()
    HEAD_F32 = enum.auto()
    HEAD_INT8 = enum.auto()
    HEAD_FILTER = enum.auto()
    HEAD_RESCORE = enum.auto()
    SOFTMAX = enum.auto()


_TERNARY_ISA = cpu.isa() if cpu.packs_five_trits() else cpu.vector_isa()
_TILES_ISA = cpu.isa() if cpu.has_tiles() else cpu.TILES

KERNEL_IDS = {
    Kernel.TERNARY_GEMV: f"i2s_gemv_{_TERNARY_ISA}",
    Kernel.TERNARY_GEMM: f"i2s_gemm_{_TERNARY_ISA}",
    Kernel.TERNARY_GEMM_TILES: f"i2s_gemm_{_TILES_ISA}",
    Kernel.QUANTIZE_ABSMAX: "quantize_absmax_int8",
    Kernel.RMS_NORM: "rmsnorm_forward",
    Kernel.ROPE: "rope_forward",
    Kernel.KV_CACHE_UPDATE: "attention_kv_cache_update",
    Kernel.ATTENTION: "attention_forward",
    Kernel.FFN_RELU2: "ffn_relu2_forward",
    Kernel.FFN_SILU: "ffn_silu_forward",
    Kernel.EMBEDDING: "embedding_lookup",
    Kernel.HEAD_F16: "f16_head_gemv",
    Kernel.HEAD_BF16: "bf16_head_gemv",
    Kernel.HEAD_F32: "f32_head_gemv",
    Kernel.HEAD_INT8: "int8_head_gemv",
    Kernel.HEAD_FILTER: f"int8_head_screen_{cpu.vector_isa()}",
    Kernel.HEAD_RESCORE: "head_rescore",
    Kernel.SOFTMAX: "softmax_forward",
}
"""Public id of each kernel, in the order of their numbers."""


def new_counts() -> Counts:
    """Return a count of zero for every kernel, int64[n_kernels]."""
    return np.zeros(len(Kernel), np.int64)


def counted(counts: Counts) -> dict[str, int]:
    """Return how often each kernel has run, by public id, without those that have not."""
    return {KERNEL_IDS[kernel]: int(counts[kernel]) for kernel in Kernel if counts[kernel]}
