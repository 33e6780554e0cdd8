"""Compiled kernels on disk, so that only the first start on a machine compiles: Numba's cache with rules of its own.

What lies there is executed. So the folder must be private, entries carry a digest, and a damaged one is compiled anew.
"""

import functools
import hashlib
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.settings import read_settings

_PACKAGE = Path(__file__).parent.parent
_DIGEST_BYTES = hashlib.sha256().digest_size
# Numba's own key does not see a helper, or a constant, that changed in another module
_COMPILED_SOURCES = (
    "compiler/**/*.py",
    "simd/**/*.py",
    "threads/**/*.py",
    "kernels/**/*.py",
    "forward/**/*.py",
    "packed_sizes.py",
)


@functools.cache
def cache_dir() -> Path | None:
    """Return the folder of compiled kernels, or ``None`` where no private one can be had: then nothing is stored.

    Its name holds a digest of everything that the machine code depends on. The folder and the two above it must belong
    to this user and be closed to others.
    """
    root = read_settings().cache_dir or _user_cache()
    if root is None:
        return None
    folder = root / "kernels" / f"{cpu.isa()}-{_digest()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not all(map(_is_private, (root, folder.parent, folder))) or not os.access(folder, os.W_OK):
            return None
    except OSError:
        return None
    return folder


def is_warm() -> bool:
    """Tell whether compiled kernels of this version and machine lie ready."""
    folder = cache_dir()
    return folder is not None and any(folder.rglob("step.forward-*.nbc"))


def _user_cache() -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"  # as XDG has it
        return home / "bitnet-numba"
    except RuntimeError:  # no home directory
        return None


def _is_private(folder: Path) -> bool:
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest() -> str:
    state = hashlib.sha256()
    for part in (numba.__version__, llvmlite.__version__, cpu.isa(), cpu.brand(), *sorted(cpu.features())):
        state.update(f"{part}\n".encode())
    for source in compiled_sources():
        state.update(source.read_bytes())
    return state.hexdigest()[:16]


def compiled_sources() -> list[Path]:
    """Return the files whose functions or constants become machine code."""
    return [source for pattern in _COMPILED_SOURCES for source in sorted(_PACKAGE.glob(pattern))]


class _CheckedFile(IndexDataCacheFile):
    """Numba's cache files, with a digest before the machine code: a changed byte in it could do anything."""

    def _save_data(self, name: str, data: Any) -> None:
        code = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(code).digest() + code)

    def _load_data(self, name: str) -> Any:
        stored = Path(self._data_path(name)).read_bytes()
        digest, code = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if hashlib.sha256(code).digest() != digest:
            raise ValueError(f"{name}: damaged")
        return pickle.loads(code)


class _ForgivingCache(FunctionCache):
    """Numba's cache, for which a damaged entry is one that is not there."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _CheckedFile(
            self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp()
        )

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(signature, target_context)
        except Exception:  # anything can come out of a damaged pickle
            self.flush()
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            super().save_overload(signature, data)
        except OSError:  # a full disk costs the next start its speed, not this one its answer
            self.disable()


def use_kernel_cache(compiled: Any, function: Callable[..., Any]) -> None:
    """Let a jitted function load its machine code from the kernel cache, and store it there."""
    if cache_dir() is None or numba.config.DISABLE_JIT:
        return
    callers = numba.config.CACHE_DIR  # of the program that imports this package: its own kernels stay where they were
    numba.config.CACHE_DIR = str(cache_dir())
    compiled._cache = _ForgivingCache(function)
    numba.config.CACHE_DIR = callers
