"""The header of a GGUF file: version, alignment, metadata and the tensor table, read strictly and within bounds."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.formats.gguf_cursor import Cursor
from bitnet_numba.formats.gguf_tensors import TensorInfo, place_tensors, read_entries
from bitnet_numba.formats.gguf_types import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_ARRAY_ITEMS,
    MAX_KEY_BYTES,
    MAX_KEYS,
    MAX_STRING_BYTES,
    MAX_TEMPLATE_BYTES,
    MAX_TENSORS,
    MIN_ALIGNMENT,
    NUMBER_FORMATS,
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
_CHAT_TEMPLATE = "tokenizer.chat_template"
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header."""

    version: int
    alignment: int  # in bytes: every tensor begins at a multiple of it, counted from data_start
    metadata: dict[str, TypedValue]
    tensors: dict[str, TensorInfo]
    data_start: int  # offset of the first tensor in the file


def read_header(path: Path, data: memoryview, file_size: int) -> Header:
    """Read and check a header from a file's bytes, at least those up to the first tensor; ``path`` is for errors.

    Raises FormatError if the bytes contradict the format or each other, or exceed the limits of :mod:`gguf_types`;
    UnsupportedError for a version, byte order or tensor type that is not read.
    """
    cursor = Cursor(path, data)
    version = _version(cursor)
    n_tensors = _count(cursor, "tensors", MAX_TENSORS, _MIN_ENTRY_BYTES, file_size)
    n_keys = _count(cursor, "keys", MAX_KEYS, _MIN_KEY_BYTES, file_size)
    extension = _extension(cursor, version, file_size)
    metadata = _read_metadata(cursor, n_keys)
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


# ---- metadata --------------------------------------------------------------------------------------------------------
def _read_metadata(cursor: Cursor, n_keys: int) -> dict[str, TypedValue]:
    """Read ``n_keys`` keys with their values; FormatError if one is malformed, repeated or too large."""
    metadata: dict[str, TypedValue] = {}
    items_left = MAX_ARRAY_ITEMS
    for index in range(n_keys):
        at = cursor.position
        key = cursor.text(f"key {index}", 1, MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.error(at, f"key {key!r} occurs twice")
        value_type = _value_type(cursor, key)
        if value_type is ValueType.ARRAY:
            value = _array(cursor, key, items_left)
            items_left -= len(value.value)
        else:
            value = _scalar(cursor, key, value_type)
        metadata[key] = value
    return metadata


def _value_type(cursor: Cursor, key: str) -> ValueType:
    at = cursor.position
    number = cursor.u32(f"the type of key {key!r}")
    try:
        return ValueType(number)
    except ValueError:
        raise cursor.error(at, f"key {key!r}: unknown value type {number:,}") from None


def _scalar(cursor: Cursor, key: str, value_type: ValueType) -> TypedValue:
    what = f"the value of key {key!r}"
    if value_type is ValueType.STRING:
        longest = MAX_TEMPLATE_BYTES if key.startswith(_CHAT_TEMPLATE) else MAX_STRING_BYTES
        return TypedValue(value_type, cursor.text(what, 0, longest))
    if value_type is ValueType.BOOL:
        at = cursor.take(1, what)
        number = cursor.data[at]
        if number > 1:
            raise cursor.error(at, f"key {key!r}: a bool is 0 or 1, not {number}")
        return TypedValue(value_type, bool(number))
    number_format = "<" + NUMBER_FORMATS[value_type]
    at = cursor.take(struct.calcsize(number_format), what)
    return TypedValue(value_type, struct.unpack_from(number_format, cursor.data, at)[0])


def _array(cursor: Cursor, key: str, items_left: int) -> TypedValue:
    at = cursor.position
    item_type = _value_type(cursor, key)
    if item_type is ValueType.ARRAY:
        raise cursor.error(at, f"key {key!r}: an array inside an array is not supported")
    at = cursor.position
    n_items = cursor.u64(f"the item count of key {key!r}")
    if n_items > items_left:
        raise cursor.error(
            at, f"key {key!r}: {n_items:,} items, the arrays of a file may hold {MAX_ARRAY_ITEMS:,} together"
        )
    if item_type is ValueType.STRING:
        return TypedValue(item_type, _strings(cursor, key, n_items))
    what = f"the array of key {key!r}"
    if item_type is ValueType.BOOL:
        start = cursor.take(n_items, what)
        flags = np.frombuffer(cursor.data[start : cursor.position], np.uint8)
        if n_items and flags.max() > 1:
            at = start + int((flags > 1).argmax())
            raise cursor.error(at, f"key {key!r}: a bool is 0 or 1, not {cursor.data[at]}")
        return TypedValue(item_type, flags.astype(bool).tolist())
    dtype = np.dtype(NUMBER_FORMATS[item_type]).newbyteorder("<")
    start = cursor.take(n_items * dtype.itemsize, what)
    return TypedValue(item_type, np.frombuffer(cursor.data[start : cursor.position], dtype).tolist())


def _strings(cursor: Cursor, key: str, n_items: int) -> list[str]:
    """Read the strings of an array; a vocabulary has some 400,000, so the loop works on local names."""
    data, limit, position = cursor.data, cursor.limit, cursor.position
    what = f"the array of key {key!r}"
    if n_items * _LENGTH.size > limit - position:
        raise cursor.overrun(position, n_items * _LENGTH.size, what)
    texts: list[str] = []
    append, length_at, decode = texts.append, _LENGTH.unpack_from, str
    try:
        for _ in range(n_items):
            start = position + 8
            if start > limit:
                raise cursor.overrun(position, 8, f"item {len(texts):,} of key {key!r}")
            (n_bytes,) = length_at(data, position)
            position = start + n_bytes
            if position > limit:
                raise cursor.overrun(start, n_bytes, f"item {len(texts):,} of key {key!r}")
            if n_bytes > MAX_STRING_BYTES:
                raise cursor.error(start, f"item {len(texts):,} of key {key!r} has over {MAX_STRING_BYTES:,} bytes")
            append(decode(data[start:position], "utf-8"))
    except UnicodeDecodeError as error:
        raise cursor.error(start + error.start, f"item {len(texts):,} of key {key!r} is not UTF-8") from None
    cursor.position = position
    return texts
