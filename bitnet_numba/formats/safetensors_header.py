"""The header of a safetensors file: type, shape and bytes of each tensor, all checked before any is used."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.formats.json_file import parse_object

MAX_HEADER_BYTES = 100_000_000
MAX_NAME_CHARACTERS = 256
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 48
_LENGTH_BYTES = 8  # the header's own length, uint64
_RETRY = "get the file again"

# NumPy dtype of each type; raw bits where NumPy has no such number.
STORED_DTYPES: dict[str, np.dtype[np.generic]] = {
    name: np.dtype(stored)
    for name, stored in {
        "BOOL": "?",
        "U8": "u1",
        "I8": "i1",
        "F8_E4M3": "u1",
        "F8_E5M2": "u1",
        "U16": "<u2",
        "I16": "<i2",
        "F16": "<f2",
        "BF16": "<u2",
        "U32": "<u4",
        "I32": "<i4",
        "F32": "<f4",
        "U64": "<u8",
        "I64": "<i8",
        "F64": "<f8",
    }.items()
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a safetensors file.

    Attributes
    ----------
    dtype : str
        The file's name of it: ``BF16``, ``F32``, ``U8``, ...
    offset : int
        Of its first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int
    file: Path


def read_header(data: npt.NDArray[np.uint8], file: Path) -> list[TensorEntry]:
    """Return the tensors of a safetensors file, uint8[n_bytes], in the order of their bytes, without holes.

    Raises
    ------
    FormatError
        If the header contradicts the format, the file, or itself.
    UnsupportedError
        If a tensor has a type that is not read here.
    """
    if data.size < _LENGTH_BYTES:
        raise FormatError(f"{file}: has {data.size} bytes, a safetensors file at least {_LENGTH_BYTES}; {_RETRY}")
    n_bytes = int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
    if n_bytes > MAX_HEADER_BYTES:
        raise FormatError(f"{file}: byte 0: a header of {n_bytes:,} bytes, at most {MAX_HEADER_BYTES:,}; {_RETRY}")
    start = _LENGTH_BYTES + n_bytes
    if start > data.size:
        raise FormatError(f"{file}: byte 0: a header of {n_bytes:,} bytes in a file of {data.size:,}; {_RETRY}")
    place = f"{file}: byte {_LENGTH_BYTES}"
    header = parse_object(data[_LENGTH_BYTES:start].tobytes(), place, strict=True).values
    _check_metadata(header.pop("__metadata__", {}), file)
    entries = [_entry(name, info, start, file) for name, info in header.items()]
    entries.sort(key=lambda entry: (entry.offset, entry.n_bytes))
    _check_coverage(entries, start, data.size, file)
    return entries


def check_name(name: str, file: Path) -> None:
    """Refuse a tensor name that is empty, too long, or not printable."""
    if not (1 <= len(name) <= MAX_NAME_CHARACTERS and name.isprintable()):
        shown = ascii(name[:MAX_NAME_CHARACTERS])
        raise FormatError(f"{file}: tensor name {shown} is not 1 to {MAX_NAME_CHARACTERS} printable letters; {_RETRY}")


def _check_metadata(metadata: object, file: Path) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{file}: '__metadata__' is not an object of texts; {_RETRY}")


def _entry(name: str, info: object, start: int, file: Path) -> TensorEntry:
    """Check one entry of the header; ``start`` is the offset of the data in the file."""
    check_name(name, file)
    place = f"{file}: tensor {name!r}"
    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{place}: expected an object of dtype, shape and data_offsets; {_RETRY}")
    dtype = info["dtype"]
    if not isinstance(dtype, str):
        raise FormatError(f"{place}: its dtype is not a text; {_RETRY}")
    stored = STORED_DTYPES.get(dtype)
    if stored is None:
        raise UnsupportedError(f"{place}: dtype {dtype[:16]!r} is not supported; save the tensor as BF16, F16 or F32")
    shape = _naturals(info["shape"], MAX_DIMENSIONS, f"{place}: shape")
    begin_end = _naturals(info["data_offsets"], 2, f"{place}: data_offsets")
    if len(begin_end) != 2 or begin_end[0] > begin_end[1]:
        raise FormatError(f"{place}: data_offsets {list(begin_end)} are not a beginning and an end; {_RETRY}")
    begin, end = begin_end
    elements = math.prod(shape)
    if elements >= MAX_ELEMENTS or elements * stored.itemsize != end - begin:
        needed = elements * stored.itemsize
        raise FormatError(
            f"{place}: {dtype} {list(shape)} is {needed:,} bytes, the header gives {end - begin:,}; {_RETRY}"
        )
    return TensorEntry(name, dtype, shape, start + begin, end - begin, file)


def _naturals(value: object, most: int, place: str) -> tuple[int, ...]:
    """Return a list of at most ``most`` whole numbers as a tuple."""
    # An exact comparison of types, because True is an int too.
    if not isinstance(value, list) or len(value) > most or any(type(item) is not int for item in value):
        raise FormatError(f"{place} is not a list of at most {most} whole numbers; {_RETRY}")
    return tuple(value)


def _check_coverage(entries: list[TensorEntry], start: int, n_bytes: int, file: Path) -> None:
    """Refuse tensors that do not follow one another from the header to the end of the file."""
    position = start
    for entry in entries:
        if entry.offset != position:
            problem = "overlaps the one before" if entry.offset < position else "leaves a hole before it"
            raise FormatError(
                f"{file}: tensor {entry.name!r} at byte {entry.offset:,} {problem}, expected {position:,}; {_RETRY}"
            )
        position += entry.n_bytes
    if position != n_bytes:
        raise FormatError(f"{file}: the tensors end at byte {position:,}, the file has {n_bytes:,}; {_RETRY}")
