"""Read safetensors checkpoints, one file or many shards, over memory maps; bf16 widens exactly."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError
from bitnet_numba.formats.json_file import parse_object
from bitnet_numba.formats.mapping import forget_pages, map_file
from bitnet_numba.formats.safetensors_header import STORED_DTYPES, TensorEntry, check_name, read_header
from bitnet_numba.formats.tensor_formats import float_codec

__all__ = ["Checkpoint", "TensorEntry", "open_checkpoint"]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20


class Checkpoint:
    """The tensors of one safetensors file or of its shards.

    Attributes
    ----------
    path : Path
        The file or the directory.
    tensors : dict of str to TensorEntry

    Raises
    ------
    BitNetError
        If a file cannot be read, a header is wrong, or two files hold the same tensor.
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

        Raises
        ------
        FormatError
            If there is no such tensor.
        ValueError
            If the checkpoint is closed.
        """
        entry = self._find(name)
        if entry.file not in self._mapped:
            raise ValueError(f"{self.path}: the checkpoint is closed")
        data = self._mapped[entry.file][entry.offset : entry.offset + entry.n_bytes]
        return data.view(STORED_DTYPES[entry.dtype]).reshape(entry.shape)

    def float32(self, name: str, rows: slice | None = None) -> npt.NDArray[np.float32]:
        """Return a tensor of floats, or some of its rows, as float32, exactly, in memory of its own.

        Raises
        ------
        FormatError
            If there is no such tensor.
        UnsupportedError
            If it holds anything but F32, F16 or BF16.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _find(self, name: str) -> TensorEntry:
        entry = self.tensors.get(name)
        if entry is None:
            raise FormatError(f"{self.path}: tensor {name!r} is missing; get the whole checkpoint again")
        return entry


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open the weights of a Hugging Face directory.

    Parameters
    ----------
    directory : Path
        With ``model.safetensors``, or with ``model.safetensors.index.json`` and its shards; or a safetensors file.

    Raises
    ------
    BitNetError
        If there is no such directory, or a file cannot be read.
    UnsupportedError
        If the weights are a pickle only.
    FormatError
        If a header is wrong, or index and shards disagree.
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
