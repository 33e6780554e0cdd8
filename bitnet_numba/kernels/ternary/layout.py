"""The layout R16: the two-bit codes of sixteen rows side by side."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.kernels.checks import check_array, check_lanes, check_rank
from bitnet_numba.kernels.jit import jit
from bitnet_numba.simd.memory import copy_word

ROWS = 16  # rows a block: one lane each
RUN = 128  # columns a run: eight lines, whose four bit pairs lie 32 columns apart
LINE = 64  # bytes: four neighbouring bytes of each row of a block
_WORD = LINE // ROWS
LINES = 8  # of a run
LINE_COLUMNS = RUN // LINES
TOKENS = 8  # slots of activations come in multiples of it: the most tokens of a register tile
MAX_COLUMNS = 1 << 19  # a quarter of them, each 2 * 128 at most, 64 times too large, still fits an int32

Bytes = npt.NDArray[np.uint8]
Activations = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]


def pack_r16(i2s: Bytes, out: Bytes | None = None) -> Bytes:
    """Interleave I2_S rows so that one cache line holds four bytes of each of sixteen rows.

    No bit is coded anew: the four-byte words of sixteen rows are transposed.

    Parameters
    ----------
    i2s : uint8[rows, columns // 4]
        ``rows`` a multiple of 32, ``columns`` of 128.
    out : uint8[rows * columns // 4], optional
        Where to write, instead of a new array.

    Returns
    -------
    uint8[rows * columns // 4]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_rank("i2s", i2s, 2)
    rows, row_bytes = i2s.shape
    check_lanes("rows", rows, 2 * ROWS)
    check_lanes("columns", 4 * row_bytes, RUN)
    check_array("i2s", i2s, np.uint8, (rows, row_bytes))
    if out is None:
        out = np.empty(i2s.size, np.uint8)
    check_array("out", out, np.uint8, (i2s.size,), written=True)
    source = i2s.reshape(-1)
    source.flags.writeable = False  # what Numba's types see: a mapped file and an array need one compilation
    _pack(source, row_bytes, out)
    return out


@jit
def _pack(i2s: Bytes, row_bytes: int, out: Bytes) -> None:
    place = 0
    for block in range(0, i2s.size, ROWS * row_bytes):
        for word in range(block, block + row_bytes, _WORD):
            for row in range(ROWS):
                copy_word(i2s, word + row * row_bytes, out, place + row * _WORD)
            place += LINE
