"""Packing of ternary weights (layout R16): codes of sixteen rows side by side, four or five weights a byte."""

import numpy as np

from bitnet_numba.backends.cpu.array_types import Bytes, check_array
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.packed_sizes import ROWS_PER_BLOCK, RUN, TRITS, WORD, grouped_columns
from bitnet_numba.backends.cpu.simd.memory import copy_word, load_bytes, store_bytes
from bitnet_numba.backends.cpu.simd.trits import add_trit_0, add_trit_2, add_trit_4, add_trit_6

LINE = WORD * ROWS_PER_BLOCK  # bytes: a word of each row of a block
LINES = 8  # of a run, whose four bit pairs lie 32 columns apart
TOKENS = 8  # activation slots come in multiples of it: the most tokens of a register tile

GROUP_RUNS = TRITS - 1  # runs whose lines are stored; their fifth trits are those of one run more
FIFTH = RUN // 4  # columns between a line's fifth trits and those of the run after it
GROUP_BYTES = GROUP_RUNS * LINES * LINE  # of a block


def pack(i2s: Bytes, out: Bytes | None = None) -> Bytes:
    """Pack I2_S rows into layout R16 of this CPU: with five weights a byte where they are unpacked cheaply.

    Then each byte of four runs of 128 columns also holds a weight of a fifth run. ``i2s`` is [rows, columns // 4]: a
    multiple of 32 rows and of 128 columns, no code may be 3. ``out`` is [packed_size(rows, columns)], by default a new
    array. ValueError if shapes, dtypes or memory layouts differ from that.
    """
    return _packed(i2s, out, grouped_columns(4 * i2s.shape[-1]))


def pack_r16(i2s: Bytes, out: Bytes | None = None) -> Bytes:
    """Pack as :func:`pack` does, always four weights a byte, as tiles need it: words are only transposed."""
    return _packed(i2s, out, 0)


def _packed(i2s: Bytes, out: Bytes | None, grouped: int) -> Bytes:
    if i2s.ndim != 2 or not i2s.size or i2s.shape[0] % (2 * ROWS_PER_BLOCK) or i2s.shape[1] % (RUN // 4):
        raise ValueError(f"i2s: expected a multiple of 32 rows and of 32 bytes a row, got {i2s.shape}")
    check_array("i2s", i2s, np.uint8, i2s.shape)
    rows, row_bytes = i2s.shape
    size = i2s.size - rows * grouped // (4 * TRITS)
    if out is None:
        out = np.empty(size, np.uint8)
    check_array("out", out, np.uint8, (size,), written=True)
    source = i2s.reshape(-1)
    source.flags.writeable = False  # what Numba's types see: a mapped file and an array need one compilation
    _pack(source, row_bytes, grouped // 4, np.empty(TRITS * LINE, np.uint8), out)
    return out


@jit
def _pack(i2s: Bytes, row_bytes: int, grouped_bytes: int, lines: Bytes, out: Bytes) -> None:
    """Pack the groups of each block of rows, then its other columns; ``lines`` is scratch for a line of each run."""
    at, run_bytes = 0, RUN // 4
    for block in range(0, i2s.size, ROWS_PER_BLOCK * row_bytes):
        for group in range(block, block + grouped_bytes, TRITS * run_bytes):
            for word in range(group, group + run_bytes, WORD):
                for run in range(TRITS):
                    _transpose(i2s, word + run * run_bytes, row_bytes, run * LINE, lines)
                _add_fifth(lines, at + (word - group) // WORD * LINE, out)
            at += GROUP_BYTES
        for word in range(block + grouped_bytes, block + row_bytes, WORD):
            _transpose(i2s, word, row_bytes, at, out)
            at += LINE


@jit
def _transpose(i2s: Bytes, word: int, row_bytes: int, at: int, out: Bytes) -> None:
    for row in range(ROWS_PER_BLOCK):
        copy_word(i2s, word + row * row_bytes, out, at + row * WORD)


@jit
def _add_fifth(lines: Bytes, at: int, out: Bytes) -> None:
    """Write a line of each of four runs, the fifth's bit pairs shared among them."""
    fifth, run_bytes = load_bytes(lines, GROUP_RUNS * LINE), LINES * LINE
    store_bytes(out, at, add_trit_6(load_bytes(lines, 0), fifth))
    store_bytes(out, at + run_bytes, add_trit_4(load_bytes(lines, LINE), fifth))
    store_bytes(out, at + 2 * run_bytes, add_trit_2(load_bytes(lines, 2 * LINE), fifth))
    store_bytes(out, at + 3 * run_bytes, add_trit_0(load_bytes(lines, 3 * LINE), fifth))
