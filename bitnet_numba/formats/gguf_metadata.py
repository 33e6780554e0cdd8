"""The metadata of a GGUF header: keys with typed values and arrays of them."""

import struct

import numpy as np

from bitnet_numba.formats.gguf_cursor import Cursor
from bitnet_numba.formats.gguf_types import (
    MAX_ARRAY_ITEMS,
    MAX_KEY_BYTES,
    MAX_STRING_BYTES,
    MAX_TEMPLATE_BYTES,
    NUMBER_FORMATS,
    TypedValue,
    ValueType,
)

_CHAT_TEMPLATE = "tokenizer.chat_template"
_LENGTH = struct.Struct("<Q")


def read_metadata(cursor: Cursor, n_keys: int) -> dict[str, TypedValue]:
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
