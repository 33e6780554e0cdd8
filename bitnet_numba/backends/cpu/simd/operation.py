"""Make operations for jitted code, from their types and a function that emits LLVM code."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from bitnet_numba.backends.cpu.simd import cpu

cpu.set_target()

Builder = Any  # llvmlite has no type stubs
Value = Any
Emit = Callable[..., Value]

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()


def vector_op(returns: types.Type, *takes: types.Type) -> Callable[[Emit], Any]:
    """Turn a function that emits LLVM code into an operation of fixed types for jitted code.

    The result must be bound to a module-level name: Numba's cache never recognises one that is held in a closure.
    """

    def decorate(emit: Emit) -> Any:
        def lower(context: Any, builder: Builder, signature: Any, args: list[Value]) -> Value:
            value = emit(builder, *args)
            return context.get_dummy_value() if returns is types.void else value

        typed = returns(*takes), lower
        by_arity = (
            lambda _: typed,
            lambda _, a: typed,
            lambda _, a, b: typed,
            lambda _, a, b, c: typed,
            lambda _, a, b, c, d: typed,
        )
        operation = intrinsic(by_arity[len(takes)])
        operation.emit = emit  # for operations composed of this one
        return operation

    return decorate


def array_op(typing: Callable[..., Any]) -> Any:
    """Turn a function that returns types and lowering into an operation on arrays."""
    return intrinsic(typing)


def literal_op(typing: Callable[..., Any]) -> Any:
    """Like :func:`array_op`, but the function sees the values of constant arguments."""
    return intrinsic(prefer_literal=True)(typing)


Access = tuple[types.Type, Any, Emit]  # type of the result, LLVM type at the address, code for builder and address


def load_op(typing: Callable[[types.Array], Access]) -> Any:
    """Turn a function that says how to access an array type into an operation ``(array, index)``, unchecked."""

    def operation(_: Any, array: types.Array, index: types.Integer) -> Any:
        return _accessing(typing(array), array)

    return intrinsic(operation)


def store_op(stored: types.Type) -> Callable[[Callable[[types.Array], Access]], Any]:
    """Like :func:`load_op`, for an operation ``(array, index, value)`` on values of a type."""

    def decorate(typing: Callable[[types.Array], Access]) -> Any:
        def operation(_: Any, array: types.Array, index: types.Integer, value: Any) -> Any:
            return _accessing(typing(array), array, stored)

        return intrinsic(operation)

    return decorate


def _accessing(access: Access, array: types.Array, *stored: types.Type) -> Any:
    returns, pointee, emit = access

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        value = emit(b, address(context, b, signature.args[0], args[0], args[1], pointee), *args[2:])
        return context.get_dummy_value() if returns is types.void else value

    return returns(array, types.intp, *stored), lower


def address(context: Any, b: Builder, array_type: types.Array, array: Value, index: Value, pointee: Any) -> Value:
    """Return the address of ``array[index]`` as a pointer to ``pointee``, unchecked."""
    element = b.gep(context.make_array(array_type)(context, b, array).data, [index])
    return b.bitcast(element, pointee.as_pointer())


def call(b: Builder, name: str, returns: Any, *args: Value) -> Value:
    """Call an LLVM intrinsic or a C library function by name."""
    kind = ir.FunctionType(returns, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), args)


def splat(vector: Any, constant: float) -> Any:
    """Return a constant vector of equal lanes."""
    return ir.Constant(vector, [constant] * vector.count)


def spread(b: Builder, x: Value, vector: Any) -> Value:
    """Copy one value to every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = b.insert_element(undefined, x, ir.Constant(I32, 0))
    return b.shuffle_vector(first, undefined, splat(ir.VectorType(I32, vector.count), 0))


def pick(b: Builder, x: Value, lanes: list[int]) -> Value:
    """Return some lanes of a vector."""
    return b.shuffle_vector(x, x, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def join(b: Builder, low: Value, high: Value) -> Value:
    """Return the lanes of two equal vectors as one."""
    lanes = 2 * low.type.count
    return b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, lanes), list(range(lanes))))


def in_parts(b: Builder, n_parts: int, emit: Emit, *vectors: Value) -> Value:
    """Apply ``emit`` to each of ``n_parts`` equal parts of some vectors, and join the results."""
    sizes = [x.type.count // n_parts for x in vectors]
    parts = []
    for part in range(n_parts):
        lanes = [list(range(part * size, part * size + size)) for size in sizes]
        parts.append(emit(*map(pick, [b] * len(vectors), vectors, lanes)))
    while len(parts) > 1:
        parts = [join(b, low, high) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def tree(b: Builder, x: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Fold sixteen lanes to one, always in the same order: 8 with 8, 4 with 4, 2 with 2, 1 with 1."""
    lanes = x.type.count
    while lanes > 1:
        lanes //= 2
        x = combine(pick(b, x, list(range(lanes))), pick(b, x, list(range(lanes, 2 * lanes))))
    return b.extract_element(x, ir.Constant(I32, 0))
