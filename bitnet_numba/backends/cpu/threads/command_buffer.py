"""What a calling thread and a thread pool write to each other, so that the thread pool can stay in jitted code between calls."""

import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import register_jitable

from bitnet_numba.backends.cpu.simd.operation import I64, Builder, Value, address, array_op
from bitnet_numba.backends.cpu.threads.atomics import (
    LINE,
    fetch_add,
    load_acquire,
    sleep_while,
    store_release,
    wake_all,
)
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext

STAGE, DONE, KIND = 0, LINE, 2 * LINE  # where a buffer's words begin
DISMISSED = 1  # the stage of a buffer that nobody reads
BOX_BYTES = 16384
_SLEEP_MICROSECONDS = 60_000_000


class CommandBuffer(NamedTuple):
    """What the calling thread and the thread pool write to each other from the start of the thread pool's stay to its dismissal.

    Attributes
    ----------
    words : int64[3 * 8]
        A cache line each. ``STAGE`` is twice the number of calls so far, and one more when the thread pool has been dismissed;
        ``DONE`` counts the threads that have finished calls; ``KIND`` stands for the type of a call's argument.
    box : uint8[BOX_BYTES]
        The argument of the last call.
    """

    words: npt.NDArray[np.int64]
    box: npt.NDArray[np.uint8]


def new_command_buffer(stage: int) -> CommandBuffer:
    """Return the buffer of a stay at some stage."""
    buffer = CommandBuffer(np.zeros(3 * LINE, np.int64), np.zeros(BOX_BYTES, np.uint8))
    buffer.words[STAGE] = stage
    return buffer


# ---- the box ---------------------------------------------------------------------------------------------------------
@array_op
def put(_: Any, box: types.Array, value: types.Type) -> Any:
    """Write a tuple into the box as it stands in registers: arrays as addresses and lengths."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        b.store(args[1], _in_box(context, b, signature, args[0], args[1].type))
        return context.get_dummy_value()

    return types.void(box, value), lower


@array_op
def taken(_: Any, box: types.Array, like: types.Type) -> Any:
    """Return the tuple in the box, of the type of another."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        return b.load(_in_box(context, b, signature, args[0], args[1].type))

    return like(box, like), lower


@array_op
def kind(_: Any, value: types.Type) -> Any:
    """Return a number that stands for a tuple's type."""
    number = zlib.crc32(str(value).encode())

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        return ir.Constant(I64, number)

    return types.int64(value), lower


def _in_box(context: Any, b: Builder, signature: Any, box: Value, llvm_type: Any) -> Value:
    n_bytes = context.get_abi_sizeof(llvm_type)
    if n_bytes > BOX_BYTES:
        raise NotImplementedError(f"an argument of {n_bytes} bytes, the box holds {BOX_BYTES}")
    return address(context, b, signature.args[0], box, ir.Constant(I64, 0), llvm_type)


# ---- the thread pool's side -------------------------------------------------------------------------------------------------
@register_jitable
def begin(buffer: CommandBuffer, argument: Any) -> None:
    """Say which type of argument this stay can take, before its first call."""
    buffer.words[KIND] = kind(argument)


@register_jitable
def finish(ctx: ThreadContext, buffer: CommandBuffer, n_calls: int) -> None:
    """Tell the calling thread that this one is done."""
    if fetch_add(buffer.words, DONE) + 1 == n_calls * ctx.n_threads:
        wake_all(buffer.words, DONE)


@register_jitable
def wait_for_call(buffer: CommandBuffer, n_calls: int) -> bool:
    """Sleep until a next call comes, or the dismissal; tell which."""
    while load_acquire(buffer.words, STAGE) == 2 * n_calls:
        sleep_while(buffer.words, STAGE, 2 * n_calls, _SLEEP_MICROSECONDS)
    called: bool = load_acquire(buffer.words, STAGE) == 2 * (n_calls + 1)
    return called


@register_jitable
def next_argument(buffer: CommandBuffer, like: Any) -> Any:
    """Return the argument of the call that has come, of the type of the last one's."""
    return taken(buffer.box, like)


# ---- the caller's side -----------------------------------------------------------------------------------------------
@register_jitable
def send(buffer: CommandBuffer, argument: Any) -> bool:
    """Hand the argument of a call to the thread pool that stands by; tell whether it does, for such an argument."""
    stage = load_acquire(buffer.words, STAGE)
    if stage & DISMISSED or buffer.words[KIND] != kind(argument):
        return False
    put(buffer.box, argument)
    store_release(buffer.words, STAGE, stage + 2)
    wake_all(buffer.words, STAGE)
    return True


@register_jitable
def wait_until_done(buffer: CommandBuffer, n_threads: int, microseconds: int) -> bool:
    """Sleep until all threads are done with all calls, or a signal comes, or so much time is over; tell which."""
    everybody = load_acquire(buffer.words, STAGE) // 2 * n_threads
    done = load_acquire(buffer.words, DONE)
    if done < everybody:
        sleep_while(buffer.words, DONE, done, microseconds)
        done = load_acquire(buffer.words, DONE)
    finished: bool = done == everybody
    return finished


@register_jitable
def dismiss(buffer: CommandBuffer) -> None:
    """Let the thread pool leave when it is done."""
    store_release(buffer.words, STAGE, load_acquire(buffer.words, STAGE) | DISMISSED)
    wake_all(buffer.words, STAGE)
