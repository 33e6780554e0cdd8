"""The header of a GGUF file: version, alignment, metadata and the tensor table, read strictly and within bounds."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.formats.gguf_cursor import Cursor
from bitnet_numba.formats.gguf_metadata import read_metadata
from bitnet_numba.formats.gguf_tensors import TensorInfo, place_tensors, read_entries
from bitnet_numba.formats.gguf_types import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_KEYS,
    MAX_TENSORS,
    MIN_ALIGNMENT,
    TypedValue,
    ValueType,
    align_up,
    is_alignment,
)

VERSIONS = (2, 3)
_MIN_FILE_BYTES = 24
_MIN_KEY_BYTES = 12  # a length and a type, the name and value aside
_MIN_ENTRY_BYTES = 24  # a length, a dimension count, a type and an offset, the name and dimensions aside
_EXTENSION = struct.Struct("<IQ")


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header.

    Attributes
    ----------
    alignment : int
        Every tensor begins at a multiple of it, counted from ``data_start``.
    data_start : int
        Offset of the first tensor in the file.
    """

    version: int
    alignment: int
    metadata: dict[str, TypedValue]
    tensors: dict[str, TensorInfo]
    data_start: int


def read_header(path: Path, data: memoryview, file_size: int) -> Header:
    """Read and check a header.

    Parameters
    ----------
    path : Path
        For errors; nothing is opened.
    data : memoryview of bytes
        The file, or its beginning up to the first tensor.
    file_size : int
        Of the whole file, in bytes.

    Raises
    ------
    FormatError
        If the bytes contradict the format or each other, or exceed the limits of :mod:`gguf_types`.
    UnsupportedError
        If the version, byte order or a tensor's type is not read.
    """
    cursor = Cursor(path, data)
    version = _version(cursor)
    n_tensors = _count(cursor, "tensors", MAX_TENSORS, _MIN_ENTRY_BYTES, file_size)
    n_keys = _count(cursor, "keys", MAX_KEYS, _MIN_KEY_BYTES, file_size)
    extension = _extension(cursor, version, file_size)
    metadata = read_metadata(cursor, n_keys)
    entries = read_entries(cursor, n_tensors)
    alignment = _alignment(cursor, metadata, extension)
    data_start = align_up(cursor.position, alignment)
    if extension is not None and extension[1] != data_start:
        raise cursor.error(28, f"the data offset is {extension[1]:,}, but the header ends at {cursor.position:,}")
    if not entries:
        file_size = max(file_size, data_start)  # a vocabulary alone need not be padded
    tensors = place_tensors(cursor, entries, metadata, alignment=alignment, data_start=data_start, file_size=file_size)
    return Header(version, alignment, metadata, tensors, data_start)


def _version(cursor: Cursor) -> int:
    n_bytes = len(cursor.data)
    if n_bytes < _MIN_FILE_BYTES:
        raise cursor.error(0, f"a GGUF file has at least {_MIN_FILE_BYTES} bytes, this one has {n_bytes}")
    magic = bytes(cursor.data[cursor.take(4, "the magic") : 4])
    if magic != MAGIC:
        raise cursor.error(0, f"expected {MAGIC!r}, found {magic!r}: not a GGUF file")
    version = cursor.u32("the version")
    if version in VERSIONS:
        return version
    place = f"{cursor.path}: byte 4"
    if int.from_bytes(version.to_bytes(4, "little"), "big") in range(1, 1 << 16):
        raise UnsupportedError(f"{place}: a big-endian GGUF file; convert it to little-endian")
    raise UnsupportedError(f"{place}: GGUF version {version:,} is not read; take a file of version 3 or 2")


def _count(cursor: Cursor, what: str, maximum: int, min_bytes: int, file_size: int) -> int:
    at = cursor.position
    count = cursor.u64(f"the number of {what}")
    if count > maximum:
        raise cursor.error(at, f"{count:,} {what}, at most {maximum:,} are read")
    if count * min_bytes > file_size:
        raise cursor.error(at, f"{count:,} {what} cannot fit into a file of {file_size:,} bytes")
    return count


def _extension(cursor: Cursor, version: int, file_size: int) -> tuple[int, int] | None:
    """Read the alignment and data offset that BitNet-rs writes after the counts, if they are there.

    Elsewhere the length of a key or name stands here: at most 256, so its upper half is zero, where the lower half of
    a data offset never is.
    """
    at = cursor.position
    if version < 3 or file_size < at + _EXTENSION.size:
        return None
    alignment, data_offset = _EXTENSION.unpack_from(cursor.data, at)
    if not data_offset & 0xFFFFFFFF or not at < data_offset <= file_size or not is_alignment(alignment):
        return None
    cursor.take(_EXTENSION.size, "the alignment and data offset")
    return alignment, data_offset


def _alignment(cursor: Cursor, metadata: Mapping[str, TypedValue], extension: tuple[int, int] | None) -> int:
    stated = metadata.get("general.alignment")
    if stated is None:
        return DEFAULT_ALIGNMENT if extension is None else extension[0]
    if stated.type is not ValueType.UINT32 or not is_alignment(stated.value):
        shown = f"{stated.value:,}" if isinstance(stated.value, int) else type(stated.value).__name__
        raise FormatError(
            f"{cursor.path}: key 'general.alignment' is {stated.type.name} {shown}, "
            f"expected UINT32, a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT:,}"
        )
    if extension is not None and extension[0] != stated.value:
        raise cursor.error(24, f"alignment {extension[0]:,}, but key 'general.alignment' says {stated.value:,}")
    return int(stated.value)
