"""How the kernels of the CPU backend are compiled: its only calls of ``numba.njit``."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types
from numba.core.registry import CPUDispatcher

from bitnet_numba.backends.cpu.compiler.function_cache import FunctionCache
from bitnet_numba.backends.cpu.compiler.separate import SeparateKernel
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.errors import UnsupportedError

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Without Numba's reference counting: kernels allocate nothing, their callers keep every array alive, and counting each
# view that is passed around takes atomic operations that took over half of attention's time.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": False, "_nrt": False, "no_cfunc_wrapper": True}

if numba.config.DISABLE_JIT:
    raise UnsupportedError("NUMBA_DISABLE_JIT: kernels only run as machine code; unset it")
cpu.set_target()


def jit(function: _Function) -> _Function:
    """Compile a function: without the GIL, with IEEE arithmetic in the order written, cached on disk.

    A jitted body checks neither shapes nor indices: those are established where arrays are made.
    """
    return cast(_Function, _dispatcher(function))


def jit_separate(function: _Function) -> _Function:
    """Compile a kernel like :func:`jit`, but never into its jitted callers; it returns nothing."""
    return cast(_Function, SeparateKernel(_dispatcher(function)))


def _dispatcher(function: Callable[..., Any]) -> Any:
    compiled = numba.njit(**_OPTIONS)(function)
    compiled._cache = FunctionCache(function)
    compiled.__class__ = _Dispatcher
    return compiled


class _Dispatcher(CPUDispatcher):
    """Numba's, for which a constant argument is no reason to compile once more."""

    def get_call_template(self, arguments: tuple[Any, ...], named: Any) -> Any:
        return super().get_call_template(tuple(map(types.unliteral, arguments)), named)


def jit_inline(function: _Function) -> _Function:
    """Inline a function into its jitted callers: compiling takes a third less time than with layers of calls."""
    return cast(_Function, numba.njit(**_OPTIONS, inline="always")(function))
