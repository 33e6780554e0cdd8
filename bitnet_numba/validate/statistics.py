"""The root mean square of a tensor, read piece by piece: exactly from counts and scale where it is ternary."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError, UnsupportedError
from bitnet_numba.formats.gguf_types import LAYOUTS, TensorType
from bitnet_numba.formats.packing import dequantize
from bitnet_numba.formats.packing.i2s import TAIL_BYTES
from bitnet_numba.formats.packing.nonzeros import tq1_0_nonzeros, tq2_0_nonzeros, two_bit_nonzeros
from bitnet_numba.model.roles import Role
from bitnet_numba.validate.model_files import ModelFiles, StoredTensor

PIECE_BYTES = 1 << 20
FLOAT_TYPES = ("F32", "F16", "BF16")
PACKED = "U8"  # four weights a byte, the scale in a tensor beside it
TERNARY_TYPES = ("I2_S", "TQ1_0", "TQ2_0", PACKED)

TokenChunk = npt.NDArray[np.uint8]


class _Squares(NamedTuple):
    """The sum of squares of some weights, and how many they are."""

    total: float
    n_weights: int


def root_mean_square(model: ModelFiles, tensor: StoredTensor) -> float:
    """Return ``sqrt(mean(x**2))`` of a norm's or projection's weights, in float64.

    Parameters
    ----------
    model : ModelFiles
    tensor : StoredTensor
        One of the model's.

    Returns
    -------
    float
        Not finite where a weight or the scale is not.

    Raises
    ------
    BitNetError
        If the file cannot be read.
    FormatError
        If codes or scales are none.
    UnsupportedError
        If the tensor is of a type that is not read here.
    """
    reader = _READERS.get(tensor.type)
    if reader is None:
        raise UnsupportedError(
            f"{tensor.place}: type {tensor.type} has no statistics; use one of {', '.join(_READERS)}"
        )
    squares = reader(tensor)
    mean = squares.total / squares.n_weights if squares.n_weights else math.nan
    return math.sqrt(mean) * abs(_separate_scale(model, tensor))


# ---- pieces ----------------------------------------------------------------------------------------------------------
def pieces(tensor: StoredTensor, unit: int, n_bytes: int | None = None) -> Iterator[TokenChunk]:
    """Yield a tensor's bytes in pieces of whole units, each valid until the next is asked for.

    They are read, not mapped: mapped pages would count as this process's memory.

    Parameters
    ----------
    tensor : StoredTensor
    unit : int
        Bytes that stay together.
    n_bytes : int, optional
        How many of its bytes to read; by default all.

    Raises
    ------
    BitNetError
        If the file cannot be read, or has become shorter.
    """
    left = tensor.n_bytes if n_bytes is None else n_bytes
    buffer = np.empty(min(left, PIECE_BYTES // unit * unit), np.uint8)
    try:
        with tensor.file.open("rb", buffering=0) as file:
            file.seek(tensor.offset)
            while left:
                piece = buffer[: min(left, buffer.size)]
                if file.readinto(piece.data) != piece.size:
                    raise BitNetError(f"{tensor.place}: the file ends inside it; get the file again")
                yield piece
                left -= piece.size
    except OSError as error:
        raise BitNetError(f"{tensor.file}: cannot be read ({error.strerror}); check its permissions") from error


def histogram(tensor: StoredTensor, n_bytes: int) -> npt.NDArray[np.int64]:
    """Count how often each byte occurs among a tensor's first ``n_bytes``; int64[256]."""
    counts = np.zeros(256, np.int64)
    for piece in pieces(tensor, 1, n_bytes):
        counts += np.bincount(piece, minlength=256)
    return counts


def i2s_scale(tensor: StoredTensor) -> float:
    """Read the scale of an I2_S tensor as it is stored, whatever it is."""
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset + tensor.n_bytes - TAIL_BYTES)
        return float(np.frombuffer(file.read(4), "<f4")[0])


# ---- one reader a type -----------------------------------------------------------------------------------------------
def _floats(tensor: StoredTensor) -> _Squares:
    """Sum the squares of weights that are stored as numbers, or as blocks of 8-bit or 6-bit ones."""
    kind = TensorType[tensor.type]
    layout = LAYOUTS[kind]
    totals, n_weights = [], 0
    for piece in pieces(tensor, layout.block_bytes):
        n = piece.size // layout.block_bytes * layout.block
        with np.errstate(invalid="ignore"):  # a signalling NaN; the result says it
            values = dequantize(kind, piece, (1, n), place=tensor.place).astype(np.float64)
        totals.append(float(np.sum(values * values)))
        n_weights += n
    return _Squares(math.fsum(totals), n_weights)


def _i2s(tensor: StoredTensor) -> _Squares:
    n_code_bytes = tensor.n_bytes - TAIL_BYTES
    nonzeros = two_bit_nonzeros(histogram(tensor, n_code_bytes), tensor.place)
    scale = i2s_scale(tensor)
    return _Squares(nonzeros * scale * scale, 4 * n_code_bytes)


def _packed(tensor: StoredTensor) -> _Squares:
    return _Squares(two_bit_nonzeros(histogram(tensor, tensor.n_bytes), tensor.place), 4 * tensor.n_bytes)


def _tq(tensor: StoredTensor) -> _Squares:
    layout = LAYOUTS[TensorType[tensor.type]]
    count = tq1_0_nonzeros if tensor.type == "TQ1_0" else tq2_0_nonzeros
    totals = []
    for piece in pieces(tensor, layout.block_bytes):
        nonzeros, scales = count(piece, tensor.place)
        totals.append(float(np.sum(nonzeros * scales.astype(np.float64) ** 2)))
    return _Squares(math.fsum(totals), tensor.n_bytes // layout.block_bytes * layout.block)


_READERS: dict[str, Callable[[StoredTensor], _Squares]] = {
    **dict.fromkeys(FLOAT_TYPES, _floats),
    "Q8_0": _floats,
    "Q6_K": _floats,
    "I2_S": _i2s,
    "TQ1_0": _tq,
    "TQ2_0": _tq,
    PACKED: _packed,
}


def _separate_scale(model: ModelFiles, tensor: StoredTensor) -> float:
    """Return what a projection is multiplied by that keeps its scale in a tensor of its own; 1 for the others."""
    role = tensor.role
    beside = None if role is None else model.of_role.get(Role(role.name, role.layer, "scale"))
    if beside is None or beside is tensor:
        if tensor.type == PACKED:
            raise UnsupportedError(f"{tensor.place}: packed weights without a weight_scale; get the whole model again")
        return 1.0
    if beside.type not in FLOAT_TYPES or not beside.n_bytes:
        raise UnsupportedError(f"{beside.place}: {beside.type} {list(beside.shape)} is no scale; save one BF16 or F32")
    kind = TensorType[beside.type]
    first = next(pieces(beside, LAYOUTS[kind].block_bytes, LAYOUTS[kind].block_bytes))
    scale = float(dequantize(kind, first, (1, 1), place=beside.place)[0, 0])
    if not model.packed_scale_divides or tensor.type != PACKED:
        return scale
    return 1 / scale if scale else math.inf
