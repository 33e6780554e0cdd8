"""Q8_0 and Q6_K: the formats of embeddings and heads that run as int8 codes with group scales."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.formats.packing.codec import Int8Codec
from bitnet_numba.formats.packing.codes import split_blocks

Q8_0 = np.dtype([("scale", "<f2"), ("codes", "i1", (32,))])
Q6_K = np.dtype([("low", "u1", (128,)), ("high", "u1", (64,)), ("scales", "i1", (16,)), ("scale", "<f2")])
_BLOCKS = 1 << 10  # blocks of Q6_K a pass: with the result they stay in a core's own cache


def split_q8_0(
    data: npt.NDArray[np.uint8], shape: tuple[int, int], place: str = "Q8_0 tensor"
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Split Q8_0, 34 bytes for 32 weights, into int8[rows, columns] and scales, float32[rows, columns // 32].

    Their float32 product is the value. Raises FormatError if the columns are not whole blocks, the length does not fit
    the shape, or a scale is not finite.

    References
    ----------
    llama.cpp, ``dequantize_row_q8_0``.
    """
    rows, columns = shape
    blocks, scales = split_blocks(data, Q8_0, 32, shape, place, signed=True)
    codes = np.ascontiguousarray(blocks["codes"])
    return codes.reshape(rows, columns), scales.reshape(rows, columns // 32)


def split_q6_k(
    data: npt.NDArray[np.uint8], shape: tuple[int, int], place: str = "Q6_K tensor"
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Split Q6_K, 210 bytes for 256 weights, as :func:`split_q8_0`: codes from -32 to 31, a scale for 16 weights.

    References
    ----------
    llama.cpp, ``dequantize_row_q6_K``.
    """
    rows, columns = shape
    blocks, block_scales = split_blocks(data, Q6_K, 256, shape, place, signed=True)
    codes = np.empty((blocks.size, 256), np.int8)
    for start in range(0, blocks.size, _BLOCKS):
        _q6_k_codes(blocks[start : start + _BLOCKS], codes[start : start + _BLOCKS])
    scales = block_scales[:, np.newaxis] * blocks["scales"]
    return codes.reshape(rows, columns), scales.reshape(rows, columns // 16)


def _q6_k_codes(blocks: npt.NDArray[np.void], out: npt.NDArray[np.int8]) -> None:
    """Join the four low and two high bits of each code; ``out`` is int8[n_blocks, 256]."""
    low = blocks["low"].reshape(-1, 2, 2, 32)
    high = blocks["high"].reshape(-1, 2, 32)
    codes = out.reshape(-1, 2, 2, 2, 32)  # half of the block, nibble, half of that nibble's run, weight
    for nibble in range(2):
        for part in range(2):
            low_bits = low[:, :, part] >> (4 * nibble) & 15
            high_bits = high >> (4 * nibble + 2 * part) & 3
            codes[:, :, nibble, part] = low_bits | high_bits << 4
    out -= 32


CODECS = {"Q8_0": Int8Codec(split_q8_0), "Q6_K": Int8Codec(split_q6_k)}
