"""Compiled kernels that the package ``bitnet-numba-kernels`` brings along, if it is installed.

What is loaded is executed: a file is used only if its SHA-256 is the one in the package's list.
"""

import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

from bitnet_numba.backends.cpu.compiler.kernel_cache import code_key
from bitnet_numba.backends.cpu.simd import cpu

PACKAGE, LIST = "bitnet_numba_kernels", "kernels.json"


class Shipped(NamedTuple):
    """The kernels that fit this program, this Python and this instruction set."""

    folder: Path | None
    digests: dict[str, str]  # SHA-256 by file name
    reason: str | None  # why an installed package has none

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file whose digest is right."""
        if self.folder is None or name not in self.digests:
            return None
        try:
            content = (self.folder / name).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == self.digests[name] else None


def shipped() -> Shipped:
    """Look for kernels that were compiled from these sources, for this instruction set, by this Numba and Python."""
    return _find(cpu.isa(), code_key())


def forget() -> None:
    """Look for the package again when it is needed next."""
    _find.cache_clear()


@functools.cache
def _find(isa: str, key: str) -> Shipped:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return Shipped(None, {}, None)
    root = Path(found.origin).parent
    try:
        listed: dict[str, Any] = json.loads((root / LIST).read_text("utf-8"))
        version, folders = listed["version"], listed["folders"]
    except (OSError, ValueError, KeyError, TypeError):
        return Shipped(None, {}, f"{PACKAGE}: no list of kernels; install it again")
    name = f"{isa}-{key}"
    if name in folders:
        return Shipped(root / "kernels" / name, folders[name], None)
    if any(folder.startswith(f"{isa}-") for folder in folders):
        return Shipped(None, {}, f"{PACKAGE} {version} is for other versions or settings: {listed.get('made_for')}")
    return Shipped(None, {}, f"{PACKAGE} {version} has none for {isa}")
