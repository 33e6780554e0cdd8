"""The command buffer: how a Python thread hands step inputs to workers that stay inside one jitted call.

A GPU command queue with one entry: the caller writes an input and raises the sequence number, the workers wake up, read
the input, run, and count themselves as done. Neither side needs the GIL for it.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import register_jitable

from bitnet_numba.backends.cpu.array_types import Bytes, Int64s
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

SEQUENCE, DONE, TYPE = 0, LINE, 2 * LINE  # indices of a buffer's words
CLOSED = 1  # sequence number of a closed buffer that had no calls
INPUT_BYTES = 16384
_SLEEP_MICROSECONDS = 60_000_000


class CommandBuffer(NamedTuple):
    """Memory that the caller and the workers share.

    ``SEQUENCE`` is twice the number of calls so far, plus one when the buffer is closed; ``DONE`` counts finished calls
    of all threads together; ``TYPE`` is the :func:`type_id` of inputs.
    """

    words: Int64s  # [3 * 8]: a cache line each
    input_slot: Bytes  # [INPUT_BYTES]: the input of the last call


def new_command_buffer(sequence: int) -> CommandBuffer:
    """Return a buffer with this sequence number."""
    buffer = CommandBuffer(np.zeros(3 * LINE, np.int64), np.zeros(INPUT_BYTES, np.uint8))
    buffer.words[SEQUENCE] = sequence
    return buffer


# ---- the input slot --------------------------------------------------------------------------------------------------
@array_op
def write_input(_: Any, slot: types.Array, value: types.Type) -> Any:
    """Write a tuple to the input slot as it stands in registers: arrays as addresses and lengths."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        b.store(args[1], _slot_address(context, b, signature, args[0], args[1].type))
        return context.get_dummy_value()

    return types.void(slot, value), lower


@array_op
def read_input(_: Any, slot: types.Array, like: types.Type) -> Any:
    """Return the tuple in the input slot; it has the type of ``like``."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        return b.load(_slot_address(context, b, signature, args[0], args[1].type))

    return like(slot, like), lower


@array_op
def type_id(_: Any, value: types.Type) -> Any:
    """Return a constant that identifies the Numba type of a tuple."""
    number = zlib.crc32(str(value).encode())

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        return ir.Constant(I64, number)

    return types.int64(value), lower


def _slot_address(context: Any, b: Builder, signature: Any, slot: Value, llvm_type: Any) -> Value:
    n_bytes = context.get_abi_sizeof(llvm_type)
    if n_bytes > INPUT_BYTES:
        raise NotImplementedError(f"an input of {n_bytes} bytes, the slot holds {INPUT_BYTES}: raise INPUT_BYTES")
    return address(context, b, signature.args[0], slot, ir.Constant(I64, 0), llvm_type)


# ---- called by the workers -------------------------------------------------------------------------------------------
@register_jitable
def begin(buffer: CommandBuffer, step_input: Any) -> None:
    """Announce which type of input these workers were compiled for, before their first call."""
    buffer.words[TYPE] = type_id(step_input)


@register_jitable
def finish(ctx: ThreadContext, buffer: CommandBuffer, n_calls: int) -> None:
    """Count this thread as done with call number ``n_calls``; the last one wakes the caller."""
    if fetch_add(buffer.words, DONE) + 1 == n_calls * ctx.n_threads:
        wake_all(buffer.words, DONE)


@register_jitable
def wait_for_call(buffer: CommandBuffer, n_calls: int) -> bool:
    """Sleep until call number ``n_calls + 1`` comes; False if the buffer was closed instead."""
    while load_acquire(buffer.words, SEQUENCE) == 2 * n_calls:
        sleep_while(buffer.words, SEQUENCE, 2 * n_calls, _SLEEP_MICROSECONDS)
    called: bool = load_acquire(buffer.words, SEQUENCE) == 2 * (n_calls + 1)
    return called


@register_jitable
def next_input(buffer: CommandBuffer, like: Any) -> Any:
    """Return the input of the call that :func:`wait_for_call` saw; it has the type of the previous one."""
    return read_input(buffer.input_slot, like)


# ---- called by the caller --------------------------------------------------------------------------------------------
@register_jitable
def send(buffer: CommandBuffer, step_input: Any) -> bool:
    """Hand an input to the workers; False if the buffer is closed or they were compiled for another input type."""
    sequence = load_acquire(buffer.words, SEQUENCE)
    if sequence & CLOSED or buffer.words[TYPE] != type_id(step_input):
        return False
    write_input(buffer.input_slot, step_input)
    store_release(buffer.words, SEQUENCE, sequence + 2)
    wake_all(buffer.words, SEQUENCE)
    return True


@register_jitable
def wait_until_done(buffer: CommandBuffer, n_threads: int, microseconds: int) -> bool:
    """Sleep until all threads are done with all calls, a signal comes or the time is over; return whether all are."""
    all_done = load_acquire(buffer.words, SEQUENCE) // 2 * n_threads
    done = load_acquire(buffer.words, DONE)
    if done < all_done:
        sleep_while(buffer.words, DONE, done, microseconds)
        done = load_acquire(buffer.words, DONE)
    finished: bool = done == all_done
    return finished


@register_jitable
def close(buffer: CommandBuffer) -> None:
    """Let the workers return once they are done."""
    store_release(buffer.words, SEQUENCE, load_acquire(buffer.words, SEQUENCE) | CLOSED)
    wake_all(buffer.words, SEQUENCE)
