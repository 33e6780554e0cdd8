"""Write GGUF version 3: the same input gives the same bytes, and the file appears whole or not at all."""

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
)
from bitnet_numba.formats.tensor_formats import tensor_bytes

Part = bytes | NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor to write.

    ``read`` returns the tensor's bytes with the tail of an I2_S tensor, or an array that holds them in C order, or an
    iterator of such parts; it is called once, just before they are written.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]  # outermost dimension first: (rows, columns) of a matrix
    read: Callable[[], Part | Iterator[Part]]


class Progress(NamedTuple):
    """Progress of writing a file: the current tensor, and weights done out of the total."""

    tensor: str
    done: int
    total: int


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """The layout of a file, complete before the first tensor is read; made by :func:`plan_gguf`."""

    path: Path
    header: bytes  # everything before the first tensor
    tensors: tuple[TensorSource, ...]
    sizes: tuple[int, ...]  # bytes of each tensor, without padding
    alignment: int  # bytes

    @property
    def file_size(self) -> int:
        """Size of the file in bytes."""
        return len(self.header) + sum(align_up(n_bytes, self.alignment) for n_bytes in self.sizes)


def plan_gguf(path: Path, metadata: Mapping[str, Any], tensors: Iterable[TensorSource]) -> Plan:
    """Lay out a GGUF file, its keys and tensors in the order given, without reading a tensor or writing a byte.

    A :class:`TypedValue` keeps its type; int becomes UINT32, float FLOAT32, a list the type of its items, but INT32 for
    int. ``general.alignment`` is obeyed. Raises FormatError if a value does not fit its type, or the file would break a
    rule of the reader.
    """
    sources = tuple(tensors)
    values = {key: _typed(path, key, value) for key, value in metadata.items()}
    stated = values.get("general.alignment")
    # An impossible alignment is refused when the header is read back.
    alignment = stated.value if stated is not None and is_alignment(stated.value) else DEFAULT_ALIGNMENT
    sizes = tuple(_n_bytes(path, source) for source in sources)
    plan = Plan(path, _header(path, values, sources, sizes, alignment), sources, sizes, alignment)
    read_header(path, memoryview(plan.header), plan.file_size)  # the reader's rules are the writer's
    return plan


def write_plan(
    plan: Plan,
    before_rename: Callable[[Path], None] | None = None,
    report: Report | None = None,
    final_metadata: Callable[[], Mapping[str, Any]] | None = None,
) -> None:
    """Write a planned file by :func:`~bitnet_numba.files.atomic_write`, and report after each part.

    ``final_metadata`` returns the metadata with what is known only when all tensors are written: other values of the
    same size. Raises FormatError if a tensor's bytes do not fit its shape; the file is then as it was.
    """
    total = sum(math.prod(source.shape) for source in plan.tensors)
    done = 0
    with atomic_write(plan.path, before_rename) as file:
        file.write(plan.header)
        for source, n_bytes in zip(plan.tensors, plan.sizes, strict=True):
            n_weights = math.prod(source.shape)
            for written in _write_parts(file, plan.path, source, n_bytes):
                if report is not None:
                    report(Progress(source.name, done + n_weights * written // n_bytes, total))
            file.write(bytes(align_up(n_bytes, plan.alignment) - n_bytes))
            done += n_weights
        if final_metadata is not None:
            header = plan_gguf(plan.path, final_metadata(), plan.tensors).header
            if len(header) != len(plan.header):
                raise ValueError(f"the final metadata takes {len(header)} bytes, {len(plan.header)} are planned")
            file.seek(0)
            file.write(header)


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Iterable[TensorSource]) -> None:
    """Write a GGUF file: :func:`plan_gguf`, then :func:`write_plan`."""
    write_plan(plan_gguf(path, metadata, tensors))


def _typed(path: Path, key: str, value: object) -> TypedValue:
    """Give a plain value its usual type in GGUF files."""
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


def _n_bytes(path: Path, source: TensorSource) -> int:
    try:
        return tensor_bytes(source.type, source.shape)
    except ValueError as error:
        raise FormatError(f"{path}: tensor {source.name!r}: {error}") from None


def _header(
    path: Path, values: Mapping[str, TypedValue], sources: Sequence[TensorSource], sizes: Sequence[int], alignment: int
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


def _write_parts(file: BinaryIO, path: Path, source: TensorSource, n_bytes: int) -> Iterator[int]:
    """Write a tensor, and yield the number of bytes written after each part."""
    contents = source.read()
    written = 0
    for part in contents if isinstance(contents, Iterator) else (contents,):
        payload = memoryview(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part).cast("B")
        written += payload.nbytes
        if written > n_bytes:
            break
        file.write(payload)
        yield written
    if written != n_bytes:
        raise FormatError(
            f"{path}: tensor {source.name!r}: {written:,} bytes given, "
            f"{source.type.name} of shape {source.shape} needs {n_bytes:,}"
        )
