"""Read safetensors checkpoints, one file or many shards, over memory maps; bf16 widens exactly.

The type, shape and bytes of each tensor are checked before any is used.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError
from bitnet_numba.formats.json_file import parse_object
from bitnet_numba.formats.mapping import forget_pages, map_file
from bitnet_numba.formats.tensor_formats import float_codec

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20
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
    """A tensor of a safetensors file."""

    name: str
    dtype: str  # the file's name of it: BF16, F32, U8, ...
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file
    n_bytes: int
    file: Path


class Checkpoint:
    """The tensors of one safetensors file or of its shards; ``path`` is the file or the directory.

    Raises BitNetError if a file cannot be read, a header is wrong, or two files hold the same tensor.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self.tensors: dict[str, TensorEntry] = {}
        self._mapped: dict[Path, npt.NDArray[np.uint8]] = {}
        for file in files:
            data = map_file(file)
            for entry in read_header(data, file):
                other = self.tensors.setdefault(entry.name, entry)
                if other is not entry:
                    raise FormatError(
                        f"{file}: tensor {entry.name!r} is in {other.file.name} too; remove one of the files"
                    )
            self._mapped[file] = data

    def raw(self, name: str) -> npt.NDArray[Any]:
        """Return a tensor as stored, bf16 as uint16 bits: read-only, maybe unaligned, valid also after :meth:`close`.

        Raises FormatError for an unknown name, ValueError on a closed checkpoint.
        """
        entry = self._find(name)
        if entry.file not in self._mapped:
            raise ValueError(f"{self.path}: the checkpoint is closed")
        data = self._mapped[entry.file][entry.offset : entry.offset + entry.n_bytes]
        return data.view(STORED_DTYPES[entry.dtype]).reshape(entry.shape)

    def float32(self, name: str, rows: slice | None = None) -> npt.NDArray[np.float32]:
        """Return a tensor of floats, or some of its rows, as float32, exactly, in memory of its own.

        Raises FormatError for an unknown name, UnsupportedError if it holds anything but F32, F16 or BF16.
        """
        dtype = self._find(name).dtype
        codec = float_codec(dtype)
        if codec is None:
            raise UnsupportedError(f"{self.path}: tensor {name!r} holds {dtype}; save it as BF16, F16 or F32")
        return codec.widen(self.raw(name) if rows is None else self.raw(name)[rows])

    @property
    def files(self) -> list[Path]:
        """The safetensors files, in the order of their names."""
        return list(self._mapped)

    def forget_pages(self) -> None:
        """Release the pages read so far; see :func:`bitnet_numba.formats.mapping.forget_pages`."""
        for data in self._mapped.values():
            forget_pages(data)

    def close(self) -> None:
        """Close the files; arrays handed out before stay valid."""
        self._mapped.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _find(self, name: str) -> TensorEntry:
        entry = self.tensors.get(name)
        if entry is None:
            raise FormatError(f"{self.path}: tensor {name!r} is missing; get the whole checkpoint again")
        return entry


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open a directory with ``model.safetensors`` or ``model.safetensors.index.json`` and its shards; or one file.

    Raises BitNetError for a missing directory or an unreadable file, UnsupportedError if the weights are a pickle only,
    FormatError if a header is wrong, or index and shards disagree.
    """
    if directory.is_file():
        return Checkpoint(directory, [directory])
    if not directory.is_dir():
        raise BitNetError(f"{directory}: no such directory; check the path")
    if (directory / SINGLE_FILE).is_file():
        return Checkpoint(directory, [directory / SINGLE_FILE])
    if (directory / INDEX_FILE).is_file():
        return _open_shards(directory)
    if any(directory.glob("pytorch_model*.bin")):
        raise UnsupportedError(
            f"{directory}: pytorch_model.bin is a pickle, which can run code; convert it to {SINGLE_FILE}"
        )
    raise FormatError(f"{directory}: neither {SINGLE_FILE} nor {INDEX_FILE} is there; get the whole checkpoint again")


def _open_shards(directory: Path) -> Checkpoint:
    """Open every shard of an index; index and shards must list the same tensors."""
    index = directory / INDEX_FILE
    shard_of = _read_index(index)
    shards = sorted({directory / shard for shard in shard_of.values()})
    for shard in shards:
        if not shard.is_file():
            raise FormatError(f"{index}: shard {shard.name} is missing from the directory; get it again")
    checkpoint = Checkpoint(directory, shards)
    for name, shard_name in shard_of.items():
        entry = checkpoint.tensors.get(name)
        if entry is None or entry.file.name != shard_name:
            raise FormatError(f"{index}: tensor {name!r} is not in its shard {shard_name}; get both files again")
    for name, entry in checkpoint.tensors.items():
        if name not in shard_of:
            raise FormatError(f"{entry.file}: tensor {name!r} is not in {INDEX_FILE}; get both files again")
    return checkpoint


def _read_index(index: Path) -> dict[str, str]:
    """Return the shard of every tensor, by name."""
    data = map_file(index)
    if data.size > MAX_INDEX_BYTES:
        raise FormatError(f"{index}: has {data.size:,} bytes, at most {MAX_INDEX_BYTES:,}; get the file again")
    weight_map = parse_object(data.tobytes(), f"{index}: byte 0", strict=True).values.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{index}: 'weight_map' is not an object of tensors and shards; get the file again")
    for name, shard in weight_map.items():
        check_name(name, index)
        if not isinstance(shard, str) or not _is_plain_name(shard):
            raise FormatError(f"{index}: the shard of {name!r} is not a file name ending in .safetensors; get it again")
    return weight_map


def _is_plain_name(name: str) -> bool:
    """Tell whether this is a plain name of a safetensors file, without a path."""
    return name.endswith(".safetensors") and name.isprintable() and Path(name).name == name and "\\" not in name


# ---- the header of a file --------------------------------------------------------------------------------------------
def read_header(data: npt.NDArray[np.uint8], file: Path) -> list[TensorEntry]:
    """Return the tensors of a safetensors file, uint8[n_bytes], in the order of their bytes, without holes.

    Raises FormatError if the header contradicts the format, the file, or itself; UnsupportedError for an unknown dtype.
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
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{file}: '__metadata__' is not an object of texts; {_RETRY}")
    entries = [_entry(name, info, start, file) for name, info in header.items()]
    entries.sort(key=lambda entry: (entry.offset, entry.n_bytes))
    _check_coverage(entries, start, data.size, file)
    return entries


def check_name(name: str, file: Path) -> None:
    """Refuse a tensor name that is empty, too long, or not printable."""
    if not (1 <= len(name) <= MAX_NAME_CHARACTERS and name.isprintable()):
        shown = ascii(name[:MAX_NAME_CHARACTERS])
        raise FormatError(f"{file}: tensor name {shown} is not 1 to {MAX_NAME_CHARACTERS} printable letters; {_RETRY}")


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
