"""Array views from addresses, by which one jitted call reaches separately allocated pages."""

from typing import Any

from numba.core import types
from numba.np.arrayobj import populate_array

from bitnet_numba.backends.cpu.simd.operation import Builder, Value, array_op


def _view(context: Any, b: Builder, array_type: types.Array, address: Value, size: Value) -> Value:
    element = context.get_data_type(array_type.dtype)
    item_bytes = context.get_constant(types.intp, context.get_abi_sizeof(element))
    array = context.make_array(array_type)(context, b)
    data = b.inttoptr(address, element.as_pointer())
    populate_array(array, data=data, shape=[size], strides=[item_bytes], itemsize=item_bytes, meminfo=None)
    return array._getvalue()


@array_op
def view_at(_: Any, address: types.Integer, like: types.Array, size: types.Integer) -> Any:
    """View ``size`` elements of ``like``'s dtype at an address; the caller keeps that memory alive."""
    array_type = types.Array(like.dtype, 1, "C")

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        return _view(context, b, array_type, args[0], args[2])

    return array_type(types.intp, like, types.intp), lower


@array_op
def floats_at(_: Any, address: types.Integer, size: types.Integer) -> Any:
    """View ``size`` float32 numbers at an address."""
    array_type = types.Array(types.float32, 1, "C")

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        return _view(context, b, array_type, args[0], args[1])

    return array_type(types.intp, types.intp), lower
