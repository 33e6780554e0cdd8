"""The only calls of ``numba.njit``: how kernels are compiled."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

from bitnet_numba.backends.cpu.compiler.kernel_cache import use_kernel_cache

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Without Numba's reference counting: kernels allocate nothing, their callers keep every array alive, and counting each
# view that is passed around takes atomic operations that took over half of attention's time.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": False, "_nrt": False}


def jit(function: _Function) -> _Function:
    """Compile a kernel: without the GIL, with IEEE arithmetic in the order written, cached on disk.

    A jitted body checks neither shapes nor indices: those are established where arrays are made.
    """
    compiled = numba.njit(**_OPTIONS)(function)
    use_kernel_cache(compiled, function)
    return cast(_Function, compiled)


def jit_inline(function: _Function) -> _Function:
    """Inline a function into its jitted callers: compiling takes a third less time than with layers of calls."""
    return cast(_Function, numba.njit(**_OPTIONS, inline="always")(function))
