"""The tensor table of a GGUF file: name, shape, type and bytes of each tensor."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bitnet_numba.errors import UnsupportedError
from bitnet_numba.formats.gguf_cursor import Cursor
from bitnet_numba.formats.gguf_types import (
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    TensorType,
    TypedValue,
    align_up,
    check_shape,
)
from bitnet_numba.formats.tensor_formats import FORMATS, UPSTREAM_TWINS, Layout, layout_bytes, remedy


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a GGUF file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]  # outermost dimension first: (rows, columns) of a matrix
    offset: int  # of its first byte in the file
    n_bytes: int  # with the tail of an I2_S tensor, without padding


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A row of the table as the file has it; type number and offset are not checked yet."""

    position: int
    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int

    @property
    def label(self) -> str:
        """The tensor's name in errors."""
        return f"tensor {self.name!r}"


def read_entries(cursor: Cursor, n_tensors: int) -> list[TensorEntry]:
    """Read the rows of the table; FormatError if a name is malformed or repeated, or a shape is impossible."""
    entries: dict[str, TensorEntry] = {}
    for index in range(n_tensors):
        at = cursor.position
        name = cursor.text(f"the name of tensor {index}", 1, MAX_NAME_BYTES)
        if not (name.isascii() and name.isprintable()) or "/" in name or "\\" in name:
            raise cursor.error(at, f"tensor name {name!r} has characters other than printable ASCII without slashes")
        if name in entries:
            raise cursor.error(at, f"tensor {name!r} occurs twice")
        shape = _shape(cursor, name)
        type_number = cursor.u32(f"the type of tensor {name!r}")
        offset = cursor.u64(f"the offset of tensor {name!r}")
        entries[name] = TensorEntry(at, name, shape, type_number, offset)
    return list(entries.values())


def _shape(cursor: Cursor, name: str) -> tuple[int, ...]:
    """Read the dimensions, which a file holds innermost first."""
    at = cursor.position
    n_dimensions = cursor.u32(f"the dimension count of tensor {name!r}")
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise cursor.error(at, f"tensor {name!r}: {n_dimensions:,} dimensions, expected 1 to {MAX_DIMENSIONS}")
    at = cursor.position
    shape = tuple(cursor.u64(f"a dimension of tensor {name!r}") for _ in range(n_dimensions))[::-1]
    try:
        check_shape(shape)
    except ValueError as error:
        raise cursor.error(at, f"tensor {name!r}: {error}") from None
    return shape


def place_tensors(
    cursor: Cursor,
    entries: list[TensorEntry],
    metadata: Mapping[str, TypedValue],
    *,
    alignment: int,
    data_start: int,
    file_size: int,
) -> dict[str, TensorInfo]:
    """Return every tensor with its type and bytes, which must follow each other, aligned, to the end of the file.

    Raises FormatError if they do not, UnsupportedError for a type that is not read.
    """
    data_size = file_size - data_start
    tensors: dict[str, TensorInfo] = {}
    expected = end = 0
    for entry, following in zip(entries, [*entries, None][1:], strict=True):
        span = (data_size if following is None else following.offset) - entry.offset
        tensor_type = _tensor_type(cursor, entry, metadata, span, alignment)
        n_bytes = _n_bytes(cursor, entry, FORMATS[tensor_type].layout)
        _check_offset(cursor, entry, expected, alignment)
        end = entry.offset + n_bytes
        if end > data_size:
            raise cursor.error(
                entry.position,
                f"{entry.label}: {math.prod(entry.shape):,} weights need {n_bytes:,} bytes, "
                f"the file has {max(data_size - entry.offset, 0):,}",
            )
        expected = align_up(end, alignment)
        tensors[entry.name] = TensorInfo(entry.name, tensor_type, entry.shape, data_start + entry.offset, n_bytes)
    if data_size > expected:
        raise cursor.error(data_start + end, f"{data_size - end:,} bytes follow the last tensor")
    return tensors


def _check_offset(cursor: Cursor, entry: TensorEntry, expected: int, alignment: int) -> None:
    if entry.offset == expected:
        return
    if entry.offset % alignment:
        problem = f"is not a multiple of {alignment}"
    elif entry.offset < expected:
        problem = f"overlaps the tensor before it, which ends at {expected:,}"
    else:
        problem = f"leaves a gap, {expected:,} comes next"
    raise cursor.error(entry.position, f"{entry.label}: offset {entry.offset:,} {problem}")


def _n_bytes(cursor: Cursor, entry: TensorEntry, layout: Layout) -> int:
    try:
        return layout_bytes(layout, entry.shape)
    except ValueError as error:
        raise cursor.error(entry.position, f"{entry.label}: {error}") from None


def _tensor_type(
    cursor: Cursor, entry: TensorEntry, metadata: Mapping[str, TypedValue], span: int, alignment: int
) -> TensorType:
    """Return the type of a tensor, if it is read."""
    try:
        tensor_type = TensorType(entry.type_number)
    except ValueError:
        raise _unsupported(cursor, entry, f"unknown type {entry.type_number:,}", None) from None
    if tensor_type in UPSTREAM_TWINS and _is_upstream_twin(tensor_type, entry.shape, metadata, span, alignment):
        raise _unsupported(cursor, entry, f"type {UPSTREAM_TWINS[tensor_type][0]} is not read", None)
    if tensor_type not in FORMATS:
        raise _unsupported(cursor, entry, f"type {tensor_type.name} is not read", tensor_type)
    return tensor_type


def _unsupported(cursor: Cursor, entry: TensorEntry, problem: str, tensor_type: TensorType | None) -> UnsupportedError:
    place = f"{cursor.path}: byte {entry.position:,}: {entry.label}"
    return UnsupportedError(f"{place}: {problem}; {remedy(tensor_type)}")


def _is_upstream_twin(
    tensor_type: TensorType, shape: tuple[int, ...], metadata: Mapping[str, TypedValue], span: int, alignment: int
) -> bool:
    """Tell whether a number that llama.cpp and bitnet.cpp both assigned has llama.cpp's meaning here.

    The file's architecture and file type decide first, then the bytes up to the next tensor.
    """
    architecture = metadata.get("general.architecture")
    stated = None if architecture is None else architecture.value
    if isinstance(stated, str) and stated.startswith("bitnet"):
        return False
    known = FORMATS.get(tensor_type)
    if known is not None:
        file_type = metadata.get("general.file_type")
        if file_type is not None and file_type.value == known.file_type:
            return False
        if _fills(known.layout, shape, span, alignment):
            return False
    return _fills(UPSTREAM_TWINS[tensor_type][1], shape, span, alignment)


def _fills(layout: Layout, shape: tuple[int, ...], span: int, alignment: int) -> bool:
    """Tell whether a tensor of this layout takes all of ``span``, padding aside."""
    try:
        n_bytes = layout_bytes(layout, shape)
    except ValueError:
        return False
    return n_bytes <= span <= align_up(n_bytes, alignment)
