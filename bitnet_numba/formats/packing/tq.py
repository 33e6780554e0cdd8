"""TQ1_0 and TQ2_0, the ternary forms of llama.cpp: blocks of 256 weights, each with a float16 scale."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, ParameterError, UnsupportedError
from bitnet_numba.formats.packing.codes import check_codes, check_length, check_scales, check_ternary

Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]
Packed = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.void]

BLOCK = 256
TQ1_0 = np.dtype([("codes", "u1", (52,)), ("scale", "<f2")])
TQ2_0 = np.dtype([("codes", "u1", (64,)), ("scale", "<f2")])

# TQ1_0 packs five weights a byte, and four in its last bytes: (first byte, bytes, weights a byte).
_SEGMENTS = ((0, 32, 5), (32, 16, 5), (48, 4, 4))
_POWERS = np.array([81, 27, 9, 3, 1], np.uint16)
# A byte is the fraction sum(digit * 3**-(place + 1)) in units of 1/256: times 3**place modulo 1, its first digit.
DIGITS = ((np.arange(256) * np.array([[1], [3], [9], [27], [81]]) % 256 * 3 >> 8) - 1).astype(np.int8)


def unpack_tq1_0(data: Packed, shape: tuple[int, int], *, place: str = "TQ1_0 tensor") -> tuple[Int8, Float32]:
    """Unpack TQ1_0, 54 bytes for 256 weights.

    Parameters
    ----------
    data : uint8[rows * columns // 256 * 54]
    shape : (rows, columns)
    place : str
        File and tensor, for messages.

    Returns
    -------
    weights : int8[rows, columns]
        -1, 0 or +1.
    scales : float32[rows, columns // 256]

    Raises
    ------
    FormatError
        If the columns are not whole blocks, the length does not fit, or a scale is negative or not finite.

    References
    ----------
    llama.cpp, ``dequantize_row_tq1_0``.
    """
    blocks, scales = _split(data, TQ1_0, shape, place)
    weights = np.empty((blocks.size, BLOCK), np.int8)
    column = 0
    for first, n_bytes, digits in _SEGMENTS:
        codes = blocks["codes"][:, first : first + n_bytes]
        for place_value in range(digits):
            weights[:, column : column + n_bytes] = DIGITS[place_value].take(codes)
            column += n_bytes
    return weights.reshape(shape), scales


def unpack_tq2_0(data: Packed, shape: tuple[int, int], *, place: str = "TQ2_0 tensor") -> tuple[Int8, Float32]:
    """Unpack TQ2_0, 66 bytes for 256 weights.

    Parameters
    ----------
    data : uint8[rows * columns // 256 * 66]
    shape : (rows, columns)
    place : str
        File and tensor, for messages.

    Returns
    -------
    weights : int8[rows, columns]
        -1, 0 or +1.
    scales : float32[rows, columns // 256]

    Raises
    ------
    FormatError
        If the columns are not whole blocks, the length does not fit, a code is 3, or a scale is negative or not finite.

    References
    ----------
    llama.cpp, ``dequantize_row_tq2_0``.
    """
    blocks, scales = _split(data, TQ2_0, shape, place)
    codes = np.ascontiguousarray(blocks["codes"])
    check_codes(codes, place)
    weights = np.empty((2 * blocks.size, 4, 32), np.int8)
    quarters = weights.view(np.uint8)
    for quarter in range(4):
        np.right_shift(codes.reshape(-1, 32), 2 * quarter, out=quarters[:, quarter])
    quarters &= 3
    weights -= 1
    return weights.reshape(shape), scales


def _split(data: Packed, form: np.dtype[np.void], shape: tuple[int, int], place: str) -> tuple[Blocks, Float32]:
    """Return the blocks as records, and their scales as float32[rows, columns // 256]."""
    rows, columns = shape
    if columns % BLOCK:
        raise FormatError(f"{place}: {columns:,} columns are not a multiple of {BLOCK}; get the file again")
    check_length(data, rows * columns // BLOCK * form.itemsize, place)
    blocks = data.view(form)
    scales = blocks["scale"].astype(np.float32).reshape(rows, columns // BLOCK)
    check_scales(scales, place, signed=False)
    return blocks, scales


def pack_tq1_0(weights: Int8, scales: Float32 | float) -> Packed:
    """Pack ternary weights as TQ1_0.

    Parameters
    ----------
    weights : int8[rows, columns]
        -1, 0 or +1; columns a multiple of 256.
    scales : float32[rows, columns // 256] or float
        Rounded to float16, as the format has it.

    Returns
    -------
    uint8[rows * columns // 256 * 54]

    Raises
    ------
    ParameterError
        If a weight is not ternary, or a scale is no float16 of at least 0.
    UnsupportedError
        If the columns are not whole blocks.
    """
    blocks, codes = _empty_blocks(weights, scales, TQ1_0)
    column = 0
    for first, n_bytes, digits in _SEGMENTS:
        part = codes[:, column : column + digits * n_bytes].reshape(-1, digits, n_bytes)
        number = np.einsum("bdn,d->bn", part, _POWERS[:digits])
        # Round the fraction up, so that multiplying it out again never falls short of a digit.
        blocks["codes"][:, first : first + n_bytes] = (number * 256 + 242) // 243
        column += digits * n_bytes
    return blocks.view(np.uint8)


def pack_tq2_0(weights: Int8, scales: Float32 | float) -> Packed:
    """Pack ternary weights as TQ2_0.

    Parameters
    ----------
    weights : int8[rows, columns]
        -1, 0 or +1; columns a multiple of 256.
    scales : float32[rows, columns // 256] or float
        Rounded to float16, as the format has it.

    Returns
    -------
    uint8[rows * columns // 256 * 66]

    Raises
    ------
    ParameterError
        If a weight is not ternary, or a scale is no float16 of at least 0.
    UnsupportedError
        If the columns are not whole blocks.
    """
    blocks, codes = _empty_blocks(weights, scales, TQ2_0)
    quarters = codes.reshape(-1, 2, 4, 32)
    packed = np.zeros((blocks.size, 2, 32), np.uint8)
    for quarter in range(4):
        packed |= quarters[:, :, quarter] << (2 * quarter)
    blocks["codes"] = packed.reshape(-1, 64)
    return blocks.view(np.uint8)


def _empty_blocks(weights: Int8, scales: Float32 | float, form: np.dtype[np.void]) -> tuple[Blocks, Packed]:
    """Return blocks that have their scales but no codes yet, and the codes to put there, uint8[n_blocks, 256]."""
    rows, columns = weights.shape
    if columns % BLOCK:
        raise UnsupportedError(f"TQ forms hold rows of a multiple of {BLOCK} weights, not {columns:,}; use I2_S or F16")
    check_ternary(weights)
    blocks = np.zeros(weights.size // BLOCK, form)
    wanted = np.broadcast_to(np.asarray(scales, np.float32), (rows, columns // BLOCK)).reshape(-1)
    if not np.all((wanted >= 0) & (wanted < 65520)):  # the first number that rounds to infinity
        raise ParameterError("TQ scales: expected float16 numbers of at least 0; use I2_S for this tensor")
    blocks["scale"] = wanted
    return blocks, (weights + np.int8(1)).view(np.uint8).reshape(-1, BLOCK)
