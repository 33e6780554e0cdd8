"""How large packed ternary weights are; importing this does not import Numba, which takes as long as finding memory."""

from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.model.roles import LINEAR_ROLES
from bitnet_numba.model.source import ModelSource, expected_shapes

RUN = 128  # columns a run: of I2_S, and of what is packed from it
TRITS = 5  # weights that a byte can hold; backends/cpu/simd/trits.py takes them apart
GROUP = TRITS * RUN  # columns in the bytes of four runs, where a byte holds five weights
FIVE_TRITS = cpu.packs_five_trits()

_SMALL_HEADS = {"Q8_0", "Q6_K"}  # tensor types whose head needs no int8 copy
_COPY_HEADER = 16  # bytes of such a copy's row, besides its codes


def grouped_columns(columns: int) -> int:
    """Return how many of a row's columns are packed five to a byte; those after them are packed four to a byte."""
    return columns // GROUP * GROUP if FIVE_TRITS else 0


def packed_size(rows: int, columns: int) -> int:
    """Return the bytes of a packed matrix."""
    return rows * (columns // 4 - grouped_columns(columns) // (4 * TRITS))


def packed_bytes(source: ModelSource, *, with_int8_copy: bool) -> int:
    """Estimate the bytes of a model's packed weights and of the head's int8 copy, without padding."""
    shapes = expected_shapes(source.config, tied=source.tied)
    ternary = sum(packed_size(*shape) for role, shape in shapes.items() if role.name in LINEAR_ROLES)
    if not with_int8_copy or _SMALL_HEADS & source.tensor_types().keys():
        return ternary
    return ternary + source.config.vocab_size * (source.config.hidden_size + _COPY_HEADER)
