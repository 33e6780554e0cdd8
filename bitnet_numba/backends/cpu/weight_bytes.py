"""An estimate of the memory of packed weights, by which it is reserved before Numba is imported."""

from bitnet_numba.backends.cpu.packed_sizes import packed_size
from bitnet_numba.formats.tensor_formats import Kind, type_names
from bitnet_numba.model.roles import LINEAR_ROLES
from bitnet_numba.model.source import ModelSource, expected_shapes

_SMALL_HEADS = set(type_names(Kind.INT8))  # tensor types whose head needs no int8 copy
_COPY_HEADER = 16  # bytes of such a copy's row, besides its codes


def packed_bytes(source: ModelSource, *, with_int8_copy: bool) -> int:
    """Estimate the bytes of a model's packed weights and of the head's int8 copy, without padding."""
    shapes = expected_shapes(source.config, tied=source.tied)
    ternary = sum(packed_size(*shape) for role, shape in shapes.items() if role.name in LINEAR_ROLES)
    if not with_int8_copy or _SMALL_HEADS & source.tensor_types().keys():
        return ternary
    return ternary + source.config.vocab_size * (source.config.hidden_size + _COPY_HEADER)
