"""Checks that every packed form shares: its length in bytes, its two-bit codes, its weights, its scales."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, ParameterError

CHUNK_BYTES = 1 << 18  # packed bytes a pass: they and what is made of them stay in a core's own cache


def check_codes(data: npt.NDArray[np.uint8], place: str = "ternary tensor") -> None:
    """Refuse bytes in which one of the four two-bit codes is 3, which no ternary weight has.

    Parameters
    ----------
    data : uint8[n]
        Codes alone, without the scale that may follow them.
    place : str
        File and tensor, for the message.

    Raises
    ------
    FormatError
        With the position of the first such byte among the codes.
    """
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


def check_length(data: npt.NDArray[np.uint8], n_bytes: int, place: str) -> None:
    """Refuse data whose length is not the one that its shape needs.

    Raises
    ------
    FormatError
        If ``data`` does not have ``n_bytes`` bytes.
    """
    if data.size != n_bytes:
        raise FormatError(f"{place}: its shape needs {n_bytes:,} bytes, the file has {data.size:,}; get the file again")


def check_scales(scales: npt.NDArray[np.float32], place: str, *, signed: bool) -> None:
    """Refuse block scales that are not finite or, unless ``signed``, negative; zero is the scale of a block of zeros.

    Raises
    ------
    FormatError
        With the number of the first such block.
    """
    lowest = np.finfo(np.float32).min if signed else 0
    bad = np.flatnonzero(~((scales >= lowest) & (scales < np.inf)))
    if bad.size:
        value = scales.reshape(-1)[bad[0]]
        expected = "a finite number" if signed else "a finite number of at least 0"
        raise FormatError(f"{place}: block {bad[0]:,} has the scale {value}, expected {expected}; get the file again")


def check_ternary(weights: npt.NDArray[np.int8]) -> None:
    """Refuse weights to be packed that are not -1, 0 or +1.

    Raises
    ------
    ParameterError
        With the smallest and the largest weight.
    """
    if weights.size and (weights.min() < -1 or weights.max() > 1):
        raise ParameterError(f"weights from {weights.min()} to {weights.max()} are not ternary; quantize them first")
