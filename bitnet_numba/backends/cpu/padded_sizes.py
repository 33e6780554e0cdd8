"""Padded sizes of a model: kernels work on full vectors, whatever the head size or hidden size.

Weights and activations are zero in the padding, so sums do not change.
"""

from dataclasses import dataclass

import numpy as np

from bitnet_numba.backends.cpu.array_types import Int64s
from bitnet_numba.backends.cpu.packed_sizes import RUN
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.model.config import ModelConfig


def round_up(n: int, multiple: int) -> int:
    """Return the smallest multiple that is at least ``n``."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True, slots=True)
class PaddedSizes:
    """Padded sizes of a model, and the padded index of each row and column."""

    config: ModelConfig
    hidden: int  # hidden_size, padded to a multiple of RUN columns
    ffn: int  # intermediate_size, likewise
    half: int  # half of head_dim, padded to a multiple of 16: each half of a head is padded separately
    head_dim: int  # 2 * half
    attn: int  # size of the attention output of all heads, padded to a multiple of RUN

    @classmethod
    def of(cls, config: ModelConfig) -> "PaddedSizes":
        """Return the padded sizes of a model."""
        half = round_up(config.head_dim // 2, LANES)
        return cls(
            config=config,
            hidden=round_up(config.hidden_size, RUN),
            ffn=round_up(config.intermediate_size, RUN),
            half=half,
            head_dim=2 * half,
            attn=round_up(config.n_heads * 2 * half, RUN),
        )

    @property
    def qkv_rows(self) -> int:
        """Rows of the query, key and value projections together."""
        return (self.config.n_heads + 2 * self.config.n_kv_heads) * self.head_dim

    def head_indices(self, n_heads: int, *, adjacent: bool = False) -> Int64s:
        """Return the padded index of each element of ``n_heads`` heads, int64[n_heads * config.head_dim].

        ``adjacent``: the source stores the two elements of a RoPE pair side by side.
        """
        element = np.arange(self.config.head_dim)
        pairs = self.config.head_dim // 2
        pair, second = (element // 2, element % 2) if adjacent else (element % pairs, element // pairs)
        index = pair + second * self.half
        return (np.arange(n_heads)[:, None] * self.head_dim + index).reshape(-1)
