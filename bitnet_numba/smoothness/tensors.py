"""The tensors of any directory of safetensors: which are linear weights, which are kept, and why; read row by row."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError, FormatError
from bitnet_numba.formats.json_file import read_json_if_present
from bitnet_numba.formats.packing.huggingface import unpack_hf
from bitnet_numba.formats.safetensors import INDEX_FILE, MAX_NAME_CHARACTERS, SINGLE_FILE, Checkpoint, open_checkpoint
from bitnet_numba.formats.tensor_formats import float_codec
from bitnet_numba.model.config import quantization_config
from bitnet_numba.model.hf_source import scale_divides

CHUNK_WEIGHTS = 1 << 20  # in memory at a time, as float32
PACKED = "U8"
SCALE_SUFFIX = "_scale"
MAX_SUFFIX = 8  # characters that the written names add
_EMBEDDING_PARTS = {"wte", "wpe", "shared"}
_HEAD_PARTS = {"lm_head", "head", "score", "classifier", "embed_out"}
_WHOLE_HEADS = {"output.weight"}
_LAYER = re.compile(r"(?:^|(?<=\.))(\d+)(?=\.)")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear weight that is quantized.

    ``n_bytes`` counts what the source stores, a separate scale included. ``role`` is the name with ``*`` for the
    number of the layer, None for both where the name has no number.
    """

    name: str
    shape: tuple[int, int]
    n_bytes: int
    role: str
    layer: int | None
    is_packed: bool  # four ternary codes a byte with a separate scale

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor that is copied, and why."""

    name: str
    dtype: str
    n_bytes: int
    reason: str


class Model:
    """An open directory of safetensors, its tensors sorted into linear weights and kept ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = _open(path)
        self.linear: dict[str, Linear] = {}
        self.kept: list[Kept] = []
        scales = set()
        for name, entry in self.checkpoint.tensors.items():
            scale = self.checkpoint.tensors.get(f"{name}{SCALE_SUFFIX}")
            is_packed = entry.dtype == PACKED and len(entry.shape) == 2 and scale is not None
            reason = "" if is_packed and not _kept_by_name(name) else _reason(name, entry.dtype, entry.shape)
            if reason:
                self.kept.append(Kept(name, entry.dtype, entry.n_bytes, reason))
                continue
            rows, columns = entry.shape
            n_bytes = entry.n_bytes
            if is_packed and scale is not None:
                rows, n_bytes = 4 * rows, n_bytes + scale.n_bytes
                scales.add(scale.name)
            role, layer = _role(name)
            self.linear[name] = Linear(name, (rows, columns), n_bytes, role, layer, is_packed)
        self.kept = [each for each in self.kept if each.name not in scales]
        self._divides = any(each.is_packed for each in self.linear.values()) and self._scale_divides()

    @property
    def name(self) -> str:
        """The model's name: that of its folder."""
        return self.path.resolve().name

    @property
    def source_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.n_bytes for entry in self.checkpoint.tensors.values())

    @property
    def is_packed(self) -> bool:
        """Whether the linear weights are stored as ternary codes."""
        return bool(self.linear) and all(each.is_packed for each in self.linear.values())

    def chunks(self, tensor: Linear) -> Iterator[tuple[slice, Floats]]:
        """Yield rows of a tensor as float32, some 4 million weights at a time.

        Raises FormatError for packed codes that are not ternary.
        """
        rows, columns = tensor.shape
        step = max(1, CHUNK_WEIGHTS // columns)
        read = self._reader(tensor)
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            yield part, read(part)
            self.checkpoint.forget_pages()

    def _reader(self, tensor: Linear) -> Callable[[slice], Floats]:
        if not tensor.is_packed:
            return lambda rows: self.checkpoint.float32(tensor.name, rows)
        place = f"{self.path}: tensor {tensor.name!r}"
        codes = unpack_hf(self.checkpoint.raw(tensor.name), place)
        scale = np.float32(self.checkpoint.float32(f"{tensor.name}{SCALE_SUFFIX}").reshape(-1)[0])
        if not np.isfinite(scale) or scale <= 0:
            raise FormatError(f"{place}: its scale is {scale}; get the file again")
        factor = np.float32(1) / scale if self._divides else scale
        return lambda rows: codes[rows] * factor

    def _scale_divides(self) -> bool:
        settings = read_json_if_present(self.path / "config.json").values if self.path.is_dir() else {}
        return scale_divides(self.path, quantization_config(settings))

    def close(self) -> None:
        """Close the files."""
        self.checkpoint.close()


def _open(path: Path) -> Checkpoint:
    if not path.exists():
        raise BitNetError(f"Model not found: {path}")
    if path.is_file() or any((path / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        return open_checkpoint(path)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise BitNetError(f"No safetensors files found in {path}")
    return Checkpoint(path, files)


def _reason(name: str, dtype: str, shape: tuple[int, ...]) -> str:
    """Return why a tensor is kept; empty for a linear weight."""
    if len(shape) != 2:
        return f"{len(shape)}-D"
    if not all(shape):
        return "empty"
    if len(name) > MAX_NAME_CHARACTERS - MAX_SUFFIX:
        return "name too long"
    return _kept_by_name(name) or ("" if float_codec(dtype) else f"holds {dtype}")


def _kept_by_name(name: str) -> str:
    parts = set(name.lower().split("."))
    if parts & _EMBEDDING_PARTS or any("embed" in part or "embd" in part for part in parts - _HEAD_PARTS):
        return "embedding"
    if parts & _HEAD_PARTS or name.lower() in _WHOLE_HEADS:
        return "head"
    return "norm" if any("norm" in part or part.startswith("ln_") for part in parts) else ""


def _role(name: str) -> tuple[str, int | None]:
    """Return a name with ``*`` for its first number, and that number."""
    match = _LAYER.search(name)
    if match is None:
        return name, None
    return f"{name[: match.start()]}*{name[match.end() :]}", int(match[1])
