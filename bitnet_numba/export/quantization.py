"""Which tensors are quantized, and as what each is stored: decided here and nowhere else."""

from collections.abc import Callable, Mapping

from bitnet_numba.errors import UnsupportedError
from bitnet_numba.formats.gguf_types import FILE_TYPE_I2_S, TensorType, tensor_bytes
from bitnet_numba.model.roles import LINEAR_ROLES, NORM_ROLES, Role

TERNARY_TYPES: Mapping[str, TensorType] = {
    "i2_s": TensorType.I2_S,
    "tq1_0": TensorType.TQ1_0,
    "tq2_0": TensorType.TQ2_0,
}
FLOAT_TYPES: Mapping[str, TensorType] = {"f16": TensorType.F16, "bf16": TensorType.BF16, "f32": TensorType.F32}
TYPES: Mapping[str, TensorType] = {**FLOAT_TYPES, **TERNARY_TYPES}
"""What a user can ask for, by the names that files carry."""

FILE_TYPES: Mapping[TensorType, int] = {
    TensorType.F32: 0,
    TensorType.F16: 1,
    TensorType.BF16: 32,
    TensorType.TQ1_0: 36,
    TensorType.TQ2_0: 37,
    TensorType.I2_S: FILE_TYPE_I2_S,
}
"""``general.file_type`` of a file whose linear layers have the type."""


def is_quantized(role: Role) -> bool:
    """Tell whether a ternary file holds this tensor as ternary weights.

    Those are the matrices of the linear layers, which training made ternary. Norms, the embedding, the output head and
    whatever else a model has are kept as floats, whoever asks.
    """
    return role.part == "weight" and role.name in LINEAR_ROLES


def stored_type(role: Role, wanted: TensorType, smallest_exact: Callable[[], TensorType]) -> TensorType:
    """Return the type that a tensor has in a file of the type wanted.

    Parameters
    ----------
    role : Role
    wanted : TensorType
        One of ``TYPES``.
    smallest_exact : callable
        Returns the smallest float type that holds all its values; asked only for embeddings and heads of ternary files.
    """
    if is_quantized(role):
        return wanted
    if role.name in (*NORM_ROLES, "output_norm", "rope_freqs"):
        return TensorType.F32
    return wanted if wanted in FLOAT_TYPES.values() else smallest_exact()


def check_blocks(place: str, wanted: TensorType, shape: tuple[int, ...]) -> None:
    """Refuse a type whose blocks a matrix does not fill.

    Raises
    ------
    UnsupportedError
        With the types that take it.
    """
    try:
        tensor_bytes(wanted, shape)
    except ValueError as error:
        others = "i2_s, f16 or bf16" if wanted in (TensorType.TQ1_0, TensorType.TQ2_0) else "f16 or bf16"
        raise UnsupportedError(f"{place}: {wanted.name} cannot hold it: {error}; use {others}") from None
