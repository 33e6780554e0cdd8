"""Pass named tuples to jitted functions by reference, so that only the fields that are used are read.

A step's hundred arrays are some eight hundred numbers; by value, every function call, inlined or not, copies them all,
and the compiler must optimize the copies away again.
"""

from typing import Any

from numba.core import cgutils, types
from numba.core.imputils import lower_getattr_generic
from numba.core.types.containers import BaseNamedTuple
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import models, register_model

from bitnet_numba.backends.cpu.simd.operation import Builder, Value, array_op


class Reference(types.Type):
    """The address of a named tuple of Numba type ``target``, which must outlive it."""

    def __init__(self, target: Any) -> None:
        self.target = target
        super().__init__(name=f"Reference({target})")

    def field(self, name: str) -> tuple[int, types.Type]:
        """Return the index and type of a field; a nested named tuple is a reference again."""
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
def _read_field(_context: Any, b: Builder, reference: Reference, at: Value, name: str) -> Value:
    index, kind = reference.field(name)
    field = cgutils.gep_inbounds(b, at, 0, index)
    return field if isinstance(kind, Reference) else b.load(field)


@array_op
def by_reference(_: Any, value: types.Type) -> Any:
    """Store a named tuple on the stack of the calling function, and return a reference to it."""

    def lower(context: Any, b: Builder, signature: Any, args: list[Value]) -> Value:
        at = cgutils.alloca_once(b, args[0].type)
        b.store(args[0], at)
        return at

    return Reference(value)(value), lower
