"""How the kernels of offline work are compiled: parallel over rows, with the kernel cache of the CPU backend."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from bitnet_numba.backends.cpu.compiler.function_cache import FunctionCache
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.machine_limits import usable_cores
from bitnet_numba.settings import read_settings

_Function = TypeVar("_Function", bound=Callable[..., Any])

prange = numba.prange

cpu.set_target()


def jit_rows(function: _Function) -> _Function:
    """Compile a kernel whose ``prange`` over rows uses all cores: IEEE arithmetic in the order written."""
    compiled = numba.njit(parallel=True, nogil=True, error_model="numpy", fastmath=False)(function)
    compiled._cache = FunctionCache(function)
    return cast(_Function, compiled)


def jit_inline(function: _Function) -> _Function:
    """Compile a function that kernels of the same module call."""
    return cast(_Function, numba.njit(nogil=True, error_model="numpy", fastmath=False)(function))


def use_threads(threads: int | None = None) -> None:
    """Set how many threads kernels use: the given number, BITNET_NUM_THREADS, or one per core that may be used."""
    wanted = threads or read_settings().threads or usable_cores().cores
    numba.set_num_threads(max(1, min(wanted, numba.config.NUMBA_NUM_THREADS)))
