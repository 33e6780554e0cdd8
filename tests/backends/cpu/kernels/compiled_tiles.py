"""Compile the product of many tokens for a CPU with AMX, and print its assembly.

``python -m tests.backends.cpu.kernels.compiled_tiles``, with ``NUMBA_CPU_NAME`` and
``NUMBA_CPU_FEATURES``. Nothing that is compiled runs, so this CPU need not have AMX.
"""

import sys
from unittest.mock import patch

import numba
import numpy as np

from bitnet_numba.backends.cpu.simd import cpu


def main() -> None:
    with patch.object(cpu, "_tile_refusal", lambda: None):
        from bitnet_numba.backends.cpu.kernels.registry import new_counts
        from bitnet_numba.backends.cpu.kernels.ternary import gemm_scratch
        from bitnet_numba.backends.cpu.kernels.ternary.gemm import ternary_gemm_registers
        from bitnet_numba.backends.cpu.kernels.ternary.tiles import ternary_gemm_tiles
        from bitnet_numba.backends.cpu.threads.thread_pool import alone

    weights, q = np.zeros(64 * 128 // 4, np.uint8), np.zeros((24, 128), np.int8)
    q_sum, out = np.zeros(20, np.int32), np.zeros((20, 64), np.int32)
    scratch = gemm_scratch(1, *q.shape)
    sys.stdout.write(f"# {cpu.isa()}\n")
    for kernel, memory in ((ternary_gemm_tiles, scratch.tiles), (ternary_gemm_registers, scratch)):
        dispatcher = kernel.dispatcher  # type: ignore[attr-defined]
        dispatcher.compile(tuple(map(numba.typeof, (alone(), new_counts(), weights, q, q_sum, memory, out))))
        [assembly] = dispatcher.inspect_asm().values()
        sys.stdout.write(assembly)


if __name__ == "__main__":
    main()
