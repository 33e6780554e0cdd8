"""Array views from addresses, by which one jitted call reaches separately allocated pages, and views of bits."""

from typing import Any

from numba.core import cgutils, types
from numba.np.arrayobj import populate_array

from bitnet_numba.backends.cpu.simd.operation import F32, I32, Builder, Value, array_op


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


@array_op
def as_float32(_: Any, array: types.Array) -> Any:
    """View the bits of a uint32 array as float32; ``array.view`` compiles for a third of a second."""
    return _reinterpreted(array, types.float32, F32)


@array_op
def as_int32(_: Any, array: types.Array) -> Any:
    """View the bits of a uint32 array as int32."""
    return _reinterpreted(array, types.int32, I32)


def _reinterpreted(array: types.Array, dtype: types.Type, element: Any) -> Any:
    if array.dtype != types.uint32:
        return None
    array_type = array.copy(dtype=dtype)

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        source = context.make_array(array)(context, b, args[0])
        view = context.make_array(array_type)(context, b)
        data = b.bitcast(source.data, element.as_pointer())
        shape, strides = (cgutils.unpack_tuple(b, field) for field in (source.shape, source.strides))
        populate_array(view, data=data, shape=shape, strides=strides, itemsize=source.itemsize, meminfo=None)
        return view._getvalue()

    return array_type(array), lower
