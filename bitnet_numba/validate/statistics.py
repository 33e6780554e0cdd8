"""RMS of a tensor, read in chunks; from counts and scales where it is ternary, without unpacking."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError, UnsupportedError
from bitnet_numba.files import open_regular
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.packing.codes import two_bit_nonzeros
from bitnet_numba.formats.tensor_formats import FORMATS, Kind, TensorFormat, float_codec, ternary_codec, type_names
from bitnet_numba.model.roles import Role
from bitnet_numba.validate.model_files import ModelFiles, StoredTensor

CHUNK_BYTES = 1 << 20
FLOAT_TYPES = type_names(Kind.FLOAT)
PACKED = "U8"  # four weights a byte, the scale in a tensor beside it
TERNARY_TYPES = (*type_names(Kind.TERNARY), PACKED)

Bytes = npt.NDArray[np.uint8]


def root_mean_square(model: ModelFiles, tensor: StoredTensor) -> float:
    """Return ``sqrt(mean(x**2))`` of a norm's or projection's weights, in float64; not finite where a weight is not.

    Raises a FormatError for invalid codes or scales, an UnsupportedError for a type that is not read here.
    """
    total, n_weights = _packed(tensor) if tensor.type == PACKED else _squares(tensor)
    mean = total / n_weights if n_weights else math.nan
    return math.sqrt(mean) * abs(_separate_scale(model, tensor))


# ---- chunks ----------------------------------------------------------------------------------------------------------
def chunks(tensor: StoredTensor, unit: int, n_bytes: int | None = None) -> Iterator[Bytes]:
    """Yield a tensor's bytes, or the first ``n_bytes``, in chunks of whole units of ``unit`` bytes.

    A chunk is valid until the next one. They are read, not mapped: mapped pages would count as this process's memory.
    """
    left = tensor.n_bytes if n_bytes is None else n_bytes
    buffer = np.empty(min(left, CHUNK_BYTES // unit * unit), np.uint8)
    try:
        with open_regular(tensor.file) as file:
            file.seek(tensor.offset)
            while left:
                chunk = buffer[: min(left, buffer.size)]
                if file.readinto(chunk.data) != chunk.size:
                    raise BitNetError(f"{tensor.place}: the file ends inside it; get the file again")
                yield chunk
                left -= chunk.size
    except OSError as error:
        raise BitNetError(f"{tensor.file}: cannot be read ({error.strerror}); check its permissions") from error


def i2s_scale(tensor: StoredTensor) -> float:
    """Read the scale of an I2_S tensor as stored, unchecked."""
    with open_regular(tensor.file) as file:
        file.seek(tensor.offset + tensor.n_bytes - FORMATS[TensorType.I2_S].layout.tail_bytes)
        return float(np.frombuffer(file.read(4), "<f4")[0])


# ---- sums of squares -------------------------------------------------------------------------------------------------
def _format(tensor: StoredTensor) -> TensorFormat:
    """Return the format of a tensor; those of safetensors files that are read here have GGUF's names."""
    number = TensorType.__members__.get(tensor.type)
    known = None if number is None else FORMATS.get(number)
    if known is None:
        names = ", ".join((*type_names(Kind.FLOAT, Kind.TERNARY, Kind.INT8), PACKED))
        raise UnsupportedError(f"{tensor.place}: type {tensor.type} has no statistics; use one of {names}")
    return known


def _squares(tensor: StoredTensor) -> tuple[float, int]:
    """Return the sum of squares and the number of weights: from counts and scales where they are ternary."""
    known = _format(tensor)
    block, block_bytes, tail_bytes, _ = known.layout
    codec, ternary = known.codec, ternary_codec(known.type)
    totals, n_weights = [], 0
    for chunk in chunks(tensor, block_bytes, tensor.n_bytes - tail_bytes):
        n = chunk.size // block_bytes * block
        if ternary is not None:
            nonzeros, scales = ternary.count_nonzeros(chunk, tensor.place)
            totals.append(float(np.sum(nonzeros * scales.astype(np.float64) ** 2)))
        else:
            with np.errstate(invalid="ignore"):  # a signalling NaN; the result says it
                values = codec.dequantize(chunk, (1, n), tensor.place).astype(np.float64)
            totals.append(float(np.sum(values * values)))
        n_weights += n
    scale = i2s_scale(tensor) if tail_bytes else 1.0
    return math.fsum(totals) * scale * scale, n_weights


def _packed(tensor: StoredTensor) -> tuple[float, int]:
    """Return the sum of squares and the number of weights of a packed Hugging Face matrix, at a scale of 1."""
    counts = np.zeros(256, np.int64)
    for chunk in chunks(tensor, 1):
        counts += np.bincount(chunk, minlength=256)
    return two_bit_nonzeros(counts, tensor.place), 4 * tensor.n_bytes


def _separate_scale(model: ModelFiles, tensor: StoredTensor) -> float:
    """Return the scale of a projection that has it in a tensor of its own; 1 for the others."""
    role = tensor.role
    beside = None if role is None else model.of_role.get(Role(role.name, role.layer, "scale"))
    if beside is None or beside is tensor:
        if tensor.type == PACKED:
            raise UnsupportedError(f"{tensor.place}: packed weights without a weight_scale; get the whole model again")
        return 1.0
    codec = float_codec(beside.type)
    if codec is None or not beside.n_bytes:
        raise UnsupportedError(f"{beside.place}: {beside.type} {list(beside.shape)} is no scale; save one BF16 or F32")
    n_bytes = np.dtype(codec.stored).itemsize
    scale = float(codec.dequantize(next(chunks(beside, n_bytes, n_bytes)), (1, 1), beside.place)[0, 0])
    if not model.packed_scale_divides or tensor.type != PACKED:
        return scale
    return 1 / scale if scale else math.inf
