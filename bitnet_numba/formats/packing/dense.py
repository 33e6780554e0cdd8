"""The forms that embeddings and output heads are stored in: bf16, and Q8_0 and Q6_K as codes and scales."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError
from bitnet_numba.formats.packing.codes import check_length, check_scales

Q8_0 = np.dtype([("scale", "<f2"), ("codes", "i1", (32,))])
Q6_K = np.dtype([("low", "u1", (128,)), ("high", "u1", (64,)), ("scales", "i1", (16,)), ("scale", "<f2")])
_BLOCKS = 1 << 10  # blocks of Q6_K a pass: they and what is made of them stay in a core's own cache


def bf16_to_float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Widen bfloat16 bit patterns, exactly: they are the upper halves of float32 ones."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def split_q8_0(
    data: npt.NDArray[np.uint8], shape: tuple[int, int], *, place: str = "Q8_0 tensor"
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Split Q8_0 into codes and scales, whose float32 product is the value.

    Parameters
    ----------
    data : uint8[rows * columns // 32 * 34]
    shape : (rows, columns)
    place : str
        File and tensor, for messages.

    Returns
    -------
    codes : int8[rows, columns]
    scales : float32[rows, columns // 32]

    Raises
    ------
    FormatError
        If the columns are not whole blocks, the length does not fit the shape, or a scale is not finite.

    References
    ----------
    llama.cpp, ``dequantize_row_q8_0``.
    """
    rows, columns = shape
    blocks, scales = _split(data, Q8_0, 32, shape, place)
    codes = np.ascontiguousarray(blocks["codes"])
    return codes.reshape(rows, columns), scales.reshape(rows, columns // 32)


def split_q6_k(
    data: npt.NDArray[np.uint8], shape: tuple[int, int], *, place: str = "Q6_K tensor"
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Split Q6_K into codes and scales, whose float32 product is the value.

    Parameters
    ----------
    data : uint8[rows * columns // 256 * 210]
    shape : (rows, columns)
    place : str
        File and tensor, for messages.

    Returns
    -------
    codes : int8[rows, columns]
        From -32 to 31.
    scales : float32[rows, columns // 16]

    Raises
    ------
    FormatError
        If the columns are not whole blocks, the length does not fit the shape, or a scale is not finite.

    References
    ----------
    llama.cpp, ``dequantize_row_q6_K``.
    """
    rows, columns = shape
    blocks, block_scales = _split(data, Q6_K, 256, shape, place)
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


def _split(
    data: npt.NDArray[np.uint8], form: np.dtype[np.void], block: int, shape: tuple[int, int], place: str
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.float32]]:
    """Return the blocks of a tensor as records, and the one float16 scale of each as float32[n_blocks]."""
    rows, columns = shape
    if columns % block:
        raise FormatError(f"{place}: {columns:,} columns are not a multiple of {block}; get the file again")
    check_length(data, rows * columns // block * form.itemsize, place)
    blocks = data.view(form)
    scales = blocks["scale"].astype(np.float32)
    check_scales(scales, place, signed=True)
    return blocks, scales
