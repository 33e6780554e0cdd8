"""Grouped-query attention over a KV cache, in blocks of positions whose results are merged in order.

The order of every sum depends on positions alone, never on how many there are, on threads, or on how many queries are
computed at once: that is what makes the prefill of a prompt equal its single steps, bit for bit.
"""

from bitnet_numba.backends.cpu.kernels.attention.block import ROWS, Scratch, attention_scratch
from bitnet_numba.backends.cpu.kernels.attention.public import attend, attend_many, store_position
from bitnet_numba.backends.cpu.kernels.attention.results import Results, new_results
from bitnet_numba.backends.cpu.kernels.attention.store import BLOCK, TILE, HeadBlock, head_block_bytes

__all__ = [
    "BLOCK",
    "ROWS",
    "TILE",
    "HeadBlock",
    "Results",
    "Scratch",
    "attend",
    "attend_many",
    "attention_scratch",
    "head_block_bytes",
    "new_results",
    "store_position",
]
