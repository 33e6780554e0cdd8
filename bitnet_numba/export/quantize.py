"""``quantize``: a GGUF file's linear layers as another type, read back and compared before the file appears."""

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
from bitnet_numba.export.floats import check_finite, stored_floats
from bitnet_numba.export.quantization import FILE_TYPES, FLOAT_TYPES, TERNARY_TYPES, TYPES, check_blocks, is_quantized
from bitnet_numba.export.tensors import packed
from bitnet_numba.formats.gguf import GGUFFile, TensorInfo, TypedValue, ValueType
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import Part, Report, TensorSource, plan_gguf, write_plan
from bitnet_numba.formats.packing import dequantize
from bitnet_numba.model.gguf_source import GGUFSource
from bitnet_numba.model.roles import Role
from bitnet_numba.model.source import TernaryMatrix

DEQUANTIZED = "f16"
COPY_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class QuantizeRequest:
    """What to quantize, and as what.

    Attributes
    ----------
    source : Path
        A GGUF file of a BitNet b1.58 model.
    out : Path
        Replaced if it exists; not the source itself.
    type : str
        ``i2_s``, ``tq1_0`` or ``tq2_0``; or ``f16``, which takes ternary weights back to floats.
    include : sequence of str
        Patterns (``*``, ``?``, ``[...]``) of the tensors to take; all linear layers where there is none.
    exclude : sequence of str
        Patterns of the tensors to leave as they are.
    """

    source: Path
    out: Path
    type: str
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.type not in (*TERNARY_TYPES, DEQUANTIZED):
            raise ParameterError(f"type {self.type!r}: expected one of {', '.join((*TERNARY_TYPES, DEQUANTIZED))}")


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """A tensor that was written as another type, and how it compares with what it was.

    Attributes
    ----------
    name : str
    stored_before, stored_after : str
        Types.
    bytes_before, bytes_after : int
    scale : float
        What one unit of its ternary weights stands for.
    exact : bool
        Whether the values read back are those of the source, all of them.
    relative_error : float
        Root mean square of their difference, as a share of that of the source's values.
    """

    name: str
    stored_before: str
    stored_after: str
    bytes_before: int
    bytes_after: int
    scale: float
    exact: bool
    relative_error: float


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What was written.

    Attributes
    ----------
    out : Path
    size_bytes : int
    tensors : tuple of QuantizedTensor
        Those whose type changed, in the order of the file.
    n_copied : int
        The others, byte for byte as they were.
    """

    out: Path
    size_bytes: int
    tensors: tuple[QuantizedTensor, ...]
    n_copied: int

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON takes it."""
        return {**asdict(self), "out": str(self.out), "tensors": [asdict(tensor) for tensor in self.tensors]}


def quantize_gguf(request: QuantizeRequest, report: Report | None = None) -> QuantizeResult:
    """Write a GGUF file whose linear layers have the type asked for; everything else is copied.

    Weights that are ternary already keep their codes and their scale; others are quantized as the engine would do it
    while loading. Before the file appears, every tensor that changed its type is read back from it and held against
    what was to be written.

    Parameters
    ----------
    request : QuantizeRequest
    report : callable with a Progress, optional
        Called after each part that is written.

    Raises
    ------
    FormatError
        If the file contradicts itself, a weight is not finite, or what is read back is not what was written.
    UnsupportedError
        If a matrix cannot have the type.
    ParameterError
        If a pattern matches no linear layer.
    BitNetError
        If a file cannot be read or written; an older one is then as it was.
    """
    source = GGUFSource(request.source)
    try:
        if request.out.exists() and request.out.samefile(request.source):
            raise BitNetError(f"{request.out}: is the source itself; name another file")
        quantizer = _Quantizer(source, TYPES[request.type], _chosen(request, source.names))
        plan = plan_gguf(request.out, quantizer.metadata(), quantizer.tensors())
        write_plan(plan, quantizer.read_back, report)
    finally:
        source.close()
    compared = tuple(quantizer.compared)
    return QuantizeResult(request.out, plan.file_size, compared, len(plan.tensors) - len(compared))


