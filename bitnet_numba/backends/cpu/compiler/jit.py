"""The only calls of ``numba.njit``: how kernels are compiled."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from bitnet_numba.backends.cpu.compiler import compilation
from bitnet_numba.backends.cpu.compiler.function_cache import FunctionCache
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.errors import UnsupportedError

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Without Numba's reference counting: kernels allocate nothing, their callers keep every array alive, and counting each
# view that is passed around takes atomic operations that took over half of attention's time.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": False, "_nrt": False}

if numba.config.DISABLE_JIT:
    raise UnsupportedError("NUMBA_DISABLE_JIT: kernels only run as machine code; unset it")
compilation.watch()
cpu.isa()  # the compilation target is chosen before Numba makes its first function


def jit(function: _Function) -> _Function:
    """Compile a kernel: without the GIL, with IEEE arithmetic in the order written, cached on disk.

    A jitted body checks neither shapes nor indices: those are established where arrays are made.
    """
    compiled = numba.njit(**_OPTIONS)(function)
    compiled._cache = FunctionCache(function)
    return cast(_Function, compiled)


def jit_inline(function: _Function) -> _Function:
    """Inline a function into its jitted callers: compiling takes a third less time than with layers of calls."""
    return cast(_Function, numba.njit(**_OPTIONS, inline="always")(function))
