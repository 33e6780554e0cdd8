"""Reader of everything in a model's files but the weights: header, metadata, and each tensor's type and offset.

Files of unknown architectures and with damaged weights are read too: they are what inspection is for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bitnet_numba.errors import BitNetError, UnsupportedError
from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.gguf_types import TypedValue
from bitnet_numba.formats.safetensors import open_checkpoint
from bitnet_numba.model.config import config_from_hf, quantization_config
from bitnet_numba.model.families import FAMILIES
from bitnet_numba.model.full_precision import full_precision_linears
from bitnet_numba.model.hf_source import read_json, scale_divides
from bitnet_numba.model.roles import LINEAR_ROLES, NORM_ROLES, Role
from bitnet_numba.model.weight_rules import LAYERNORM, PROJECTION

_NORM_ROLES = (*NORM_ROLES, "output_norm")
_NORM_NAME = re.compile(r"(norm|layernorm|_ln)\.weight$")
_MAX_ITEMS = 16  # length of the longest metadata list that is shown; a vocabulary has 128,256 items


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """An entry of a file's tensor table."""

    name: str
    type: str  # the format's name of the storage type: ``I2_S``, ``BF16``, ``U8``, ...
    shape: tuple[int, ...]  # as stored, outermost dimension first
    file: Path
    offset: int  # first byte, from the beginning of the file
    n_bytes: int
    role: Role | None  # None if no family has a tensor of this name
    rule_name: str  # the name that rules are matched with

    @property
    def kind(self) -> str:
        """``layernorm``, ``projection``, ``scale``, or its role, such as ``token_embd``; ``other`` if unknown."""
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
    """A model's files, their headers read and checked."""

    path: Path
    files: tuple[Path, ...]  # those with weights
    architecture: str  # GGUF's name of the family; of a directory of no family, its ``model_type``
    file_type: int | None  # ``general.file_type``, if the file states it
    header: dict[str, Any]  # format, version, sizes
    metadata: dict[str, Any]  # long lists as their length and type
    tensors: dict[str, StoredTensor]
    notes: tuple[str, ...] = ()  # about what is not run here
    packed_scale_divides: bool = False  # see :func:`~bitnet_numba.model.hf_source.scale_divides`

    @cached_property
    def of_role(self) -> Mapping[Role, StoredTensor]:
        """Tensors by role."""
        return {tensor.role: tensor for tensor in self.tensors.values() if tensor.role is not None}


def read_model_files(path: Path) -> ModelFiles:
    """Read the headers of a GGUF file or a Hugging Face directory."""
    return _read_directory(path) if path.is_dir() else _read_gguf(path)


def _read_gguf(path: Path) -> ModelFiles:
    with open_gguf(path) as file:
        architecture = str(file.metadata.get("general.architecture", ""))
        tensors = {}
        for info in file.tensors.values():
            role = _role(info.name, architecture, is_gguf=True)
            tensors[info.name] = StoredTensor(
                info.name, info.type.name, info.shape, path, info.offset, info.n_bytes, role, info.name
            )
        file_type = file.metadata.get("general.file_type")
        header = {"format": f"gguf_v{file.version}", "alignment": file.alignment, "size_bytes": file.size}
        return ModelFiles(
            path,
            (path,),
            architecture=architecture,
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
    family = FAMILIES.get(architecture)
    tensors = {}
    for entry in entries:
        role, rule_name = _role(entry.name, architecture, is_gguf=False), entry.name
        if role is not None and family is not None and family.inspection.by_gguf_name:
            rule_name = family.gguf.name(role)
        tensors[entry.name] = StoredTensor(
            entry.name, entry.dtype, entry.shape, entry.file, entry.offset, entry.n_bytes, role, rule_name
        )
    names = {tensor.role: name for name, tensor in tensors.items() if tensor.role is not None}
    full_precision = full_precision_linears(names, checkpoint.tensors, quantization_config(settings))
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
        notes=tuple(f"tensor {name!r} is not run: in full precision, {reason}" for name, reason in full_precision),
        packed_scale_divides=scale_divides(path, quantization_config(settings)),
    )


def _role(name: str, architecture: str, *, is_gguf: bool) -> Role | None:
    """Return the role of a tensor in the architecture's family, or else in the first family that has the name.

    A GGUF file is searched for Hugging Face names as well, which some converters keep.
    """
    own = [FAMILIES[architecture]] if architecture in FAMILIES else []
    for family in (*own, *FAMILIES.values()):
        role = (family.gguf.role(name) if is_gguf else None) or family.hugging_face.role(name)
        if role is not None:
            return role
    return None


def _hf_architecture(settings: Mapping[str, Any], path: Path) -> str:
    try:
        return config_from_hf(settings, path.name).architecture
    except UnsupportedError:  # can be inspected nevertheless
        return str(settings.get("model_type", ""))
    except BitNetError as error:
        raise type(error)(f"{path}: config.json: {error}") from None


def _shown(typed: TypedValue) -> Any:
    value = typed.value
    if isinstance(value, list) and len(value) > _MAX_ITEMS:
        return {"type": typed.type.name, "length": len(value)}
    return value
