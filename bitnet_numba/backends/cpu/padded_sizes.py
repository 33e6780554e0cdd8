"""Padded sizes of a model: kernels work on full vectors, whatever the head size or hidden size.

Weights and activations are zero in the padding, so sums do not change.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.packed_sizes import RUN
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.model.config import ModelConfig

RowIndex = npt.NDArray[np.int64]


def round_up(n: int, multiple: int) -> int:
    """Return the smallest multiple that is at least ``n``."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True, slots=True)
class PaddedSizes:
    """Padded sizes of a model, and the padded index of each row and column.

    Attributes
    ----------
    hidden, ffn : int
        ``hidden_size`` and ``intermediate_size``, padded to a multiple of ``RUN`` columns.
    half : int
        Half of ``head_dim``, padded to a multiple of 16: each half of a head is padded separately.
    head_dim : int
        ``2 * half``.
    attended : int
        Size of the attention output of all heads, padded to a multiple of ``RUN``.
    """

    config: ModelConfig
    hidden: int
    ffn: int
    half: int
    head_dim: int
    attended: int

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
            attended=round_up(config.n_heads * 2 * half, RUN),
        )

    @property
    def qkv_rows(self) -> int:
        """Rows of the query, key and value projections together."""
        return (self.config.n_heads + 2 * self.config.n_kv_heads) * self.head_dim

    def head_indices(self, n_heads: int, *, adjacent: bool = False) -> RowIndex:
        """Return the padded index of each element of ``n_heads`` heads, int64[n_heads * config.head_dim].

        ``adjacent``: the source stores the two elements of a RoPE pair side by side.
        """
        element = np.arange(self.config.head_dim)
        pairs = self.config.head_dim // 2
        pair, second = (element // 2, element % 2) if adjacent else (element % pairs, element // pairs)
        index = pair + second * self.half
        return (np.arange(n_heads)[:, None] * self.head_dim + index).reshape(-1)
