"""TQ1_0 and TQ2_0, the ternary formats of llama.cpp: blocks of 256 weights, each with a float16 scale."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import ParameterError, UnsupportedError
from bitnet_numba.formats.packing.codec import Float32, Int8, TernaryCodec
from bitnet_numba.formats.packing.codes import (
    NONZEROS_OF_BYTE,
    check_codes,
    check_scales,
    check_ternary,
    split_blocks,
)
from bitnet_numba.formats.packing.matrices import TernaryMatrix, one_scale

Counts = npt.NDArray[np.int64]
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
_NONZEROS_OF_FIVE = (DIGITS != 0).sum(axis=0, dtype=np.uint8)
_NONZEROS_OF_FOUR = (DIGITS[:4] != 0).sum(axis=0, dtype=np.uint8)


def unpack_tq1_0(data: Packed, shape: tuple[int, int], place: str = "TQ1_0 tensor") -> tuple[Int8, Float32]:
    """Unpack TQ1_0, 54 bytes for 256 weights, into int8[rows, columns] and scales, float32[rows, columns // 256].

    Raises FormatError if the columns are not whole blocks, the length does not fit, or a scale is negative or not
    finite.

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


def unpack_tq2_0(data: Packed, shape: tuple[int, int], place: str = "TQ2_0 tensor") -> tuple[Int8, Float32]:
    """Unpack TQ2_0, 66 bytes for 256 weights, as :func:`unpack_tq1_0` does; a code of 3 is a FormatError too.

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
    blocks, scales = split_blocks(data, form, BLOCK, shape, place, signed=False)
    return blocks, scales.reshape(shape[0], shape[1] // BLOCK)


def pack_tq1_0(weights: Int8, scales: Float32 | float) -> Packed:
    """Pack ternary weights, int8[rows, columns], as TQ1_0, 54 bytes for 256 weights; scales are rounded to float16.

    Raises ParameterError for a weight that is not ternary or a scale that is no float16 of at least 0, UnsupportedError
    if the columns are not whole blocks.
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
    """Pack ternary weights as TQ2_0, 66 bytes for 256 weights, as :func:`pack_tq1_0` does."""
    blocks, codes = _empty_blocks(weights, scales, TQ2_0)
    quarters = codes.reshape(-1, 2, 4, 32)
    packed = np.zeros((blocks.size, 2, 32), np.uint8)
    for quarter in range(4):
        packed |= quarters[:, :, quarter] << (2 * quarter)
    blocks["codes"] = packed.reshape(-1, 64)
    return blocks.view(np.uint8)


def _empty_blocks(weights: Int8, scales: Float32 | float, form: np.dtype[np.void]) -> tuple[Blocks, Packed]:
    """Return blocks with their scales but without codes, and the codes to pack, uint8[n_blocks, 256]."""
    rows, columns = weights.shape
    if columns % BLOCK:
        raise UnsupportedError(
            f"TQ formats hold rows of a multiple of {BLOCK} weights, not {columns:,}; use I2_S or F16"
        )
    check_ternary(weights)
    blocks = np.zeros(weights.size // BLOCK, form)
    wanted = np.broadcast_to(np.asarray(scales, np.float32), (rows, columns // BLOCK)).reshape(-1)
    if not np.all((wanted >= 0) & (wanted < 65520)):  # the first number that rounds to infinity
        raise ParameterError("TQ scales: expected float16 numbers of at least 0; use I2_S for this tensor")
    blocks["scale"] = wanted
    return blocks, (weights + np.int8(1)).view(np.uint8).reshape(-1, BLOCK)


def _linear_tq1_0(data: Packed, shape: tuple[int, int], place: str) -> TernaryMatrix:
    return one_scale(*unpack_tq1_0(data, shape, place), place)


def _linear_tq2_0(data: Packed, shape: tuple[int, int], place: str) -> TernaryMatrix:
    return one_scale(*unpack_tq2_0(data, shape, place), place)


def _tq1_0_nonzeros(data: Packed, place: str) -> tuple[Counts, Float32]:
    """Count the non-zero weights of each block; the last segment's bytes hold four weights each."""
    blocks = data.view(TQ1_0)
    (four, _, _) = _SEGMENTS[-1]
    codes = blocks["codes"]
    nonzeros = _NONZEROS_OF_FIVE.take(codes[:, :four]).sum(axis=1, dtype=np.int64)
    nonzeros += _NONZEROS_OF_FOUR.take(codes[:, four:]).sum(axis=1, dtype=np.int64)
    return nonzeros, _scales(blocks, place)


def _tq2_0_nonzeros(data: Packed, place: str) -> tuple[Counts, Float32]:
    """Count the non-zero weights of each block."""
    blocks = data.view(TQ2_0)
    codes = np.ascontiguousarray(blocks["codes"])
    check_codes(codes, place)
    return NONZEROS_OF_BYTE.take(codes).sum(axis=1, dtype=np.int64), _scales(blocks, place)


def _scales(blocks: Blocks, place: str) -> Float32:
    scales = blocks["scale"].astype(np.float32)
    check_scales(scales, place, signed=False)
    return scales


CODECS = {
    "TQ1_0": TernaryCodec(_linear_tq1_0, unpack_tq1_0, pack_tq1_0, _tq1_0_nonzeros, np.float16),
    "TQ2_0": TernaryCodec(_linear_tq2_0, unpack_tq2_0, pack_tq2_0, _tq2_0_nonzeros, np.float16),
}
