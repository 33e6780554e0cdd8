"""I2_S, the ternary format of bitnet.cpp: four weights a byte, then one scale for the tensor.

The order of the weights within a run was checked against files that bitnet.cpp's quantizer wrote.
"""

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, ParameterError, UnsupportedError
from bitnet_numba.formats.packing.codec import TernaryCodec
from bitnet_numba.formats.packing.codes import (
    CHUNK_BYTES,
    RUN,
    check_codes,
    check_length,
    check_ternary,
    two_bit_nonzeros,
    unpack_runs,
)
from bitnet_numba.formats.packing.matrices import TernaryMatrix, checked_scale

TAIL_BYTES = 32  # the float32 scale, then 28 bytes without meaning
_LARGEST = float(np.finfo(np.float32).max)


def i2s_bytes(n_weights: int) -> int:
    """Return the size of an I2_S tensor in bytes, its tail included."""
    return n_weights // 4 + TAIL_BYTES


def read_i2s_scale(data: npt.NDArray[np.uint8], place: str = "I2_S tensor") -> np.float32:
    """Read the scale in an I2_S tensor's tail; FormatError if it is not a finite number above 0."""
    return checked_scale(data[-TAIL_BYTES : 4 - TAIL_BYTES].view("<f4")[0], place)


def unpack_i2s(
    data: npt.NDArray[np.uint8], shape: tuple[int, int], place: str = "I2_S tensor", *, block: int = RUN
) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Unpack I2_S into weights, int8[rows, columns], and their scale, float32.

    Runs of ``block`` weights follow each other over the flattened tensor, so a row may begin inside one: 128, or 64 in
    files that bitnet.cpp quantized on ARM after November 2025. No file says which of the two it has.

    Raises FormatError if the length does not fit the shape, a code is 3, or the scale is not a finite number above 0.
    """
    if block not in (64, RUN):
        raise ParameterError(f"I2_S block {block}: expected 128, or 64 for files quantized on ARM")
    rows, columns = shape
    n_weights = rows * columns
    if n_weights % RUN:
        raise FormatError(f"{place}: {rows} x {columns} weights are not a multiple of {RUN}; get the file again")
    check_length(data, i2s_bytes(n_weights), place)
    scale = read_i2s_scale(data, place)
    packed = data[: n_weights // 4]
    check_codes(packed, place)
    return unpack_runs(packed, block).reshape(rows, columns), scale


def _linear(data: npt.NDArray[np.uint8], shape: tuple[int, int], place: str) -> TernaryMatrix:
    """Return a linear layer; its codes as they are where every row begins a run."""
    rows, columns = shape
    if columns % RUN:
        weights, scale = unpack_i2s(data, shape, place)
        return TernaryMatrix(scale, weights=weights)
    check_length(data, i2s_bytes(rows * columns), place)
    codes = data[: rows * columns // 4]
    check_codes(codes, place)
    return TernaryMatrix(read_i2s_scale(data, place), i2s=codes.reshape(rows, columns // 4))


def _count_nonzeros(data: npt.NDArray[np.uint8], place: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Count the non-zero weights of codes without their tail."""
    return np.array([two_bit_nonzeros(np.bincount(data, minlength=256), place)]), np.ones(1, np.float32)


def pack_i2s(weights: npt.NDArray[np.int8], scale: float) -> npt.NDArray[np.uint8]:
    """Pack ternary weights, int8[rows, columns], as I2_S: codes in runs of 128, the scale, 28 zero bytes.

    Raises ParameterError for a weight that is not ternary or a scale that is not a finite float32 above 0,
    UnsupportedError if the number of weights is not a multiple of 128.
    """
    if weights.size % RUN:
        raise UnsupportedError(f"I2_S holds multiples of {RUN} weights, not {weights.size:,}; use F16 for this tensor")
    if not 0 < scale <= _LARGEST or np.float32(scale) == 0:
        raise ParameterError(f"I2_S scale {scale}: expected a finite float32 above 0")
    check_ternary(weights)
    packed = np.zeros(i2s_bytes(weights.size), np.uint8)
    codes = packed[:-TAIL_BYTES]
    flat = weights.reshape(-1)
    for start in range(0, codes.size, CHUNK_BYTES):
        chunk = flat[4 * start : 4 * (start + CHUNK_BYTES)]
        quarters = (chunk + np.int8(1)).view(np.uint8).reshape(-1, 4, RUN // 4)
        runs = codes[start : start + CHUNK_BYTES].reshape(-1, RUN // 4)
        for quarter in range(4):
            runs |= quarters[:, quarter] << (6 - 2 * quarter)
    packed[-TAIL_BYTES : 4 - TAIL_BYTES] = np.array([scale], "<f4").view(np.uint8)
    return packed


CODECS = {"I2_S": TernaryCodec(_linear, unpack_i2s, pack_i2s, _count_nonzeros, np.float32)}
