"""A builder of small GGUF files, true ones and lying ones; it shares no code with the writer under test."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from bitnet_numba.formats.gguf_types import TypedValue, ValueType

ALIGNMENT = 32

_FORMATS = dict(zip(ValueType, ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d"), strict=True))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a built file; what is None is filled in truthfully.

    Attributes
    ----------
    shape : tuple of int
        Outermost dimension first; written innermost first.
    type : int
    data : bytes
    offset : int or None
        As the table states it.
    """

    shape: tuple[int, ...]
    type: int
    data: bytes
    offset: int | None = None


def text(value: str | bytes, length: int | None = None) -> bytes:
    """Return a GGUF string; ``length`` is what it claims."""
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded


def array(item_type: int, n_items: int, items: bytes) -> bytes:
    """Return the type and value of an array that claims ``n_items``."""
    return struct.pack("<IIQ", ValueType.ARRAY, item_type, n_items) + items


def stored(value: TypedValue) -> bytes:
    """Return the type and value of a key."""
    items = value.value if isinstance(value.value, list) else [value.value]
    if value.type is ValueType.STRING:
        body = b"".join(map(text, items))
    else:
        body = struct.pack(f"<{len(items)}{_FORMATS[value.type]}", *items)
    if isinstance(value.value, list):
        return array(value.type, len(items), body)
    return struct.pack("<I", value.type) + body


def entry(name: str | bytes, tensor: Tensor, offset: int) -> bytes:
    """Return a row of the tensor table."""
    dims = tensor.shape[::-1]
    place = struct.pack("<IQ", tensor.type, offset if tensor.offset is None else tensor.offset)
    return text(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims) + place


def padding(n_bytes: int, alignment: int) -> bytes:
    """Return the zeros that follow ``n_bytes``."""
    return bytes(-n_bytes % alignment)


def gguf_bytes(
    metadata: Mapping[str, TypedValue | bytes],
    tensors: Mapping[str, Tensor],
    *,
    version: int = 3,
    alignment: int = ALIGNMENT,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    more_keys: bytes = b"",
    more_entries: bytes = b"",
    extension: tuple[int, int] | None = None,
) -> bytes:
    """Build a GGUF file.

    Parameters
    ----------
    metadata : mapping
        Values; bytes are written as they are after the key, in place of type and value.
    tensors : mapping of str to Tensor
    alignment : int
        To which data are padded, whatever the metadata say.
    n_keys, n_tensors : int, optional
        The counts to claim.
    more_keys, more_entries : bytes
        Written after the keys and after the tensor table.
    extension : (alignment, data offset), optional
        What BitNet-rs writes after the counts.
    """
    keys = b"".join(
        text(key) + (value if isinstance(value, bytes) else stored(value)) for key, value in metadata.items()
    )
    entries, data = b"", b""
    for name, tensor in tensors.items():
        entries += entry(name, tensor, len(data))
        data += tensor.data + padding(len(tensor.data), alignment)
    counts = len(tensors) if n_tensors is None else n_tensors, len(metadata) if n_keys is None else n_keys
    header = b"GGUF" + struct.pack("<IQQ", version, *counts)
    header += b"" if extension is None else struct.pack("<IQ", *extension)
    header += keys + more_keys + entries + more_entries
    return header + padding(len(header), alignment) + data


def uint32(value: int) -> TypedValue:
    return TypedValue(ValueType.UINT32, value)


def string(value: str) -> TypedValue:
    return TypedValue(ValueType.STRING, value)
