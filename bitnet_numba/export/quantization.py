"""Which tensors a ternary file quantizes, and the type of each tensor: decided here and nowhere else."""

from collections.abc import Callable

from bitnet_numba.errors import UnsupportedError
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.tensor_formats import FORMATS, Kind, tensor_bytes, writable
from bitnet_numba.model.roles import LINEAR_ROLES, NORM_ROLES, Role

TYPES = {name: known.type for name, known in writable(Kind.FLOAT, Kind.TERNARY).items()}
"""What users can ask for."""


def is_float(tensor_type: TensorType) -> bool:
    """Tell whether a type is F16, BF16 or F32."""
    return FORMATS[tensor_type].kind is Kind.FLOAT


def is_quantized(role: Role) -> bool:
    """Tell whether a ternary file holds this tensor as ternary weights: linear layers only, all else stays floats."""
    return role.part == "weight" and role.name in LINEAR_ROLES


def stored_type(role: Role, wanted: TensorType, smallest_exact: Callable[[], TensorType]) -> TensorType:
    """Return the type of a tensor in a file of the type wanted, one of ``TYPES``.

    ``smallest_exact`` returns the smallest float type that holds all its values; it is called only for embeddings and
    heads: no type of the linear layers rounds those.
    """
    if is_quantized(role):
        return wanted
    if role.name in (*NORM_ROLES, "output_norm", "rope_freqs"):
        return TensorType.F32
    return TensorType.F32 if wanted is TensorType.F32 else smallest_exact()


def check_blocks(place: str, wanted: TensorType, shape: tuple[int, ...]) -> None:
    """Refuse a type whose blocks a matrix does not fill, and name types that can hold it."""
    try:
        tensor_bytes(wanted, shape)
    except ValueError as error:
        others = "f16 or bf16" if FORMATS[wanted].layout.blocks_span_rows else "i2_s, f16 or bf16"
        raise UnsupportedError(f"{place}: {wanted.name} cannot hold it: {error}; use {others}") from None
