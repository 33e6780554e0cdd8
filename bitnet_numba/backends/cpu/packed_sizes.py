"""The layout of packed ternary weights in numbers, which neither imports Numba nor knows models."""

from bitnet_numba.backends.cpu.simd import cpu

ROWS_PER_BLOCK = 16  # rows whose codes lie side by side: a lane each
WORD = 4  # neighbouring bytes of one row: what a lane of the byte dot product takes
RUN = 128  # columns of a run: of I2_S, and of what is packed from it
TRITS = 5  # weights that a byte can hold; backends/cpu/simd/trits.py takes them apart
GROUP = TRITS * RUN  # columns in the bytes of four runs, where a byte holds five weights
FIVE_TRITS = cpu.packs_five_trits()


def grouped_columns(columns: int) -> int:
    """Return how many of a row's columns are packed five to a byte; those after them are packed four to a byte."""
    return columns // GROUP * GROUP if FIVE_TRITS else 0


def packed_size(rows: int, columns: int) -> int:
    """Return the bytes of a packed matrix."""
    return rows * (columns // 4 - grouped_columns(columns) // (4 * TRITS))
