"""How many packed ternary weights are not zero, counted without unpacking them."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError
from bitnet_numba.formats.packing.codes import check_codes, check_scales
from bitnet_numba.formats.packing.tq import DIGITS, TQ1_0, TQ2_0

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

_CODES = np.arange(256)[:, np.newaxis] >> np.array([0, 2, 4, 6]) & 3
_TWO_BIT = (_CODES != 1).sum(axis=1, dtype=np.uint8)  # weights other than zero in a byte of two-bit codes
_HOLDS_THREE = (_CODES == 3).any(axis=1)
_FIVE_DIGITS = (DIGITS != 0).sum(axis=0, dtype=np.uint8)
_FOUR_DIGITS = (DIGITS[:4] != 0).sum(axis=0, dtype=np.uint8)
_FIVES = 48  # bytes of a TQ1_0 block that hold five weights; the last four hold four


def two_bit_nonzeros(histogram: Counts, place: str = "ternary tensor") -> int:
    """Count the weights that are not zero in bytes of two-bit codes, in whatever order these hold them.

    Parameters
    ----------
    histogram : int64[256]
        How often each byte occurs.
    place : str
        File and tensor, for the message.

    Raises
    ------
    FormatError
        If a byte holds the code 3.
    """
    n_invalid = int(histogram[_HOLDS_THREE].sum())
    if n_invalid:
        raise FormatError(f"{place}: {n_invalid:,} bytes hold the code 3, no weight; get the file again")
    return int(histogram @ _TWO_BIT.astype(np.int64))


def tq1_0_nonzeros(data: Bytes, place: str = "TQ1_0 tensor") -> tuple[Counts, Float32]:
    """Count the weights that are not zero in each TQ1_0 block.

    Parameters
    ----------
    data : uint8[n_blocks * 54]
    place : str
        File and tensor, for messages.

    Returns
    -------
    nonzeros : int64[n_blocks]
    scales : float32[n_blocks]

    Raises
    ------
    FormatError
        If a scale is negative or not finite.
    """
    blocks = data.view(TQ1_0)
    codes = blocks["codes"]
    nonzeros = _FIVE_DIGITS.take(codes[:, :_FIVES]).sum(axis=1, dtype=np.int64)
    nonzeros += _FOUR_DIGITS.take(codes[:, _FIVES:]).sum(axis=1, dtype=np.int64)
    return nonzeros, _scales(blocks, place)


def tq2_0_nonzeros(data: Bytes, place: str = "TQ2_0 tensor") -> tuple[Counts, Float32]:
    """Count the weights that are not zero in each TQ2_0 block.

    Parameters
    ----------
    data : uint8[n_blocks * 66]
    place : str
        File and tensor, for messages.

    Returns
    -------
    nonzeros : int64[n_blocks]
    scales : float32[n_blocks]

    Raises
    ------
    FormatError
        If a code is 3, or a scale is negative or not finite.
    """
    blocks = data.view(TQ2_0)
    codes = np.ascontiguousarray(blocks["codes"])
    check_codes(codes, place)
    return _TWO_BIT.take(codes).sum(axis=1, dtype=np.int64), _scales(blocks, place)


def _scales(blocks: npt.NDArray[np.void], place: str) -> Float32:
    scales = blocks["scale"].astype(np.float32)
    check_scales(scales, place, signed=False)
    return scales
