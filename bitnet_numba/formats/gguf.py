"""Read GGUF files over a memory map: strictly, and nothing before it is checked against the file's size."""

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.errors import FormatError
from bitnet_numba.formats.gguf_header import Header, read_header
from bitnet_numba.formats.gguf_tensors import TensorInfo
from bitnet_numba.formats.gguf_types import TensorType, TypedValue, ValueType
from bitnet_numba.formats.mapping import forget_pages, map_file

__all__ = ["GGUFFile", "TensorInfo", "TensorType", "TypedValue", "ValueType", "open_gguf"]

_REMEDY = "the file is damaged: download or convert it again"


class GGUFFile:
    """An open GGUF file with a checked header, its tensors in file order; made by :func:`open_gguf`.

    ``size`` and ``alignment`` are in bytes. ``metadata`` holds plain values (int, float, bool, str, or a list of one of
    them), ``typed_metadata`` the same with their stored types, as the writer takes them.
    """

    def __init__(self, path: Path, contents: NDArray[np.uint8], header: Header) -> None:
        self.path = path
        self.size = contents.size
        self.version = header.version
        self.alignment = header.alignment
        self.typed_metadata = header.metadata
        self.metadata: dict[str, Any] = {key: typed.value for key, typed in header.metadata.items()}
        self.tensors = header.tensors
        self._contents: NDArray[np.uint8] | None = contents

    def data(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of a tensor, uint8[n_bytes], read-only and without a copy; valid also after :meth:`close`.

        Raises FormatError for an unknown name, ValueError on a closed file.
        """
        if self._contents is None:
            raise ValueError(f"{self.path}: read after close")
        info = self.tensors.get(name)
        if info is None:
            raise FormatError(f"{self.path}: has no tensor {name!r}")
        return self._contents[info.offset : info.offset + info.n_bytes]

    def forget_pages(self) -> None:
        """Release the pages read so far; see :func:`bitnet_numba.formats.mapping.forget_pages`."""
        if self._contents is not None:
            forget_pages(self._contents)

    def close(self) -> None:
        """Close the file; the memory map itself is released with the last array over it."""
        self._contents = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_gguf(path: Path) -> GGUFFile:
    """Open a GGUF file of version 2 or 3 and check its header.

    Every number is checked against the file's size and the limits of :mod:`bitnet_numba.formats.gguf_types` before
    anything is read or allocated by it. Raises FormatError if its bytes contradict the format or each other,
    UnsupportedError for a version, byte order or tensor type that is not read, BitNetError if it cannot be read.

    References
    ----------
    ggml, "GGUF", docs/gguf.md of the ggml repository.
    """
    contents = map_file(path)
    try:
        header = read_header(path, contents.data, contents.size)
    except FormatError as error:
        raise FormatError(f"{error}; {_REMEDY}") from None
    return GGUFFile(path, contents, header)
