"""Ternary matrix times int8 activations, exact in int32: one layout for one token and for many."""

from bitnet_numba.backends.cpu.kernels.ternary.gemm import GemmScratch, gemm_scratch, ternary_gemm
from bitnet_numba.backends.cpu.kernels.ternary.gemv import ternary_gemv
from bitnet_numba.backends.cpu.kernels.ternary.layout import TOKENS, pack

__all__ = ["TOKENS", "GemmScratch", "gemm_scratch", "pack", "ternary_gemm", "ternary_gemv"]
