"""``quantize``: convert the linear layers of a GGUF file to another type, and read all back before it appears."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError, FormatError, ParameterError
from bitnet_numba.export.floats import check_finite, smallest_exact_type, stored_floats
from bitnet_numba.export.gguf import scale_metadata
from bitnet_numba.export.quantization import TYPES, check_blocks, is_float, is_quantized
from bitnet_numba.export.tensors import BLOCK_WEIGHTS, packed, values
from bitnet_numba.formats.gguf import TensorInfo, TypedValue, ValueType
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import Part, Report, TensorSource, plan_gguf, write_plan
from bitnet_numba.formats.mapping import equal_bytes
from bitnet_numba.formats.packing.matrices import TernaryMatrix
from bitnet_numba.formats.tensor_formats import FORMATS, Kind, ternary_codec, writable
from bitnet_numba.model.gguf_source import MASTERS_KEY, OWN_KEYS, GGUFSource
from bitnet_numba.model.roles import Role

DEQUANTIZED = "f16"
COPY_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class QuantizeRequest:
    """The arguments of :func:`quantize_gguf`; patterns have ``*``, ``?`` and ``[...]``."""

    source: Path  # a GGUF file of a BitNet b1.58 model
    out: Path  # replaced if it exists; not the source itself
    type: str  # a ternary type by its lower-case name; or f16, which dequantizes ternary weights
    include: Sequence[str] = ()  # patterns of the linear layers to convert, by default all
    exclude: Sequence[str] = ()  # patterns of the linear layers to copy

    def __post_init__(self) -> None:
        types = (*writable(Kind.TERNARY), DEQUANTIZED)
        if self.type not in types:
            raise ParameterError(f"type {self.type!r}: expected one of {', '.join(types)}")


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """A converted tensor, compared with its source."""

    name: str
    stored_before: str  # type
    stored_after: str
    bytes_before: int
    bytes_after: int
    scale: float  # of its ternary weights
    exact: bool  # all values read back are equal to the source's
    relative_error: float  # RMS of the difference, divided by the RMS of the source's values


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """The written file: its converted tensors in the order of the file, and the number of tensors copied as bytes."""

    out: Path
    size_bytes: int
    tensors: tuple[QuantizedTensor, ...]
    n_copied: int

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {**asdict(self), "out": str(self.out), "tensors": [asdict(tensor) for tensor in self.tensors]}


def quantize_gguf(request: QuantizeRequest, report: Report | None = None) -> QuantizeResult:
    """Write a GGUF file with linear layers of the type asked for; everything else is copied.

    Ternary weights keep their codes and their scale; floats are quantized as the engine does it while loading. Before
    the file appears, every tensor is read back and compared. ``report`` is called after each part that is written.

    Raises FormatError if the file contradicts itself, a weight is not finite, or a tensor read back differs;
    UnsupportedError if a matrix cannot have the type, ParameterError if a pattern matches no linear layer, BitNetError
    if a file cannot be read or written. Whatever the error, an older file is then as it was.
    """
    source = GGUFSource(request.source)
    try:
        if request.out.exists() and request.out.samefile(request.source):
            raise BitNetError(f"{request.out}: is the source itself; name another file")
        quantizer = _Quantizer(source, TYPES[request.type], _chosen(request, source.names))
        plan = plan_gguf(request.out, quantizer.metadata(), quantizer.tensors())
        write_plan(plan, quantizer.read_back, report, quantizer.metadata)
    finally:
        source.close()
    compared = tuple(quantizer.compared)
    return QuantizeResult(request.out, plan.file_size, compared, len(plan.tensors) - len(compared))


def _chosen(request: QuantizeRequest, names: Mapping[Role, str]) -> set[str]:
    """Return the names of the linear layers to convert; patterns can only choose among those."""
    linear = {name for role, name in names.items() if is_quantized(role)}
    for pattern in (*request.include, *request.exclude):
        if not any(fnmatchcase(name, pattern) for name in linear):
            raise ParameterError(
                f"pattern {pattern!r} matches no linear layer; norms, embeddings and heads are never quantized"
            )
    taken = {name for name in linear if not request.include or _matches(name, request.include)}
    return {name for name in taken if not _matches(name, request.exclude)}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class _Quantizer:
    """Makes the tensors of the new file, and compares them with those of the old one."""

    def __init__(self, source: GGUFSource, wanted: TensorType, chosen: set[str]) -> None:
        self._source, self._wanted = source, wanted
        self._roles = {name: role for role, name in source.names.items()}
        tensors = source.file.tensors
        # Master weights stay as they are where ternary ones are dequantized.
        self._changed = {
            name
            for name in chosen
            if tensors[name].type is not wanted and (ternary_codec(tensors[name].type) or not is_float(wanted))
        }
        self._types = {name: self._type_of(info) for name, info in tensors.items()}
        # the exact scales of what is in floats afterwards; those of dequantized layers are known when these are written
        becoming_floats = self._changed if is_float(wanted) else set[str]()
        self._scales = {
            name: source.exact_scales.get(name, 0.0)
            for name in tensors
            if name in becoming_floats or (name in source.exact_scales and name not in self._changed)
        }
        self.compared: list[QuantizedTensor] = []

    def _type_of(self, info: TensorInfo) -> TensorType:
        """Return the type in the new file: an embedding or head gets the one that ``export`` gives it."""
        role = self._roles[info.name]
        if info.name in self._changed:
            return self._wanted
        if is_float(info.type) and not is_float(self._wanted) and role.name in ("token_embd", "output"):
            return smallest_exact_type(self._blocks(info))
        return info.type

    def metadata(self) -> dict[str, TypedValue]:
        """Return the keys of the old file, with the file type of most linear layers of the new one.

        Of this program's own keys those stay that are still true; scales are 0 until they are known.
        """
        keys = {key: value for key, value in self._source.file.typed_metadata.items() if key not in OWN_KEYS}
        linear = [info for info in self._source.file.tensors.values() if is_quantized(self._roles[info.name])]
        types = Counter(self._wanted if info.name in self._changed else info.type for info in linear)
        [(most_common, _)] = types.most_common(1)
        file_type = FORMATS[most_common].file_type
        if file_type is not None:
            keys["general.file_type"] = TypedValue(ValueType.UINT32, file_type)
        if MASTERS_KEY in self._source.file.metadata and any(is_float(self._types[info.name]) for info in linear):
            keys[MASTERS_KEY] = self._source.file.typed_metadata[MASTERS_KEY]
        return keys | scale_metadata(self._scales)

    def tensors(self) -> list[TensorSource]:
        """Return the tensors of the new file; a separate scale is merged into its matrix."""
        merged = {self._source.names.get(replace(self._roles[name], part="scale")) for name in self._changed}
        return [self._tensor(info) for info in self._source.file.tensors.values() if info.name not in merged]

    def _tensor(self, info: TensorInfo) -> TensorSource:
        if info.name not in self._changed:
            stored = self._types[info.name]
            read = self._copied if stored is info.type else partial(self._restored, stored=stored)
            return TensorSource(info.name, stored, info.shape, partial(read, info))
        check_blocks(self._place(info.name), self._wanted, info.shape)
        return TensorSource(info.name, self._wanted, info.shape, partial(self._converted, info.name))

    def _converted(self, name: str) -> Part:
        matrix = self._matrix(self._source, name)
        if is_float(self._wanted):
            self._scales[name] = float(matrix.scale)
            return values(matrix, self._wanted, self._place(name))
        return packed(matrix, self._wanted, self._place(name))[0]

    def _copied(self, info: TensorInfo) -> Iterator[Part]:
        data = self._source.file.data(info.name)
        for start in range(0, data.size, COPY_BYTES):
            part = data[start : start + COPY_BYTES]
            if is_float(info.type):
                n_weights = part.size * math.prod(info.shape) // data.size
                values = FORMATS[info.type].codec.dequantize(part, (n_weights,), self._place(info.name))
                check_finite(values, self._place(info.name), start * n_weights // part.size)
            yield part.copy()
            self._source.file.forget_pages()

    def _restored(self, info: TensorInfo, stored: TensorType) -> Iterator[Part]:
        """Yield an embedding or head in a smaller type that holds all its values."""
        for block in self._blocks(info):
            yield stored_floats(block, stored, self._place(info.name))[0]

    def _blocks(self, info: TensorInfo) -> Iterator[npt.NDArray[np.float32]]:
        """Yield a float tensor's rows as float32, some at a time."""
        data, row_bytes = self._source.file.data(info.name), info.n_bytes // info.shape[0]
        n_rows = max(1, BLOCK_WEIGHTS // math.prod(info.shape[1:]))
        for first in range(0, info.shape[0], n_rows):
            part = data[first * row_bytes : (first + n_rows) * row_bytes]
            shape = (part.size // row_bytes, *info.shape[1:])
            block = FORMATS[info.type].codec.dequantize(part, shape, self._place(info.name))
            yield check_finite(block, self._place(info.name), first)
            self._source.file.forget_pages()

    # ---- the comparison ----------------------------------------------------------------------------------------------
    def read_back(self, path: Path) -> None:
        """Compare every tensor of the written file with the source; FormatError for the first that differs."""
        written = GGUFSource(path)

        def forget() -> None:
            self._source.file.forget_pages()
            written.file.forget_pages()

        try:
            for name, info in written.file.tensors.items():
                if name in self._changed:
                    self.compared.append(self._compared(written, info))
                elif info.type is not self._source.file.tensors[name].type:
                    self._compare_values(written, info)
                elif not equal_bytes(self._source.file.data(name), written.file.data(name), forget):
                    raise self._differs(name)
        finally:
            written.close()

    def _compare_values(self, written: GGUFSource, info: TensorInfo) -> None:
        """Compare an embedding or head in another type, value by value."""
        old = self._source.file.tensors[info.name]
        codec, data = FORMATS[info.type].codec, written.file.data(info.name)
        start, row_bytes = 0, info.n_bytes // info.shape[0]
        for block in self._blocks(old):
            end = start + len(block) * row_bytes
            if not np.array_equal(codec.dequantize(data[start:end], block.shape, self._place(info.name)), block):
                raise self._differs(info.name)
            start = end
            written.file.forget_pages()

    def _compared(self, written: GGUFSource, info: TensorInfo) -> QuantizedTensor:
        """Compare one converted matrix: codes and scale with those intended, values with the source's."""
        name, old = info.name, self._source.file.tensors[info.name]
        meant, found = self._matrix(self._source, name), self._matrix(written, name)
        codes = found.unpacked()
        codec = ternary_codec(self._wanted)
        scale = meant.scale if codec is None else codec.stored_scale(meant.scale)
        if not np.array_equal(codes, meant.unpacked()) or (codes.any() and found.scale != scale):
            raise self._differs(name)
        error = self._relative_error(old, codes, scale)
        written.file.forget_pages()
        return QuantizedTensor(
            name, old.type.name, info.type.name, old.n_bytes, info.n_bytes, float(scale), error == 0, error
        )

    def _relative_error(self, old: TensorInfo, codes: npt.NDArray[np.int8], scale: np.float32) -> float:
        """Return the RMS of the difference from the source's values, divided by their own RMS."""
        if is_float(old.type):
            data = self._source.file.data(old.name)
            rows = FORMATS[old.type].codec.dequantize(data, old.shape, self._place(old.name))
        else:
            matrix = self._matrix(self._source, old.name)
            rows = matrix.unpacked() * matrix.scale
        squares = differences = 0.0
        for row, row_codes in zip(rows, codes, strict=True):
            squares += float(np.dot(row, row))
            apart = row - row_codes * scale
            differences += float(np.dot(apart, apart))
        self._source.file.forget_pages()
        return math.sqrt(differences / squares) if squares else 0.0

    def _matrix(self, source: GGUFSource, name: str) -> TernaryMatrix:
        role = self._roles[name]
        if role.layer is None:
            raise FormatError(f"{self._place(name)}: a linear layer outside the layers; get the model again")
        return source.linear(role.name, role.layer)

    def _place(self, name: str) -> str:
        return f"{self._source.path}: tensor {name!r}"

    def _differs(self, name: str) -> FormatError:
        return FormatError(f"{self._place(name)}: it does not read back as it was written; check disk and memory")
