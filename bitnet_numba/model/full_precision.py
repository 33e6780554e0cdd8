"""Which linear layers a checkpoint keeps in full precision, though the rest is quantized: they are not run here."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from bitnet_numba.errors import FormatError, UnsupportedError, excerpt
from bitnet_numba.model.roles import LINEAR_ROLES, Role

_PACKED = "U8"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.\-]+")


class _Entry(Protocol):
    @property
    def dtype(self) -> str: ...


def full_precision_linears(
    names: Mapping[Role, str], tensors: Mapping[str, _Entry], quantization: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the name of each linear layer's tensor that is in full precision, and how the checkpoint says so.

    ``modules_to_not_convert`` leaves a layer alone if one of its names is a part of the layer's. In a checkpoint with
    packed matrices, one in floats is in full precision too.
    """
    linears = {role: name for role, name in names.items() if role.part == "weight" and role.name in LINEAR_ROLES}
    kept = _modules(quantization)
    has_packed = any(tensors[name].dtype == _PACKED for name in linears.values())
    for name in linears.values():
        module = name.removesuffix(".weight")
        if any(key in module for key in kept):
            yield name, "modules_to_not_convert names it"
        elif has_packed and tensors[name].dtype != _PACKED:
            yield name, "other layers are packed, and it is not"


def refuse_full_precision(
    path: Path, names: Mapping[Role, str], tensors: Mapping[str, _Entry], quantization: Mapping[str, Any]
) -> None:
    """Raise an UnsupportedError for the first linear layer in full precision."""
    for name, reason in full_precision_linears(names, tensors, quantization):
        raise UnsupportedError(
            f"{path}: tensor {name!r}: a linear layer in full precision ({reason}); only ternary ones are run here: "
            "use a checkpoint in which all are"
        )


def _modules(quantization: Mapping[str, Any]) -> list[str]:
    kept = quantization.get("modules_to_not_convert") or []
    if not isinstance(kept, list) or not all(isinstance(key, str) and key for key in kept):
        raise FormatError(
            f"config.json: quantization_config: modules_to_not_convert is {excerpt(kept)}, expected a list of names"
        )
    patterns = [key for key in kept if not _PLAIN_NAME.fullmatch(key)]
    if patterns:
        raise UnsupportedError(
            f"config.json: quantization_config: modules_to_not_convert has the pattern {excerpt(patterns[0])}; "
            "only plain names of modules are read here"
        )
    return kept
