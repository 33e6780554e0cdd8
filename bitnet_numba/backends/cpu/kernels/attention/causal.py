"""The causal mask of attention: how many positions of a block each query may attend to."""

from typing import NamedTuple

from bitnet_numba.backends.cpu.compiler.jit import jit_inline
from bitnet_numba.backends.cpu.kernels.attention.store import POSITIONS_PER_BLOCK


class CausalLimits(NamedTuple):
    """Number of positions in a block that each query may attend to."""

    n_queries: int  # those of one token are neighbours
    first: int  # causal limit of the first token: token i may attend to first + i positions, clipped to 0..256
    group: int  # queries per token


@jit_inline
def causal_limit(limits: CausalLimits, query: int) -> int:
    """Return the number of positions that a query may attend to; rows after the last query have its limit."""
    limit: int = min(POSITIONS_PER_BLOCK, limits.first + min(query, limits.n_queries - 1) // limits.group)
    return limit


@jit_inline
def n_masked(limits: CausalLimits) -> int:
    """Return the number of queries, the first ones, that may attend to no position of the block."""
    count: int = max(0, 1 - limits.first) * limits.group
    return count
