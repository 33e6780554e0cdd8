"""Block formats that no kernel runs: the gguf package dequantizes an embedding or head once, while it is loaded.

The only room that imports ``gguf``, and only when a file has such a tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitnet_numba.errors import FormatError, ResourceError
from bitnet_numba.formats.packing.codec import Bytes, Float32, Rows, Shape, as_rows
from bitnet_numba.formats.packing.codes import check_length
from bitnet_numba.formats.packing.matrices import Matrix, matrix_of
from bitnet_numba.formats.tensor_formats import FORMATS, Kind, TensorFormat

CHUNK_WEIGHTS = 1 << 16  # dequantized at a time, whole blocks: the temporary arrays stay in a core's own cache


@dataclass(frozen=True, slots=True)
class PackageCodec:
    """A format that the gguf package dequantizes; see :class:`bitnet_numba.formats.packing.codec.Codec`."""

    format: TensorFormat

    def dequantize(self, data: Bytes, shape: Shape, place: str) -> Float32:
        """Return the values, float32[shape]; FormatError if the bytes do not fit the shape, or one is not finite."""
        from gguf import GGMLQuantizationType  # here, because few files need it
        from gguf.quants import dequantize

        kind = GGMLQuantizationType(self.format.type)
        rows, columns = as_rows(shape)
        block, block_bytes, _, _ = self.format.layout
        if columns % block:
            raise FormatError(f"{place}: {columns:,} columns are not a multiple of {block}; get the file again")
        check_length(data, rows * columns // block * block_bytes, place)
        try:
            values = np.empty(rows * columns, np.float32)
            self._dequantize(data, values, columns, place, kind, dequantize)
        except MemoryError as error:
            size = f"{rows:,} x {columns:,}"
            raise ResourceError(f"{place}: no memory for {size} weights of 4 bytes; close other programs") from error
        return values.reshape(shape)

    def _dequantize(
        self, data: Bytes, values: Float32, columns: int, place: str, kind: Any, dequantize: Callable[..., Any]
    ) -> None:
        """Write the values, some at a time."""
        block, block_bytes, _, _ = self.format.layout
        for start in range(0, values.size, CHUNK_WEIGHTS):
            chunk = values[start : start + CHUNK_WEIGHTS]
            first, n_bytes = start // block * block_bytes, chunk.size // block * block_bytes
            with np.errstate(all="ignore"):  # scales that are not finite; the error below says it
                chunk[:] = dequantize(data[first : first + n_bytes].reshape(1, -1), kind)[0]
            finite = np.isfinite(chunk)
            if not finite.all():
                row = (start + int(np.argmin(finite))) // columns
                raise FormatError(f"{place}: row {row:,} holds a value that is not finite; get the file again")

    def matrix(self, data: Bytes, shape: Rows, place: str) -> Matrix:
        """Return an embedding or head as float32; raises as :meth:`dequantize`."""
        return matrix_of(self.dequantize(data, shape, place))


CODECS = {known.type.name: PackageCodec(known) for known in FORMATS.values() if known.kind is Kind.DEQUANTIZED}
