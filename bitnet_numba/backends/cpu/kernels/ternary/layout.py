"""How ternary weights lie in memory: the codes of sixteen rows side by side, four or five weights a byte."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.checks import check_array, check_lanes, check_rank
from bitnet_numba.backends.cpu.kernels.jit import jit
from bitnet_numba.backends.cpu.packed_sizes import RUN, TRITS, grouped_columns
from bitnet_numba.backends.cpu.simd.memory import copy_word, load_bytes, store_bytes
from bitnet_numba.backends.cpu.simd.trits import add_trit_0, add_trit_2, add_trit_4, add_trit_6

ROWS = 16  # rows a block: one lane each
LINE = 64  # bytes: four neighbouring bytes of each row of a block
WORD = LINE // ROWS
LINES = 8  # of a run, whose four bit pairs lie 32 columns apart
TOKENS = 8  # slots of activations come in multiples of it: the most tokens of a register tile
MAX_COLUMNS = 1 << 19  # a quarter of them, each 2 * 128 at most, 64 times too large, still fits an int32

GROUP_RUNS = TRITS - 1  # runs whose lines are kept, each with a fifth trit: those of one run more
FIFTH = RUN // 4  # columns between a line's fifth trits and those of the run after it
GROUP_BYTES = GROUP_RUNS * LINES * LINE  # of a block

Bytes = npt.NDArray[np.uint8]
Activations = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]


def pack(i2s: Bytes, out: Bytes | None = None) -> Bytes:
    """Interleave I2_S rows so that one cache line holds four bytes of each of sixteen rows.

    Where the CPU takes trits apart cheaply, each byte of four runs of 128 columns gets a weight of a fifth run besides.

    Parameters
    ----------
    i2s : uint8[rows, columns // 4]
        ``rows`` a multiple of 32, ``columns`` of 128; no code may be 3.
    out : uint8[packed_size(rows, columns)], optional
        Where to write, instead of a new array.

    Returns
    -------
    uint8[packed_size(rows, columns)]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    return _packed(i2s, out, grouped_columns(4 * i2s.shape[-1]))


def pack_r16(i2s: Bytes, out: Bytes | None = None) -> Bytes:
    """Pack as :func:`pack` does, always four weights a byte, for tiles: no bit is coded anew, words are transposed."""
    return _packed(i2s, out, 0)


def _packed(i2s: Bytes, out: Bytes | None, grouped: int) -> Bytes:
    check_rank("i2s", i2s, 2)
    rows, row_bytes = i2s.shape
    check_lanes("rows", rows, 2 * ROWS)
    check_lanes("columns", 4 * row_bytes, RUN)
    check_array("i2s", i2s, np.uint8, (rows, row_bytes))
    size = i2s.size - rows * grouped // (4 * TRITS)
    if out is None:
        out = np.empty(size, np.uint8)
    check_array("out", out, np.uint8, (size,), written=True)
    source = i2s.reshape(-1)
    source.flags.writeable = False  # what Numba's types see: a mapped file and an array need one compilation
    _pack(source, row_bytes, grouped // 4, out, np.empty(TRITS * LINE, np.uint8))
    return out


@jit
def _pack(i2s: Bytes, row_bytes: int, grouped_bytes: int, out: Bytes, lines: Bytes) -> None:
    """Pack groups, by way of memory for their five lines, and then what is left of each block of rows."""
    place, run_bytes = 0, RUN // 4
    for block in range(0, i2s.size, ROWS * row_bytes):
        for group in range(block, block + grouped_bytes, TRITS * run_bytes):
            for word in range(group, group + run_bytes, WORD):
                for run in range(TRITS):
                    _transpose(i2s, word + run * run_bytes, row_bytes, lines, run * LINE)
                _add_fifth(lines, out, place + (word - group) // WORD * LINE)
            place += GROUP_BYTES
        for word in range(block + grouped_bytes, block + row_bytes, WORD):
            _transpose(i2s, word, row_bytes, out, place)
            place += LINE


@jit
def _transpose(i2s: Bytes, word: int, row_bytes: int, out: Bytes, place: int) -> None:
    for row in range(ROWS):
        copy_word(i2s, word + row * row_bytes, out, place + row * WORD)


@jit
def _add_fifth(lines: Bytes, out: Bytes, place: int) -> None:
    """Write a line of each of four runs, the fifth's bit pairs shared among them."""
    fifth, run_bytes = load_bytes(lines, GROUP_RUNS * LINE), LINES * LINE
    store_bytes(out, place, add_trit_6(load_bytes(lines, 0), fifth))
    store_bytes(out, place + run_bytes, add_trit_4(load_bytes(lines, LINE), fifth))
    store_bytes(out, place + 2 * run_bytes, add_trit_2(load_bytes(lines, 2 * LINE), fifth))
    store_bytes(out, place + 3 * run_bytes, add_trit_0(load_bytes(lines, 3 * LINE), fifth))
