"""Packed output: b bits a weight in safetensors files, with scales, zero points and a description; and its reader."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from bitnet_numba.errors import BitNetError, FormatError, ResourceError
from bitnet_numba.formats.json_file import JsonObject, read_json
from bitnet_numba.formats.safetensors import INDEX_FILE, Checkpoint, open_checkpoint
from bitnet_numba.smoothness import kernels
from bitnet_numba.smoothness.quantizer import Codes, Cuts, Floats, Method, Parameters, cut

DESCRIPTION = "quantization.json"
FORMAT = "bitnet-numba packed codes"
SHARD_BYTES = 32 << 20
COPIED = ("*.json", "*.model", "*.txt", "*.jinja")
CODES, SCALES, ZEROS = ".codes", ".scales", ".zeros"
_NAMES = {"U8": "uint8", "I8": "int8", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "BOOL": "bool"}
_NAMES |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F64": "float64"}
_NAMES |= {f"{kind}{bits}": f"{name}{bits}" for kind, name in (("I", "int"), ("U", "uint")) for bits in (16, 32, 64)}

Stored = tuple[str, tuple[int, ...], npt.NDArray[Any]]  # the safetensors name of the dtype, shape, bytes


class ShardWriter:
    """Writes tensors into a folder as shards of some 32 MB and their index; a tensor at a time is in memory.

    ``n_bytes`` counts the bytes of the tensors written.
    """

    def __init__(self, folder: Path, prefix: str = "packed") -> None:
        self.folder, self.n_bytes, self._prefix = folder, 0, prefix
        self._pending: dict[str, Stored] = {}
        self._shard_of: dict[str, str] = {}
        self._n_shards = 0

    def add(self, name: str, dtype: str, shape: tuple[int, ...], data: npt.NDArray[Any]) -> None:
        """Add a tensor; ``data`` is its contiguous bytes, which are written when a shard is full."""
        if name in self._pending or name in self._shard_of:
            raise FormatError(f"{self.folder}: two tensors would be called {name!r}; rename one of the source's")
        self._pending[name] = dtype, shape, data
        self.n_bytes += data.nbytes
        if sum(stored[2].nbytes for stored in self._pending.values()) >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one shard."""
        if not self._pending:
            return
        self._n_shards += 1
        shard = f"{self._prefix}-{self._n_shards:05}.safetensors"
        specs = {
            name: safetensors.TensorSpec(
                dtype=_NAMES[dtype], shape=list(shape), data_ptr=data.ctypes.data, data_len=data.nbytes
            )
            for name, (dtype, shape, data) in self._pending.items()
        }
        try:
            safetensors.serialize_file(specs, str(self.folder / shard), {"format": "pt"})
        except (OSError, safetensors.SafetensorError) as error:
            raise ResourceError(
                f"{self.folder}: cannot be written ({error}); free space or name another disk"
            ) from error
        self._shard_of |= dict.fromkeys(self._pending, shard)
        self._pending.clear()

    def finish(self) -> None:
        """Write the last shard and the index."""
        self.flush()
        index = {"metadata": {"total_size": self.n_bytes}, "weight_map": self._shard_of}
        (self.folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


class PackedWriter(ShardWriter):
    """Writes quantized weights and kept tensors, and the description of both."""

    def __init__(self, folder: Path, method: Method) -> None:
        super().__init__(folder)
        self._method = method
        self._described: dict[str, dict[str, Any]] = {}
        self.quantized_bytes = 0

    def add_linear(self, name: str, packed: Codes, parameters: Parameters) -> None:
        """Add a quantized weight: its packed codes, scales and zero points."""
        before, method, cuts = self.n_bytes, self._method, parameters.cuts
        scale, zero = (stored_cells(parameters, values) for values in (parameters.scale, parameters.zero))
        scales = np.ascontiguousarray(scale.astype(parameters.scale_dtype))
        self.add(f"{name}{CODES}", "U8", packed.shape, packed)
        self.add(f"{name}{SCALES}", "F16" if scales.dtype == np.float16 else "F32", scales.shape, scales)
        if not method.is_ternary:
            zeros = pack_codes(np.atleast_2d(zero).astype(np.uint8), method.bits)
            self.add(f"{name}{ZEROS}", "U8", zeros.shape, zeros)
        self._described[name] = {
            "shape": list(cuts.shape),
            "groups": cuts.n_groups,
            "by_columns": cuts.by_columns,
            "group_size": None if parameters.is_shared else method.group_size,
        }
        self.quantized_bytes += self.n_bytes - before

    def finish(self) -> None:
        """Write the last shard, the index and the description."""
        super().finish()
        about = {"format": FORMAT, "version": 1, "bits": self._method.bits, "levels": self._method.top + 1}
        about |= {"ternary": self._method.is_ternary, "tensors": self._described}
        (self.folder / DESCRIPTION).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def stored_cells(parameters: Parameters, values: Floats) -> Floats:
    """Return the values that are stored: one a group, or one a cell."""
    if not parameters.is_shared:
        return values
    cuts = parameters.cuts
    return np.array([values[cuts.members(group)][0, 0] for group in range(cuts.n_groups)], np.float32)


def pack_codes(codes: Codes, bits: int) -> Codes:
    """Pack codes, uint8[rows, columns], 8 // bits to a byte, as uint8[rows, ceil(columns * bits / 8)]."""
    packed = np.empty((codes.shape[0], -(-codes.shape[1] * bits // 8)), np.uint8)
    kernels.pack(codes, bits, packed)
    return packed


def unpack_codes(packed: Codes, bits: int, columns: int) -> Codes:
    """Undo :func:`pack_codes`."""
    codes = np.empty((packed.shape[0], columns), np.uint8)
    kernels.unpack(np.ascontiguousarray(packed), bits, codes)
    return codes


# ---- the folder ------------------------------------------------------------------------------------------------------
def check_output(out: Path, source: Path) -> None:
    """Refuse an output folder that is the source, or holds safetensors files that this command did not write."""
    if out.exists() and not out.is_dir():
        raise BitNetError(f"{out}: is not a folder; name another one")
    if out.exists() and source.exists() and out.samefile(source):
        raise BitNetError(f"{out}: is the model itself; name another folder")
    foreign = [file.name for file in out.glob("*.safetensors") if not file.name.startswith("packed-")]
    if foreign or (not (out / DESCRIPTION).exists() and (out / INDEX_FILE).exists()):
        first = foreign[0] if foreign else INDEX_FILE
        raise BitNetError(f"{out}: holds {first}, which this command did not write; name another folder")


def new_stage(out: Path) -> Path:
    """Make a folder beside ``out``, to become it when it is complete."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as error:
        raise BitNetError(f"{out}: cannot be written ({error.strerror}); choose another place") from error


def commit(stage: Path, out: Path, source: Path) -> None:
    """Copy configuration and tokenizer from the source, then replace what an earlier run left in ``out``."""
    for pattern in COPIED if source.is_dir() else ():
        for file in source.glob(pattern):
            if file.name not in (INDEX_FILE, DESCRIPTION) and file.is_file():
                shutil.copyfile(file, stage / file.name)
    stage.chmod(0o755)
    if not out.exists():
        stage.rename(out)
        return
    for old in out.glob("packed-*.safetensors"):
        old.unlink()
    for file in sorted(stage.iterdir()):
        file.replace(out / file.name)
    stage.rmdir()


class PackedModel:
    """Reads what :class:`PackedWriter` wrote; ``names`` are the quantized weights."""

    def __init__(self, path: Path) -> None:
        about = read_json(path / DESCRIPTION, if_missing="it comes with packed codes")
        if about.text("format") != FORMAT or about.natural("version") != 1:
            raise FormatError(f"{path / DESCRIPTION}: not {FORMAT} of version 1; quantize the model again")
        self.path = path
        self.bits, self.is_ternary = about.natural("bits"), about.flag("ternary", False)
        if self.bits not in (2, 4, 8):
            raise FormatError(
                f"{path / DESCRIPTION}: bits is {self.bits}, expected 2, 4 or 8; quantize the model again"
            )
        self._tensors = about.inner("tensors")
        self.names = list(self._tensors.values)
        self.checkpoint: Checkpoint = open_checkpoint(path)

    def dequantize(self, name: str) -> Floats:
        """Return a quantized weight as float32[rows, columns].

        Raises FormatError if description and tensors disagree.
        """
        cuts, group_size = self._cuts(self._tensors.inner(name))
        packed, scales = self._read(f"{name}{CODES}", np.uint8), self._read(f"{name}{SCALES}", np.float32)
        rows, columns = cuts.shape
        cells = (cuts.n_groups,) if group_size is None else (rows, cuts.n_runs)
        if packed.shape != (rows, -(-columns * self.bits // 8)) or scales.shape != cells:
            raise self._disagrees(name)
        zeros = np.ones(cells, np.float32)
        if not self.is_ternary:
            stored = self._read(f"{name}{ZEROS}", np.uint8)
            width = cells[-1]
            if stored.shape != (1 if len(cells) == 1 else rows, -(-width * self.bits // 8)):
                raise self._disagrees(name)
            zeros = unpack_codes(stored, self.bits, width).reshape(cells).astype(np.float32)
        if group_size is None:
            scales, zeros = (cuts.per_cell(values.astype(np.float64)).astype(np.float32) for values in (scales, zeros))
        out = np.empty(cuts.shape, np.float32)
        codes = unpack_codes(packed, self.bits, columns)
        kernels.dequantize(codes, np.ascontiguousarray(scales), np.ascontiguousarray(zeros), cuts.edges, out)
        return out

    def _cuts(self, about: JsonObject) -> tuple[Cuts, int | None]:
        shape = about.naturals("shape")
        if len(shape) != 2 or not all(shape):
            raise about.error("shape", shape, "two sizes of at least 1")
        group_size = about.natural("group_size") if about.values.get("group_size") is not None else None
        groups = about.natural("groups")
        if not groups or group_size == 0:
            raise about.error("groups", groups, "at least 1")
        return cut((shape[0], shape[1]), groups, group_size, by_columns=about.flag("by_columns", False)), group_size

    def _read(self, name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
        if dtype is np.float32:
            return self.checkpoint.float32(name)
        raw = self.checkpoint.raw(name)
        if raw.dtype != dtype or raw.ndim != 2:
            raise self._disagrees(name)
        return raw

    def _disagrees(self, name: str) -> FormatError:
        return FormatError(f"{self.path}: tensor {name!r} does not fit {DESCRIPTION}; quantize the model again")

    def close(self) -> None:
        """Close the files."""
        self.checkpoint.close()
