"""Kernels that are compiled by themselves: a jitted caller reaches them through a pointer, and takes no copy of them.

What Numba's functions call is compiled into them once more, at every level. A kernel that does much work a call is
cheaper by itself: it is compiled once, in any process, and its callers are compiled without it.
"""

import ctypes
import functools
import hashlib
import importlib
from typing import Any, NamedTuple

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate
from numba.extending import lower_builtin

from bitnet_numba.backends.cpu.compiler.compiled import compiled
from bitnet_numba.backends.cpu.compiler.workers import Workers

# Numba's own cache keeps no caller of such a global, whose address means something in one process only
_PREFIX = "numba.dynamic.globals.kernel."


class Use(NamedTuple):
    """A kernel and the types that it is called with; what a caller's cache entry names, to link it again."""

    module: str
    name: str
    arguments: tuple[types.Type, ...]

    @property
    def dispatcher(self) -> Any:
        """The kernel's compiler."""
        return getattr(importlib.import_module(self.module), self.name).dispatcher

    @property
    def symbol(self) -> str:
        """Name of the pointer in LLVM's modules."""
        return f"{_PREFIX}{self.name}-{hashlib.sha256(repr((self.module, self.arguments)).encode()).hexdigest()[:24]}"


class SeparateKernel:
    """A jitted function without a result; in Python it is called like any other."""

    def __init__(self, dispatcher: Any) -> None:
        functools.update_wrapper(self, dispatcher.py_func)
        self.dispatcher, self.py_func = dispatcher, dispatcher.py_func
        self._numba_type_ = types.Function(type("SeparateKernelTemplate", (_Template,), {"key": self}))
        lower_builtin(self, types.VarArg(types.Any))(self._lower)

    def __call__(self, *arguments: Any) -> None:
        """Compile the kernel for these types, or load it, and run it."""
        self.dispatcher(*arguments)

    @property
    def stats(self) -> Any:
        """Numba's counts of signatures that were compiled, and loaded."""
        return self.dispatcher.stats

    def _lower(self, context: Any, b: Any, called: Any, values: Any) -> Any:
        """Emit a call through the pointer, and pass on what the kernel raises."""
        use = Use(self.py_func.__module__, self.py_func.__name__, called.args)
        link(use)
        compile_ahead()
        kind = context.call_conv.get_function_type(types.none, called.args).as_pointer()
        pointer = b.module.globals.get(use.symbol) or ir.GlobalVariable(b.module, kind, use.symbol)
        status, _ = context.call_conv.call_function(b, b.load(pointer), types.none, called.args, values)
        with cgutils.if_unlikely(b, status.is_error):
            context.call_conv.return_status_propagate(b, status)
        return context.get_dummy_value()


class _Template(AbstractTemplate):
    def generic(self, args: tuple[types.Type, ...], kws: Any) -> Any:
        return signature(types.none, *map(types.unliteral, args))


# ---- the pointers of this process ------------------------------------------------------------------------------------
_pointers: dict[str, tuple[Use, ctypes.c_void_p]] = {}
_unset: list[Use] = []
workers = Workers()
is_worker = False
"""Whether this process only compiles, for another one that runs the kernels."""


def link(use: Use) -> None:
    """Make the pointer to a kernel, which :func:`complete` sets before anything runs."""
    if use.symbol not in _pointers:
        pointer = ctypes.c_void_p()
        _pointers[use.symbol] = use, pointer
        binding.add_symbol(use.symbol, ctypes.addressof(pointer))
        _unset.append(use)


def uses_of(module: Any) -> list[Use]:
    """Return the kernels that a compiled LLVM module calls."""
    names = [variable.name for variable in module.global_variables if variable.name.startswith(_PREFIX)]
    return [_pointers[name][0] for name in names]


def compile_ahead() -> None:
    """Let other processes compile what pointers lack, while this one compiles something else."""
    if is_worker:
        return
    for use in _unset:
        if not use.dispatcher._cache.holds(use.arguments):
            workers.submit(use)


def complete() -> None:
    """Compile or load the kernels of all pointers that are not set, and what those call."""
    if is_worker:
        return
    while _unset:
        use = workers.take(_unset)
        if use is None:
            workers.wait()
            continue
        _unset.remove(use)
        use.dispatcher.compile(use.arguments)
        result = use.dispatcher.overloads[use.arguments]
        _pointers[use.symbol][1].value = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    compiled.kernels += workers.close()


def compile_only(use: Use) -> list[Use]:
    """Compile a kernel in a process that runs none; return the kernels that it calls and the cache lacks."""
    use.dispatcher.compile(use.arguments)
    called = [other for other in _unset if not other.dispatcher._cache.holds(other.arguments)]
    _unset.clear()
    return called
