"""Rotary position embedding, for pairs half a head apart."""

from typing import Any

import numpy as np

from bitnet_numba.backends.cpu.array_types import Doubles, Floats, Int32s
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.simd.memory import load_f32, load_i32, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import add_f32, broadcast_f32, mul_f32, sub_f32, to_f32

BLOCK_POSITIONS = 4096  # rows that are computed at a time: 2 ms and 2 MB for 128 wide heads

# pi / 2 in three parts: the first two have 27 bits less than a float64, so that integer multiples of them are exact
_HALF_PI = (1.5707963109016418, 1.5893254712295857e-08, 6.123233995736766e-17)
_SINE = tuple((-1.0) ** k / np.prod(np.arange(1.0, 2 * k + 2)) for k in range(9))  # Taylor, for |r| <= pi / 4
_COSINE = tuple((-1.0) ** k / np.prod(np.arange(1.0, 2 * k + 1)) for k in range(10))


class RopeTable:
    """The RoPE table of a context, computed in blocks as far as sequences reach.

    Memory for all positions is reserved, and taken where a block is computed: a context of millions of positions costs
    nothing until a sequence is that long. ``allocate`` is that of ``backends/cpu/memory.py``.

    Attributes
    ----------
    rows : float32[n_positions, 2 * half]
        Read-only; see :func:`rope_table`.
    """

    def __init__(self, inverse_frequency: Doubles, n_positions: int, half: int, allocate: Any) -> None:
        self._frequencies, self._half = inverse_frequency, half
        self._table = allocate((n_positions, 2 * half), np.float32, f"RoPE for {n_positions:,} positions")
        self._n_filled = 0
        self.rows: Floats = self._table.view()
        self.rows.flags.writeable = False

    def fill(self, n_positions: int) -> None:
        """Compute the rows of the first ``n_positions``, in whole blocks, unless they are there."""
        while self._n_filled < n_positions:
            end = min(self._n_filled + BLOCK_POSITIONS, len(self._table))
            self._table[self._n_filled : end] = rope_table(self._frequencies, end, self._half, first=self._n_filled)
            self._n_filled = end


def rope_table(inverse_frequency: Doubles, n_positions: int, half: int, first: int = 0) -> Floats:
    """Return the cosines, then the sines of the angles of positions ``first`` to ``n_positions``, float32[n, 2 * half].

    They are computed in float64 from additions and products alone, so that every system has the same table. ``half`` is
    the number of frequencies padded to a multiple of 16; padding is not rotated.
    """
    pairs = inverse_frequency.size
    angle = np.arange(first, n_positions, dtype=np.float64)[:, None] * inverse_frequency
    quarter = np.rint(angle * (2 / np.pi))  # any integer near it serves: the remainder makes up for it
    remainder = ((angle - quarter * _HALF_PI[0]) - quarter * _HALF_PI[1]) - quarter * _HALF_PI[2]
    square = remainder * remainder
    sine, cosine = remainder * _polynomial(_SINE, square), _polynomial(_COSINE, square)
    quadrant = quarter.astype(np.int64) % 4
    table = np.zeros((n_positions - first, 2 * half), np.float32)
    table[:, :half] = 1
    table[:, :pairs] = np.choose(quadrant, (cosine, -sine, -cosine, sine))
    table[:, half : half + pairs] = np.choose(quadrant, (sine, cosine, -sine, -cosine))
    return table


def _polynomial(terms: tuple[float, ...], x: Doubles) -> Doubles:
    total = np.full_like(x, terms[-1])
    for term in reversed(terms[:-1]):
        total = total * x + term
    return total


@jit
def rope(acc: Int32s, scale: np.float32, table: Floats, out: Floats) -> None:
    """Rotate one head: pair i is ``(head[i], head[half + i])``, rotated by the position's angle i.

    The head is ``acc * scale``; ``table`` is the position's row of :func:`rope_table`. All are of length ``2 * half``.

    References: Su et al., "RoFormer", 2021; the half-split pairing is that of Hugging Face transformers'
    ``rotate_half``.
    """
    half = table.size // 2
    factor = broadcast_f32(scale)
    for i in range(0, half, LANES):
        first = mul_f32(to_f32(load_i32(acc, i)), factor)
        second = mul_f32(to_f32(load_i32(acc, half + i)), factor)
        cosine, sine = load_f32(table, i), load_f32(table, half + i)
        store_f32(out, i, sub_f32(mul_f32(first, cosine), mul_f32(second, sine)))
        store_f32(out, half + i, add_f32(mul_f32(second, cosine), mul_f32(first, sine)))
