"""Writing GGUF version 3: the same input gives the same bytes, and the file appears whole or not at all."""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.errors import FormatError
from bitnet_numba.files import atomic_write
from bitnet_numba.formats.gguf_header import read_header
from bitnet_numba.formats.gguf_types import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    NUMBER_FORMATS,
    TensorType,
    TypedValue,
    ValueType,
    align_up,
    is_alignment,
    tensor_bytes,
)


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor to be written.

    Attributes
    ----------
    name : str
    type : TensorType
        One of the types that can be read.
    shape : tuple of int
        Outermost dimension first: (rows, columns) of a matrix.
    read : callable without arguments
        Returns the tensor's bytes, or an array that holds them in C order; called once, when their turn comes, so that
        one tensor at a time is in memory. The bytes of an I2_S tensor include its tail.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    read: Callable[[], bytes | NDArray[Any]]


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Iterable[TensorSource]) -> None:
    """Write a GGUF file that :func:`~bitnet_numba.formats.gguf.open_gguf` accepts.

    Parameters
    ----------
    path : Path
        Replaced if it exists.
    metadata : mapping of str to Any
        Written in this order. A :class:`TypedValue` is stored as it says. Plain values take the usual types: str and
        bool their own, int UINT32, float FLOAT32; a list that of its items, but INT32 for int.
        ``general.alignment`` is obeyed.
    tensors : iterable of TensorSource
        Written in this order.

    Raises
    ------
    FormatError
        If a value does not fit its type, a tensor's bytes do not fit its shape, or the file would break a rule of
        the reader; ``path`` is then as it was.
    BitNetError
        If ``path`` is a symbolic link, or its folder does not exist.
    """
    sources = tuple(tensors)
    values = {key: _typed(path, key, value) for key, value in metadata.items()}
    alignment = _alignment(values)
    sizes = [_n_bytes(path, source) for source in sources]
    header = _header(path, values, sources, sizes, alignment)
    file_size = len(header) + sum(align_up(n_bytes, alignment) for n_bytes in sizes)
    read_header(path, memoryview(header), file_size)  # the reader's rules are the writer's
    with atomic_write(path) as file:
        file.write(header)
        for source, n_bytes in zip(sources, sizes, strict=True):
            file.write(_payload(path, source, n_bytes))
            file.write(bytes(align_up(n_bytes, alignment) - n_bytes))


def _typed(path: Path, key: str, value: object) -> TypedValue:
    """Give a plain value the type that GGUF files usually store it in."""
    if isinstance(value, TypedValue):
        return value
    is_list = isinstance(value, list | tuple)
    plain: Any = value
    first = plain[0] if is_list and plain else value
    if isinstance(first, bool):
        return TypedValue(ValueType.BOOL, value)
    if isinstance(first, int):
        return TypedValue(ValueType.INT32 if is_list else ValueType.UINT32, value)
    if isinstance(first, float):
        return TypedValue(ValueType.FLOAT32, value)
    if isinstance(first, str):
        return TypedValue(ValueType.STRING, value)
    raise FormatError(f"{path}: key {key!r}: {type(first).__name__} has no usual type in GGUF; give a TypedValue")


def _alignment(values: Mapping[str, TypedValue]) -> int:
    stated = values.get("general.alignment")
    # An impossible alignment is refused when the header is read back.
    return stated.value if stated is not None and is_alignment(stated.value) else DEFAULT_ALIGNMENT


def _n_bytes(path: Path, source: TensorSource) -> int:
    try:
        return tensor_bytes(source.type, source.shape)
    except ValueError as error:
        raise FormatError(f"{path}: tensor {source.name!r}: {error}") from None


def _header(
    path: Path,
    values: Mapping[str, TypedValue],
    sources: Sequence[TensorSource],
    sizes: Sequence[int],
    alignment: int,
) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", 3, len(sources), len(values))]
    for key, typed in values.items():
        parts += [_string(key), _value(path, key, typed)]
    offset = 0
    for source, n_bytes in zip(sources, sizes, strict=True):
        shape = struct.pack(f"<I{len(source.shape)}Q", len(source.shape), *reversed(source.shape))
        parts += [_string(source.name), shape, struct.pack("<IQ", source.type, offset)]
        offset += align_up(n_bytes, alignment)
    header = b"".join(parts)
    return header.ljust(align_up(len(header), alignment), b"\0")


def _string(text: str) -> bytes:
    # A lone surrogate passes, and is refused when the header is read back.
    encoded = text.encode(errors="surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded


def _value(path: Path, key: str, typed: TypedValue) -> bytes:
    is_list = isinstance(typed.value, list | tuple)
    items = typed.value if is_list else [typed.value]
    prefix = struct.pack("<IIQ", ValueType.ARRAY, typed.type, len(items)) if is_list else struct.pack("<I", typed.type)
    try:
        return prefix + _items(typed.type, items)
    except (struct.error, OverflowError, TypeError) as error:
        raise FormatError(f"{path}: key {key!r} cannot be stored as {typed.type.name}: {error}") from None


def _items(value_type: ValueType, items: Sequence[Any]) -> bytes:
    if value_type is ValueType.STRING:
        if not all(isinstance(item, str) for item in items):
            raise TypeError("expected text")
        return b"".join(map(_string, items))
    if value_type is ValueType.BOOL:
        if not all(isinstance(item, bool) for item in items):
            raise TypeError("expected True or False")
        return bytes(items)
    if value_type not in NUMBER_FORMATS:
        raise TypeError("an array's type is that of its items")
    return struct.pack(f"<{len(items)}{NUMBER_FORMATS[value_type]}", *items)


def _payload(path: Path, source: TensorSource, n_bytes: int) -> memoryview:
    contents: bytes | memoryview | NDArray[Any] = source.read()
    if isinstance(contents, np.ndarray):
        contents = np.ascontiguousarray(contents).data
    payload = memoryview(contents).cast("B")
    if payload.nbytes != n_bytes:
        raise FormatError(
            f"{path}: tensor {source.name!r}: {payload.nbytes:,} bytes given, "
            f"{source.type.name} of shape {source.shape} needs {n_bytes:,}"
        )
    return payload
