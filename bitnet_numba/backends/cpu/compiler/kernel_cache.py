"""The folder of compiled kernels: whose it must be, what its name says, and why there is none.

What lies there is executed. So it is used only where no other user can write to it.
"""

import functools
import hashlib
import os
import platform
import stat
from pathlib import Path
from typing import NamedTuple

import llvmlite
import numba
from numba.core.registry import cpu_target

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.settings import read_settings

cpu.set_target()  # before the folder's name is asked for: it holds the target

_PACKAGE = Path(__file__).parent.parent
# Numba's own key does not see a helper, or a constant, that changed in another module
_COMPILED_SOURCES = (
    "compiler/**/*.py",
    "simd/**/*.py",
    "threads/**/*.py",
    "kernels/**/*.py",
    "forward/**/*.py",
    "packed_sizes.py",
)
CODE_SETTINGS = (
    "BOUNDSCHECK",
    "DEBUG",
    "DEBUGINFO_DEFAULT",
    "DEBUG_JIT",
    "DEBUG_NRT",
    "DEBUG_NRT_STACK_LIMIT",
    "DISABLE_INTEL_SVML",
    "ENABLE_PROFILING",
    "EXTEND_VARIABLE_LIFETIMES",
    "JIT_COVERAGE",
    "LLVM_REFPRUNE_FLAGS",
    "LLVM_REFPRUNE_PASS",
    "LOOP_VECTORIZE",
    "NRT_STATS",
    "OPT",
    "PARFOR_MAX_TUPLE_SIZE",
    "SLP_VECTORIZE",
    "USING_SVML",
)
"""Numba's settings that change machine code; the target CPU is told by the code generator itself."""


class CacheFolder(NamedTuple):
    """Where kernels are loaded from and stored."""

    path: Path | None  # None: there is no folder to trust
    is_writable: bool
    reason: str | None  # why nothing can be stored


def cache_dir() -> Path | None:
    """Return the folder of compiled kernels, or ``None`` where there is none that only this user or root can change."""
    return cache_folder().path


def cache_folder() -> CacheFolder:
    """Find the folder, whose name holds a digest of all that machine code depends on, as the settings are now.

    It and the two above it must belong to this user or to root, and be closed to the writing of others.
    """
    root = read_settings().cache_dir or _user_cache()
    return _folder(root, code_key()) if root else CacheFolder(None, False, "there is no home directory")


def _folder(root: Path, key: str) -> CacheFolder:
    if not compiled_sources():
        return CacheFolder(None, False, "the sources of the kernels are not installed, so no change would be noticed")
    path = root / "kernels" / f"{cpu.isa()}-{key}"
    try:
        _make_private(path)
    except OSError as error:
        return CacheFolder(None, False, f"{error.filename or path}: {error.strerror}")
    for folder in (root, path.parent, path):
        open_to = _open_to(folder.stat())
        if open_to:
            return CacheFolder(None, False, f"{folder} {open_to}")
    if not os.access(path, os.W_OK):
        return CacheFolder(path, False, f"{path}: not writable")
    return CacheFolder(path, True, None)


def _user_cache() -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"  # as XDG has it
        return home / "bitnet-numba"
    except RuntimeError:  # no home directory
        return None


def _make_private(folder: Path) -> None:
    """Make a folder and the missing ones above it for this user alone, whatever the umask is."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


def _open_to(status: os.stat_result) -> str | None:
    """Tell who else could change a folder or a file."""
    if status.st_uid not in (os.getuid(), 0):
        return "belongs to another user: name a folder of your own in BITNET_CACHE_DIR"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others: close it with chmod go-w"
    return None


def is_trusted(status: os.stat_result) -> bool:
    """Return whether nobody but this user and root could have written a file."""
    return _open_to(status) is None


# ---- what machine code depends on ------------------------------------------------------------------------------------
def code_key() -> str:
    """Return a digest of what all machine code depends on: versions, target, settings and the kernels' sources."""
    target = cpu_target.target_context.codegen().magic_tuple()
    settings = [f"{name}={getattr(numba.config, name, None)!r}" for name in CODE_SETTINGS]
    return _digest(cpu.isa(), *map(str, target), *settings)


@functools.cache
def _digest(*parts: str) -> str:
    state = hashlib.sha256()
    for part in (numba.__version__, llvmlite.__version__, platform.python_version_tuple()[:2], *parts):
        state.update(f"{part}\n".encode())
    for source in compiled_sources():
        state.update(source.read_bytes())
    return state.hexdigest()[:16]


@functools.cache
def compiled_sources() -> tuple[Path, ...]:
    """Return the files whose functions or constants become machine code."""
    return tuple(source for pattern in _COMPILED_SOURCES for source in sorted(_PACKAGE.glob(pattern)))
