"""Grouped-query attention over a KV cache, in blocks of positions whose results are merged in order.

The order of every sum depends on positions alone, never on how many there are, on threads, or on how many queries are
computed at once: that is what makes the prefill of a prompt equal its single steps, bit for bit.
"""

from bitnet_numba.backends.cpu.kernels.attention.block import QUERIES_PER_TILE, Scratch, attention_scratch
from bitnet_numba.backends.cpu.kernels.attention.results import Results, new_results
from bitnet_numba.backends.cpu.kernels.attention.store import POSITIONS_PER_BLOCK, HeadBlock, head_block_bytes

__all__ = [
    "POSITIONS_PER_BLOCK",
    "QUERIES_PER_TILE",
    "HeadBlock",
    "Results",
    "Scratch",
    "attention_scratch",
    "head_block_bytes",
    "new_results",
]
