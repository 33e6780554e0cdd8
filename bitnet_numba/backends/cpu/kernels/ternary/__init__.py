"""Ternary matrix times int8 activations, exact in int32: one layout for one token and for many."""

from bitnet_numba.backends.cpu.kernels.ternary.gemm import GemmScratch, gemm_scratch, gemm_worker
from bitnet_numba.backends.cpu.kernels.ternary.gemv import gemv_worker
from bitnet_numba.backends.cpu.kernels.ternary.layout import MAX_COLUMNS, TOKENS, pack, pack_r16
from bitnet_numba.backends.cpu.kernels.ternary.product import ternary_product
from bitnet_numba.backends.cpu.packed_sizes import RUN, packed_size

__all__ = [
    "MAX_COLUMNS",
    "RUN",
    "TOKENS",
    "GemmScratch",
    "gemm_scratch",
    "gemm_worker",
    "gemv_worker",
    "pack",
    "pack_r16",
    "packed_size",
    "ternary_product",
]
