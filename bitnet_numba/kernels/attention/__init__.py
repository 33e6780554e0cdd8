"""Grouped-query attention over a KV cache, in blocks of positions whose results are merged in order.

The order of every sum depends on positions alone, never on how many there are, on threads, or on how many queries are
computed at once: that is what makes the prefill of a prompt equal its single steps, bit for bit.
"""

from bitnet_numba.kernels.attention.public import attend, attend_four, store_position
from bitnet_numba.kernels.attention.store import BLOCK, HEADER, TILE, HeadBlock, head_block_bytes

__all__ = ["BLOCK", "HEADER", "TILE", "HeadBlock", "attend", "attend_four", "head_block_bytes", "store_position"]
