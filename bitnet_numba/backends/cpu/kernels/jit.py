"""The only call of ``numba.njit``: how kernels are compiled, where they are kept, and how they are counted."""

import functools
import hashlib
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
import numpy as np
import numpy.typing as npt
from numba.core.caching import FunctionCache, IndexDataCacheFile

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.settings import read_settings

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PACKAGE = Path(__file__).parent.parent
_DIGEST_BYTES = hashlib.sha256().digest_size
# Numba's own key does not see a helper that changed in another module
_COMPILED_ROOMS = ("simd", "threads", "kernels", "forward")

# ---- the registry ----------------------------------------------------------------------------------------------------
_PRODUCTS = cpu.isa() if cpu.packs_five_trits() else cpu.vector_isa()
KERNELS = (
    f"i2s_gemv_{_PRODUCTS}",
    f"i2s_gemm_{_PRODUCTS}",
    f"i2s_gemm_{cpu.isa() if cpu.has_tiles() else cpu.TILES}",
    "quantize_absmax_int8",
    "rmsnorm_forward",
    "rope_forward",
    "attention_kv_cache_update",
    "attention_forward",
    "ffn_relu2_forward",
    "ffn_silu_forward",
    "embedding_lookup",
    "f16_head_gemv",
    "bf16_head_gemv",
    "f32_head_gemv",
    "int8_head_gemv",
    f"int8_head_screen_{cpu.vector_isa()}",
    "head_rescore",
    "softmax_forward",
)
"""Ids of the kernels, by number. A kernel that runs adds one to its slot of the step's ``counts``."""

(
    TERNARY_GEMV,
    TERNARY_GEMM,
    TERNARY_TILES,
    QUANTIZE,
    RMS_NORM,
    ROPE,
    KV_CACHE_UPDATE,
    ATTENTION,
    FFN_RELU2,
    FFN_SILU,
    EMBEDDING,
    HEAD_F16,
    HEAD_BF16,
    HEAD_F32,
    HEAD_INT8,
    HEAD_SCREEN,
    HEAD_RESCORE,
    SOFTMAX,
) = range(len(KERNELS))


def new_counts() -> npt.NDArray[np.int64]:
    """Return a counter of zero for every kernel, int64[n_kernels]."""
    return np.zeros(len(KERNELS), np.int64)


def counted(counts: npt.NDArray[np.int64]) -> dict[str, int]:
    """Return how often each kernel has run, by id, without those that have not."""
    return {kernel: count for kernel, count in zip(KERNELS, counts.tolist(), strict=True) if count}


# ---- the cache -------------------------------------------------------------------------------------------------------
@functools.cache
def cache_dir() -> Path | None:
    """Return the folder of compiled kernels, or ``None`` where no private one can be had.

    Its name holds a digest of everything that the machine code depends on. What lies in it is executed, so it and what
    it lies in must belong to this user and be closed to others; a home that is missing or read-only means that nothing
    is kept.
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
    owned = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return owned and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest() -> str:
    state = hashlib.sha256()
    for part in (numba.__version__, llvmlite.__version__, cpu.isa(), cpu.brand(), *sorted(cpu.features())):
        state.update(f"{part}\n".encode())
    for room in _COMPILED_ROOMS:
        for source in sorted((_PACKAGE / room).rglob("*.py")):
            state.update(source.read_bytes())
    return state.hexdigest()[:16]


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


# ---- compiling -------------------------------------------------------------------------------------------------------
# Without Numba's reference counting: kernels allocate nothing, their callers keep every array alive, and counting each
# view that is passed around takes atomic operations that took over half of attention's time.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": False, "_nrt": False}


def jit(function: _Function) -> _Function:
    """Compile a kernel: without the interpreter's lock, with IEEE arithmetic in the order written, kept on disk.

    Nothing in a jitted body is checked; the public wrapper above it is the border.
    """
    compiled = numba.njit(**_OPTIONS)(function)
    if cache_dir() is not None and not numba.config.DISABLE_JIT:
        others = (
            numba.config.CACHE_DIR
        )  # of the program that imports this package: its own kernels stay where they were
        numba.config.CACHE_DIR = str(cache_dir())
        compiled._cache = _ForgivingCache(function)
        numba.config.CACHE_DIR = others
    return cast(_Function, compiled)


def jit_inline(function: _Function) -> _Function:
    """Compile a function into its callers, as if it stood there: a third less to wait for than with layers of calls."""
    return cast(_Function, numba.njit(**_OPTIONS, inline="always")(function))
