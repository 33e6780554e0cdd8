"""Checks and counts that the packed formats share: length in bytes, two-bit codes, block scales."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, ParameterError

RUN = 128  # weights that I2_S interleaves
CHUNK_BYTES = 1 << 18  # packed bytes a pass: with the result they stay in a core's own cache

_CODES = np.arange(256)[:, np.newaxis] >> np.array([0, 2, 4, 6]) & 3
NONZEROS_OF_BYTE = (_CODES != 1).sum(axis=1, dtype=np.uint8)
_HOLDS_THREE = (_CODES == 3).any(axis=1)


def check_codes(data: npt.NDArray[np.uint8], place: str = "ternary tensor") -> None:
    """Refuse two-bit codes of 3, which are no ternary weight; ``data`` holds codes alone, without a scale."""
    flat = data.reshape(-1)
    both_bits = np.empty(min(CHUNK_BYTES, flat.size), np.uint8)
    for start in range(0, flat.size, CHUNK_BYTES):
        chunk = flat[start : start + CHUNK_BYTES]
        found = both_bits[: chunk.size]
        np.right_shift(chunk, 1, out=found)
        np.bitwise_and(found, chunk, out=found)
        np.bitwise_and(found, 0b01010101, out=found)
        if found.max():
            position = start + int(np.flatnonzero(found)[0])
            raise FormatError(f"{place}: code byte {position:,} holds the code 3, no weight; get the file again")


def unpack_runs(packed: npt.NDArray[np.uint8], run: int = RUN) -> npt.NDArray[np.int8]:
    """Unpack the checked codes of whole I2_S runs, uint8[n], into weights, int8[4 * n]."""
    weights = np.empty(4 * packed.size, np.int8)
    for start in range(0, packed.size, CHUNK_BYTES):
        runs = packed[start : start + CHUNK_BYTES].reshape(-1, run // 4)
        out = weights[4 * start : 4 * (start + CHUNK_BYTES)]
        codes = out.view(np.uint8)
        quarters = codes.reshape(-1, 4, run // 4)
        for quarter in range(4):
            np.right_shift(runs, 6 - 2 * quarter, out=quarters[:, quarter])
        codes &= 3
        out -= 1
    return weights


def two_bit_nonzeros(histogram: npt.NDArray[np.int64], place: str = "ternary tensor") -> int:
    """Count the non-zero weights from a histogram of bytes of codes, int64[256]; FormatError for a code 3."""
    n_invalid = int(histogram[_HOLDS_THREE].sum())
    if n_invalid:
        raise FormatError(f"{place}: {n_invalid:,} bytes hold the code 3, no weight; get the file again")
    return int(histogram @ NONZEROS_OF_BYTE.astype(np.int64))


def check_length(data: npt.NDArray[np.uint8], n_bytes: int, place: str) -> None:
    """Refuse data that is not ``n_bytes`` long."""
    if data.size != n_bytes:
        raise FormatError(f"{place}: its shape needs {n_bytes:,} bytes, the file has {data.size:,}; get the file again")


def split_blocks(
    data: npt.NDArray[np.uint8],
    form: np.dtype[np.void],
    block: int,
    shape: tuple[int, int],
    place: str,
    *,
    signed: bool,
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.float32]]:
    """Return the blocks of a tensor as records, and the checked float16 scale of each as float32[n_blocks]."""
    rows, columns = shape
    if columns % block:
        raise FormatError(f"{place}: {columns:,} columns are not a multiple of {block}; get the file again")
    check_length(data, rows * columns // block * form.itemsize, place)
    blocks = data.view(form)
    scales = blocks["scale"].astype(np.float32)
    check_scales(scales, place, signed=signed)
    return blocks, scales


def check_scales(scales: npt.NDArray[np.float32], place: str, *, signed: bool) -> None:
    """Refuse block scales that are not finite or, unless ``signed``, negative; 0 is the scale of a block of zeros."""
    lowest = np.finfo(np.float32).min if signed else 0
    bad = np.flatnonzero(~((scales >= lowest) & (scales < np.inf)))
    if bad.size:
        value = scales[bad[0]]
        expected = "a finite number" if signed else "a finite number of at least 0"
        raise FormatError(f"{place}: block {bad[0]:,} has the scale {value}, expected {expected}; get the file again")


def check_ternary(weights: npt.NDArray[np.int8]) -> None:
    """Refuse to pack weights other than -1, 0 and +1."""
    if weights.size and (weights.min() < -1 or weights.max() > 1):
        raise ParameterError(f"weights from {weights.min()} to {weights.max()} are not ternary; quantize them first")
