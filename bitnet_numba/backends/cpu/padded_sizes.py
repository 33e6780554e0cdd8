"""The sizes that the kernels work with: every dimension padded to whole lanes, lines and runs.

Padding weighs nothing: weights there are zero, so are activations, and a sum over it adds zeros. It lets models of any
shape, with heads of 100 elements or 8,640 hidden ones, run on kernels that know only full vectors.
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
    """Padded sizes of a model, and where its rows and columns go.

    Attributes
    ----------
    hidden, ffn : int
        ``hidden_size`` and ``intermediate_size``, padded to whole runs of 128 columns.
    half : int
        Half a head, padded to 16: a head is its first half, padding, its second half, padding.
    head_dim : int
        A padded head, ``2 * half``.
    attended : int
        All query heads side by side, padded to whole runs.
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
        """Return where each element of ``n_heads`` heads goes, int64[n_heads * head_dim of the model].

        Parameters
        ----------
        n_heads : int
        adjacent : bool
            Whether the source keeps the two elements of a RoPE pair side by side.
        """
        element = np.arange(self.config.head_dim)
        pairs = self.config.head_dim // 2
        pair, second = (element // 2, element % 2) if adjacent else (element % pairs, element // pairs)
        place = pair + second * self.half
        return (np.arange(n_heads)[:, None] * self.head_dim + place).reshape(-1)
