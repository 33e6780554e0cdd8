"""What the files of a model hold: header, metadata and every tensor's place; no weight is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitnet_numba.errors import BitNetError, UnsupportedError
from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.gguf_types import TypedValue
from bitnet_numba.formats.safetensors import open_checkpoint
from bitnet_numba.model.config import config_from_hf, quantization_config
from bitnet_numba.model.hf_source import read_json, scale_divides
from bitnet_numba.model.roles import LINEAR_ROLES, NORM_ROLES, Role, gguf_name, gguf_role, hf_role

LAYERNORM, PROJECTION = "layernorm", "projection"
MICROSOFT = "bitnet-b1.58"

_NORM_ROLES = (*NORM_ROLES, "output_norm")
_NORM_NAME = re.compile(r"(norm|layernorm|_ln)\.weight$")
_MAX_ITEMS = 16  # of a metadata list that are shown; a vocabulary has 128,256


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor, and where its bytes lie.

    Attributes
    ----------
    name : str
        As the file has it.
    type : str
        How it is stored, as the format names it: ``I2_S``, ``BF16``, ``U8``, ...
    shape : tuple of int
        As stored, outermost dimension first.
    file : Path
    offset : int
        Of its first byte, from the beginning of the file.
    n_bytes : int
    role : Role or None
        What it is in the model, where a known family has such a name.
    rule_name : str
        By which name rulesets know it.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    n_bytes: int
    role: Role | None
    rule_name: str

    @property
    def kind(self) -> str:
        """``layernorm``, ``projection``, or its role, such as ``token_embd``; ``other`` where that is not known."""
        if self.role is None:
            return LAYERNORM if _NORM_NAME.search(self.name) else "other"
        if self.role.part == "scale":
            return "scale"
        if self.role.name in _NORM_ROLES:
            return LAYERNORM
        return PROJECTION if self.role.name in LINEAR_ROLES else self.role.name

    @property
    def place(self) -> str:
        """File and tensor, as messages name them."""
        return f"{self.file}: tensor '{self.name}'"


@dataclass(frozen=True)
class ModelFiles:
    """A model's files, their headers read and checked.

    Attributes
    ----------
    path : Path
        What the user named.
    files : tuple of Path
        Those that hold weights.
    architecture : str
        As ``general.architecture`` or ``config.json`` has it.
    file_type : int or None
        ``general.file_type``, where the file says one.
    header : dict of str to Any
        Format, version, sizes.
    metadata : dict of str to Any
        Long lists as their length and type.
    tensors : dict of str to StoredTensor
    packed_scale_divides : bool
        What the separate scale of a packed Hugging Face matrix means.
    """

    path: Path
    files: tuple[Path, ...]
    architecture: str
    file_type: int | None
    header: dict[str, Any]
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]
    packed_scale_divides: bool = False
    of_role: Mapping[Role, StoredTensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_role = {tensor.role: tensor for tensor in self.tensors.values() if tensor.role is not None}
        object.__setattr__(self, "of_role", by_role)


def read_model_files(path: Path) -> ModelFiles:
    """Read the headers of a GGUF file or a Hugging Face directory.

    Raises
    ------
    BitNetError
        If a file is missing, cannot be read, or contradicts its format.
    """
    return _read_directory(path) if path.is_dir() else _read_gguf(path)


def _read_gguf(path: Path) -> ModelFiles:
    with open_gguf(path) as file:
        tensors = {
            info.name: StoredTensor(
                info.name, info.type.name, info.shape, path, info.offset, info.n_bytes, _any_role(info.name), info.name
            )
            for info in file.tensors.values()
        }
        file_type = file.metadata.get("general.file_type")
        header = {"format": f"gguf_v{file.version}", "alignment": file.alignment, "size_bytes": file.size}
        return ModelFiles(
            path,
            (path,),
            architecture=str(file.metadata.get("general.architecture", "")),
            file_type=file_type if isinstance(file_type, int) else None,
            header=header | {"tensors": len(tensors), "metadata_keys": len(file.metadata)},
            metadata={key: _shown(value) for key, value in file.typed_metadata.items()},
            tensors=tensors,
        )


def _read_directory(path: Path) -> ModelFiles:
    settings = read_json(path / "config.json")
    architecture = _hf_architecture(settings, path)
    with open_checkpoint(path) as checkpoint:
        entries = list(checkpoint.tensors.values())
    tensors = {}
    for entry in entries:
        role = hf_role(entry.name)
        # the same norms as in this family's GGUF files, and so the same bounds
        rule_name = gguf_name(role) if role is not None and architecture == MICROSOFT else entry.name
        tensors[entry.name] = StoredTensor(
            entry.name, entry.dtype, entry.shape, entry.file, entry.offset, entry.n_bytes, role, rule_name
        )
    files = tuple(sorted({entry.file for entry in entries}))
    size = sum(file.stat().st_size for file in files)
    return ModelFiles(
        path,
        files,
        architecture=architecture,
        file_type=None,
        header={"format": "safetensors", "files": len(files), "size_bytes": size, "tensors": len(tensors)},
        metadata=settings,
        tensors=tensors,
        packed_scale_divides=scale_divides(path, quantization_config(settings)),
    )


def _any_role(name: str) -> Role | None:
    """Return a role by a GGUF name, or by a Hugging Face name, which some converters keep."""
    return gguf_role(name) or hf_role(name)


def _hf_architecture(settings: Mapping[str, Any], path: Path) -> str:
    try:
        return config_from_hf(settings, path.name).architecture
    except UnsupportedError:  # not run here, and still worth a look
        return str(settings.get("model_type", ""))
    except BitNetError as error:
        raise type(error)(f"{path}: config.json: {error}") from None


def _shown(typed: TypedValue) -> Any:
    value = typed.value
    if isinstance(value, list) and len(value) > _MAX_ITEMS:
        return {"type": typed.type.name, "length": len(value)}
    return value
