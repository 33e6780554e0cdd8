"""How jitted threads wait for each other: atomics, and the three ways to wait, shortest first.

What only some systems have stands here: a futex is Linux's; elsewhere a long wait is a row of short naps.
"""

import platform
import sys
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.operation import I32, I64, Builder, Value, address, array_op, call, vector_op

LINE = 8  # int64s in a cache line: no two threads write the same one without meaning to

_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine()) if sys.platform == "linux" else None
_PRIVATE_WAIT, _PRIVATE_WAKE = 128, 129
_EVERYBODY = 2**31 - 1
_NAP_MICROSECONDS = 50


# ---- atomics ---------------------------------------------------------------------------------------------------------
@array_op
def fetch_add(_: Any, array: types.Array, index: types.Integer) -> Any:
    """Add one to ``array[index]`` and return what it was."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[0], args[0], args[1], I64)
        return b.atomic_rmw("add", at, ir.Constant(I64, 1), "seq_cst")

    return types.int64(array, types.intp), lower


@array_op
def load_acquire(_: Any, array: types.Array, index: types.Integer) -> Any:
    """Return ``array[index]``, and see all that was written before it."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[0], args[0], args[1], I64)
        return b.load_atomic(at, "acquire", 8)

    return types.int64(array, types.intp), lower


@array_op
def store_release(_: Any, array: types.Array, index: types.Integer, value: types.Integer) -> Any:
    """Write ``array[index]`` for whoever loads it to see all that was written before."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[0], args[0], args[1], I64)
        b.store_atomic(args[2], at, "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), lower


# ---- a moment --------------------------------------------------------------------------------------------------------
@vector_op(types.void)
def pause(b: Builder) -> Value:
    """Wait for some dozens of cycles."""
    if cpu.is_x86():
        return call(b, "llvm.x86.sse2.pause", ir.VoidType())
    return call(b, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(I32, 1))


@vector_op(types.int32)
def yield_core(b: Builder) -> Value:
    """Let another thread have this core."""
    return call(b, "SwitchToThread" if sys.platform == "win32" else "sched_yield", I32)


# ---- longer ----------------------------------------------------------------------------------------------------------
@array_op
def sleep_while(
    _: Any, array: types.Array, index: types.Integer, value: types.Integer, microseconds: types.Integer
) -> Any:
    """Sleep while ``array[index]`` is ``value``: until woken, but no longer than so many microseconds, or for less."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        array, index, value, microseconds = args
        if _FUTEX is None:
            _nap(b)
            return context.get_dummy_value()
        at = address(context, b, signature.args[0], array, index, I64)
        timeout = cgutils.alloca_once(b, ir.ArrayType(I64, 2))
        million = ir.Constant(I64, 1_000_000)
        seconds, rest = b.sdiv(microseconds, million), b.srem(microseconds, million)
        b.store(seconds, b.gep(timeout, [ir.Constant(I32, 0), ir.Constant(I32, 0)]))
        b.store(b.mul(rest, ir.Constant(I64, 1000)), b.gep(timeout, [ir.Constant(I32, 0), ir.Constant(I32, 1)]))
        _futex(b, at, _PRIVATE_WAIT, value, timeout)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64, types.int64), lower


@array_op
def wake_all(_: Any, array: types.Array, index: types.Integer) -> Any:
    """Wake every thread that sleeps at ``array[index]``."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        if _FUTEX is not None:
            at = address(context, b, signature.args[0], args[0], args[1], I64)
            _futex(b, at, _PRIVATE_WAKE, ir.Constant(I64, _EVERYBODY), ir.Constant(I64, 0))
        return context.get_dummy_value()

    return types.void(array, types.intp), lower


def _futex(b: Builder, at: Value, operation: int, value: Value, timeout: Value) -> None:
    """Call the kernel; it compares the low half of an int64, which comes first on every machine that Numba knows."""
    if isinstance(timeout.type, ir.PointerType):
        timeout = b.ptrtoint(timeout, I64)
    call(
        b,
        "syscall",
        I64,
        ir.Constant(I64, _FUTEX),
        b.ptrtoint(at, I64),
        ir.Constant(I64, operation),
        b.and_(value, ir.Constant(I64, 2**32 - 1)),
        timeout,
    )


def _nap(b: Builder) -> None:
    if sys.platform == "win32":
        call(b, "Sleep", ir.VoidType(), ir.Constant(I32, 1))
    else:
        call(b, "usleep", I32, ir.Constant(I32, _NAP_MICROSECONDS))