def _chosen(request: QuantizeRequest, names: Mapping[Role, str]) -> set[str]:
    """Return the names of the linear layers to be changed; patterns can only choose among those."""
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
    """The tensors of the new file, and the comparison with those of the old one."""

    def __init__(self, source: GGUFSource, wanted: TensorType, chosen: set[str]) -> None:
        self._source, self._wanted = source, wanted
        self._roles = {name: role for role, name in source.names.items()}
        tensors = source.file.tensors
        # Masters stay masters where ternary weights are taken back to floats.
        taken = TERNARY_TYPES.values() if wanted in FLOAT_TYPES.values() else {info.type for info in tensors.values()}
        self._changed = {name for name in chosen if tensors[name].type in taken and tensors[name].type is not wanted}
        self.compared: list[QuantizedTensor] = []

    def metadata(self) -> dict[str, TypedValue]:
        """Return the keys of the new file: those of the old one, and the type that most of its linear layers have."""
        keys = dict(self._source.file.typed_metadata)
        linear = [info for info in self._source.file.tensors.values() if is_quantized(self._roles[info.name])]
        types = Counter(self._wanted if info.name in self._changed else info.type for info in linear)
        [(most_common, _)] = types.most_common(1)
        return {**keys, "general.file_type": TypedValue(ValueType.UINT32, FILE_TYPES[most_common])}

    def tensors(self) -> list[TensorSource]:
        """Return the tensors of the new file; a scale apart from its matrix goes into it."""
        scales = (self._source.names.get(replace(self._roles[name], part="scale")) for name in self._changed)
        merged = set(scales)
        return [self._tensor(info) for info in self._source.file.tensors.values() if info.name not in merged]

    def _tensor(self, info: TensorInfo) -> TensorSource:
        if info.name not in self._changed:
            return TensorSource(info.name, info.type, info.shape, partial(self._copied, info))
        check_blocks(self._place(info.name), self._wanted, info.shape)
        return TensorSource(info.name, self._wanted, info.shape, partial(self._converted, info.name))

    def _converted(self, name: str) -> Part:
        matrix = self._matrix(self._source, name)
        if self._wanted in TERNARY_TYPES.values():
            return packed(matrix, self._wanted, self._place(name))[0]
        return stored_floats(matrix.unpacked() * matrix.scale, self._wanted, self._place(name))[0]

    def _copied(self, info: TensorInfo) -> Iterator[Part]:
        data = self._source.file.data(info.name)
        for start in range(0, data.size, COPY_BYTES):
            part = data[start : start + COPY_BYTES]
            if info.type in FLOAT_TYPES.values():
                n_weights = part.size * math.prod(info.shape) // data.size
                values = dequantize(info.type, part, (n_weights,), place=self._place(info.name))
                check_finite(values, self._place(info.name), start * n_weights // part.size)
            yield part.copy()
            self._source.file.forget_pages()

    # ---- the comparison ----------------------------------------------------------------------------------------------
    def read_back(self, path: Path) -> None:
        """Hold every tensor of the file that was written against the source.

        Raises
        ------
        FormatError
            With the first that is not what was to be written.
        """
        written = GGUFSource(path)
        try:
            for name, info in written.file.tensors.items():
                if name in self._changed:
                    self.compared.append(self._compared(written, info))
                elif not _are_equal(self._source.file, written.file, name):
                    raise self._differs(name)
        finally:
            written.close()

    def _compared(self, written: GGUFSource, info: TensorInfo) -> QuantizedTensor:
        """Compare one converted matrix: its codes and scale as meant, its values as they were in the source."""
        name, old = info.name, self._source.file.tensors[info.name]
        meant, found = self._matrix(self._source, name), self._matrix(written, name)
        codes = found.unpacked()
        scale = meant.scale if self._wanted is TensorType.I2_S else np.float32(np.float16(meant.scale))
        if not np.array_equal(codes, meant.unpacked()) or (codes.any() and found.scale != scale):
            raise self._differs(name)
        error = self._relative_error(old, codes, scale)
        written.file.forget_pages()
        return QuantizedTensor(
            name, old.type.name, info.type.name, old.n_bytes, info.n_bytes, float(scale), error == 0, error
        )

    def _relative_error(self, old: TensorInfo, codes: npt.NDArray[np.int8], scale: np.float32) -> float:
        """Return how far values are from the source's, as a share of the source's own size."""
        place = self._place(old.name)
        if old.type in FLOAT_TYPES.values():
            values = dequantize(old.type, self._source.file.data(old.name), old.shape, place=place)
        else:
            matrix = self._matrix(self._source, old.name)
            values = matrix.unpacked() * matrix.scale
        squares = differences = 0.0
        for row, row_codes in zip(values, codes, strict=True):
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
        return FormatError(f"{self._place(name)}: what was read back is not what was written; check disk and memory")


def _are_equal(first: GGUFFile, second: GGUFFile, name: str) -> bool:
    """Compare the bytes of a tensor in two files."""
    ours, theirs = first.data(name), second.data(name)
    equal = ours.size == theirs.size
    for start in range(0, ours.size if equal else 0, COPY_BYTES):
        equal = equal and np.array_equal(ours[start : start + COPY_BYTES], theirs[start : start + COPY_BYTES])
        first.forget_pages()
        second.forget_pages()
    return equal
