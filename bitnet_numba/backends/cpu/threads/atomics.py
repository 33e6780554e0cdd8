"""Atomics on int64 arrays for jitted threads, and three ways to wait: pause, yield the core, sleep on a futex.

Numba has none of these on the CPU; they are LLVM's atomic instructions and two Linux system calls.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.cpu.simd.operation import (
    I32,
    I64,
    Access,
    Builder,
    Value,
    address,
    array_op,
    call,
    load_op,
    store_op,
    vector_op,
)

LINE = 8  # int64s in a cache line; threads write to separate lines

_FUTEX = 202 if cpu.is_x86() else 98  # system call numbers of x86-64 and AArch64
_PRIVATE_WAIT, _PRIVATE_WAKE = 128, 129
_ALL_WAITERS = 2**31 - 1


# ---- atomics ---------------------------------------------------------------------------------------------------------
@load_op
def fetch_add(array: types.Array) -> Access:
    """Add one to ``array[index]``, sequentially consistent, and return the old value."""
    return types.int64, I64, lambda b, at: b.atomic_rmw("add", at, ir.Constant(I64, 1), "seq_cst")


@load_op
def load_acquire(array: types.Array) -> Access:
    """Load ``array[index]`` with acquire ordering."""
    return types.int64, I64, lambda b, at: b.load_atomic(at, "acquire", 8)


@store_op(types.int64)
def store_release(array: types.Array) -> Access:
    """Store to ``array[index]`` with release ordering."""
    return types.void, I64, lambda b, at, value: b.store_atomic(value, at, "release", 8)


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


@load_op
def wake_all(array: types.Array) -> Access:
    """Wake every thread that sleeps on ``array[index]``."""
    everyone, no_timeout = ir.Constant(I64, _ALL_WAITERS), ir.Constant(I64, 0)
    return types.void, I64, lambda b, at: _futex(b, at, _PRIVATE_WAKE, everyone, no_timeout)


def _futex(b: Builder, at: Value, operation: int, value: Value, timeout: Value) -> None:
    """Call futex(2), which compares the low half of the int64: the first half on a little-endian CPU."""
    low_half = b.and_(value, ir.Constant(I64, 2**32 - 1))
    numbers = ir.Constant(I64, _FUTEX), b.ptrtoint(at, I64), ir.Constant(I64, operation), low_half, timeout
    call(b, "syscall", I64, *numbers)
