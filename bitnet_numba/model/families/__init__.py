"""Architectures that are run here, one file each: a module of this folder that defines ``FAMILY`` is a family."""

from importlib import import_module
from pkgutil import iter_modules

from bitnet_numba.errors import UnsupportedError, excerpt
from bitnet_numba.model.families._names import GGUF_NAMES, HUGGING_FACE_NAMES, TensorNames
from bitnet_numba.model.families._record import Activation, Family, Shape

__all__ = ["FAMILIES", "GGUF_NAMES", "HUGGING_FACE_NAMES", "Activation", "Family", "Shape", "TensorNames", "family_of"]

_MODULES = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__) if found.name[0] != "_"]

FAMILIES: dict[str, Family] = {name: module.FAMILY for module in _MODULES for name in module.FAMILY.architectures}
"""Every family, by each ``general.architecture`` that names it."""


def family_of(architecture: str) -> Family:
    """Return the family of a GGUF architecture, or raise an UnsupportedError."""
    if architecture not in FAMILIES:
        raise UnsupportedError(
            f"architecture {excerpt(architecture)} is not run here; use one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[architecture]
