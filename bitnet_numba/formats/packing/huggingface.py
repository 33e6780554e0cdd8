"""The packed ternary format of Hugging Face checkpoints: four rows, a quarter of the matrix apart, share bytes."""

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import UnsupportedError
from bitnet_numba.formats.packing.codes import check_codes, check_ternary


def unpack_hf(packed: npt.NDArray[np.uint8], place: str = "packed tensor") -> npt.NDArray[np.int8]:
    """Unpack two-bit codes, uint8[rows // 4, columns], into weights, int8[rows, columns]; FormatError for a code 3.

    Bits 2i and 2i + 1 of ``packed[r, c]`` are the weight of row ``i * (rows // 4) + r``, plus 1.

    References
    ----------
    transformers, ``integrations/bitnet.py``.
    """
    check_codes(packed, place)
    quarter_rows, columns = packed.shape
    weights = np.empty((4, quarter_rows, columns), np.int8)
    codes = weights.view(np.uint8)
    for quarter in range(4):
        np.right_shift(packed, 2 * quarter, out=codes[quarter])
    codes &= 3
    weights -= 1
    return weights.reshape(4 * quarter_rows, columns)


def pack_hf(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack ternary weights, int8[rows, columns], into uint8[rows // 4, columns].

    Raises ParameterError if a weight is not ternary, UnsupportedError if the rows are not a multiple of 4.
    """
    rows, columns = weights.shape
    if rows % 4:
        raise UnsupportedError(f"the packed form holds multiples of 4 rows, not {rows:,}; keep this matrix in bf16")
    check_ternary(weights)
    packed = np.zeros((rows // 4, columns), np.uint8)
    for quarter, part in enumerate(weights.reshape(4, rows // 4, columns)):
        packed |= (part + np.int8(1)).view(np.uint8) << (2 * quarter)
    return packed
