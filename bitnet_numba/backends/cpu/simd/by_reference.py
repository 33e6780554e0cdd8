"""Named tuples by reference: jitted code that is given one reads the fields that it uses, and copies no others.

A step's hundred arrays are some eight hundred numbers. By value, each function that they are passed to, inlined or not,
gets a copy of all of them, which the compiler must take apart again.
"""

from typing import Any

from numba.core import cgutils, types
from numba.core.imputils import lower_getattr_generic
from numba.core.types.containers import BaseNamedTuple
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import models, register_model

from bitnet_numba.backends.cpu.simd.operation import Builder, Value, array_op


class Reference(types.Type):
    """The address of a named tuple; what it names must live as long as it is used.

    Parameters
    ----------
    target : numba.types.BaseNamedTuple
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        super().__init__(name=f"Reference({target})")

    def field(self, name: str) -> tuple[int, types.Type]:
        """Return a field's place, and its type: a named tuple's is a reference to it."""
        index = self.target.fields.index(name)
        kind = self.target[index]
        return index, Reference(kind) if isinstance(kind, BaseNamedTuple) else kind


@register_model(Reference)
class _ReferenceModel(models.PrimitiveModel):
    def __init__(self, manager: Any, reference: Reference) -> None:
        super().__init__(manager, reference, manager.lookup(reference.target).get_value_type().as_pointer())


@infer_getattr
class _Fields(AttributeTemplate):
    key = Reference

    def generic_resolve(self, reference: Reference, name: str) -> types.Type | None:
        return reference.field(name)[1] if name in reference.target.fields else None


@lower_getattr_generic(Reference)
def _read_field(_context: Any, b: Builder, reference: Reference, place: Value, name: str) -> Value:
    index, kind = reference.field(name)
    at = cgutils.gep_inbounds(b, place, 0, index)
    return at if isinstance(kind, Reference) else b.load(at)


@array_op
def by_reference(_: Any, value: types.Type) -> Any:
    """Keep a named tuple in memory until the calling function returns, or comes here again."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        place = cgutils.alloca_once(b, args[0].type)
        b.store(args[0], place)
        return place

    return Reference(value)(value), lower
