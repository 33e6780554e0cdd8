"""I2_S, the ternary form of bitnet.cpp: four weights a byte, then one scale for the tensor.

The order of the weights within a run was checked against files that bitnet.cpp's quantizer wrote.
"""

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, ParameterError, UnsupportedError
from bitnet_numba.formats.packing.codes import CHUNK_BYTES, check_codes, check_length, check_ternary

RUN = 128  # weights whose order is shuffled together
TAIL_BYTES = 32  # the float32 scale, then 28 bytes that mean nothing
_LARGEST = float(np.finfo(np.float32).max)


def i2s_bytes(n_weights: int) -> int:
    """Return the size of an I2_S tensor in bytes, its tail included."""
    return n_weights // 4 + TAIL_BYTES


def read_i2s_scale(data: npt.NDArray[np.uint8], place: str = "I2_S tensor") -> np.float32:
    """Read the scale at the head of an I2_S tensor's tail.

    Parameters
    ----------
    data : uint8[n_weights // 4 + 32]
    place : str
        File and tensor, for the message.

    Raises
    ------
    FormatError
        If the scale is not a finite number above zero.
    """
    scale = np.float32(data[-TAIL_BYTES : 4 - TAIL_BYTES].view("<f4")[0])
    if not 0 < scale < np.inf:
        raise FormatError(f"{place}: its scale is {scale}, expected a finite number above 0; get the file again")
    return scale


def unpack_i2s(
    data: npt.NDArray[np.uint8], shape: tuple[int, int], *, block: int = 128, place: str = "I2_S tensor"
) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Unpack I2_S codes into weights.

    Runs follow each other over the flattened tensor, so a row may begin inside one.

    Parameters
    ----------
    data : uint8[rows * columns // 4 + 32]
    shape : (rows, columns)
    block : {128, 64}
        Weights a run; 64 is the order of files that bitnet.cpp quantized on ARM after November 2025. Nothing in a file
        tells the two apart.
    place : str
        File and tensor, for messages.

    Returns
    -------
    weights : int8[rows, columns]
        -1, 0 or +1.
    scale : float32

    Raises
    ------
    FormatError
        If the length does not fit the shape, a code is 3, or the scale is not a finite number above zero.
    ParameterError
        If ``block`` is neither 128 nor 64.
    """
    if block not in (64, 128):
        raise ParameterError(f"I2_S block {block}: expected 128, or 64 for files quantized on ARM")
    rows, columns = shape
    n_weights = rows * columns
    if n_weights % RUN:
        raise FormatError(f"{place}: {rows} x {columns} weights are not a multiple of {RUN}; get the file again")
    check_length(data, i2s_bytes(n_weights), place)
    scale = read_i2s_scale(data, place)
    packed = data[: n_weights // 4]
    check_codes(packed, place)
    weights = np.empty(n_weights, np.int8)
    for start in range(0, packed.size, CHUNK_BYTES):
        chunk = packed[start : start + CHUNK_BYTES]
        _spread(chunk.reshape(-1, block // 4), weights[4 * start : 4 * (start + chunk.size)])
    return weights.reshape(rows, columns), scale


def _spread(runs: npt.NDArray[np.uint8], out: npt.NDArray[np.int8]) -> None:
    """Write the weights of whole runs, uint8[n_runs, run // 4], to ``out``, int8[n_runs * run]."""
    n_runs, run_bytes = runs.shape
    codes = out.view(np.uint8)
    quarters = codes.reshape(n_runs, 4, run_bytes)
    for quarter in range(4):
        np.right_shift(runs, 6 - 2 * quarter, out=quarters[:, quarter])
    codes &= 3
    out -= 1


def pack_i2s(weights: npt.NDArray[np.int8], scale: float) -> npt.NDArray[np.uint8]:
    """Pack ternary weights as I2_S: codes in runs of 128, the scale, 28 zero bytes.

    Parameters
    ----------
    weights : int8[rows, columns]
        -1, 0 or +1.
    scale : float
        Rounded to float32.

    Returns
    -------
    uint8[rows * columns // 4 + 32]

    Raises
    ------
    ParameterError
        If a weight is not ternary, or the scale is not a finite float32 above zero.
    UnsupportedError
        If the number of weights is not a multiple of 128.
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
        _gather(flat[4 * start : 4 * (start + CHUNK_BYTES)], codes[start : start + CHUNK_BYTES])
    packed[-TAIL_BYTES : 4 - TAIL_BYTES] = np.array([scale], "<f4").view(np.uint8)
    return packed


def _gather(weights: npt.NDArray[np.int8], out: npt.NDArray[np.uint8]) -> None:
    """Write the codes of whole runs, int8[n_runs * 128], to ``out``, uint8[n_runs * 32]."""
    quarters = (weights + np.int8(1)).view(np.uint8).reshape(-1, 4, RUN // 4)
    packed = out.reshape(-1, RUN // 4)
    for quarter in range(4):
        packed |= quarters[:, quarter] << (6 - 2 * quarter)
