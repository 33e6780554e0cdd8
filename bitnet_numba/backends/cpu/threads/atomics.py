"""Atomics on int64 arrays for jitted threads, and three ways to wait: pause, yield the core, sleep on a futex.

Numba has none of these on the CPU; they are LLVM's atomic instructions and two Linux system calls.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.operation import I32, I64, Builder, Value, address, array_op, call, vector_op

LINE = 8  # int64s in a cache line; threads write to separate lines

_FUTEX = 202 if cpu.is_x86() else 98  # system call numbers of x86-64 and AArch64
_PRIVATE_WAIT, _PRIVATE_WAKE = 128, 129
_ALL_WAITERS = 2**31 - 1


# ---- atomics ---------------------------------------------------------------------------------------------------------
@array_op
def fetch_add(_: Any, array: types.Array, index: types.Integer) -> Any:
    """Add one to ``array[index]``, sequentially consistent, and return the old value."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[0], args[0], args[1], I64)
        return b.atomic_rmw("add", at, ir.Constant(I64, 1), "seq_cst")

    return types.int64(array, types.intp), lower


@array_op
def load_acquire(_: Any, array: types.Array, index: types.Integer) -> Any:
    """Load ``array[index]`` with acquire ordering."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[0], args[0], args[1], I64)
        return b.load_atomic(at, "acquire", 8)

    return types.int64(array, types.intp), lower


@array_op
def store_release(_: Any, array: types.Array, index: types.Integer, value: types.Integer) -> Any:
    """Store to ``array[index]`` with release ordering."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[0], args[0], args[1], I64)
        b.store_atomic(args[2], at, "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), lower


# ---- waiting, shortest first -----------------------------------------------------------------------------------------
@vector_op(types.void)
def pause(b: Builder) -> Value:
    """Wait for some dozens of cycles."""
    if cpu.is_x86():
        return call(b, "llvm.x86.sse2.pause", ir.VoidType())
    return call(b, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(I32, 1))


@vector_op(types.int32)
def yield_core(b: Builder) -> Value:
    """Let another thread run on this core."""
    return call(b, "sched_yield", I32)


@array_op
def sleep_while(
    _: Any, array: types.Array, index: types.Integer, value: types.Integer, microseconds: types.Integer
) -> Any:
    """Sleep while ``array[index] == value``, until :func:`wake_all` or the timeout; may return early."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        array, index, value, microseconds = args
        at = address(context, b, signature.args[0], array, index, I64)
        timeout = cgutils.alloca_once(b, ir.ArrayType(I64, 2))
        million = ir.Constant(I64, 1_000_000)
        seconds, rest = b.sdiv(microseconds, million), b.srem(microseconds, million)
        b.store(seconds, b.gep(timeout, [ir.Constant(I32, 0), ir.Constant(I32, 0)]))
        b.store(b.mul(rest, ir.Constant(I64, 1000)), b.gep(timeout, [ir.Constant(I32, 0), ir.Constant(I32, 1)]))
        _futex(b, at, _PRIVATE_WAIT, value, b.ptrtoint(timeout, I64))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64, types.int64), lower


@array_op
def wake_all(_: Any, array: types.Array, index: types.Integer) -> Any:
    """Wake every thread that sleeps on ``array[index]``."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = address(context, b, signature.args[0], args[0], args[1], I64)
        _futex(b, at, _PRIVATE_WAKE, ir.Constant(I64, _ALL_WAITERS), ir.Constant(I64, 0))
        return context.get_dummy_value()

    return types.void(array, types.intp), lower


def _futex(b: Builder, at: Value, operation: int, value: Value, timeout: Value) -> None:
    """Call futex(2), which compares the low half of the int64: the first half on a little-endian CPU."""
    low_half = b.and_(value, ir.Constant(I64, 2**32 - 1))
    numbers = ir.Constant(I64, _FUTEX), b.ptrtoint(at, I64), ir.Constant(I64, operation), low_half, timeout
    call(b, "syscall", I64, *numbers)
