"""The interface that loaders see of a model file: linear layers, norms, embedding and head by role, in any format.

Both readers, ``gguf_source.py`` and ``hf_source.py``, check tensors and values with the functions below.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.formats.packing.masters import absmean_ternary, exact_ternary, nearest_ternary
from bitnet_numba.formats.packing.matrices import Matrix as Matrix
from bitnet_numba.formats.packing.matrices import TernaryMatrix as TernaryMatrix
from bitnet_numba.formats.packing.matrices import checked_scale as checked_scale
from bitnet_numba.model.config import ModelConfig
from bitnet_numba.model.families import Shape, TensorNames
from bitnet_numba.model.roles import Role
from bitnet_numba.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class CorrectionRecord:
    """A correction that was made to a tensor, as receipts store it."""

    layer: str  # the tensor's GGUF name
    correction_type: str
    rms_before: float
    rms_after: float
    factor: float
    policy_fingerprint: str  # that of the policy, or the name of the variable
    metadata: dict[str, Any]  # parameters of the correction


class ModelSource(Protocol):
    """A model file or directory, open and checked: every tensor is there, of the right shape, and none is unknown."""

    path: Path
    config: ModelConfig
    tied: bool
    chat_template: str | None
    notes: tuple[str, ...]  # about how it was opened, for the user

    @property
    def corrections(self) -> tuple[CorrectionRecord, ...]:
        """Corrections of the tensors that were read so far."""

    def linear(self, role: str, layer: int) -> TernaryMatrix:
        """Return the weights of a linear layer, rows as the file has them."""

    def norm(self, role: str, layer: int | None) -> npt.NDArray[np.float32]:
        """Return the weights of a norm, all finite."""

    def matrix(self, role: str) -> Matrix:
        """Return the embedding (``token_embd``) or the head (``output``)."""

    def rope_factors(self) -> npt.NDArray[np.float64] | None:
        """Return the divisors of the RoPE frequencies, float64[head_dim // 2], if the file has them."""

    def tokenizer(self) -> Tokenizer:
        """Build the model's tokenizer."""

    def tensor_types(self) -> Mapping[str, int]:
        """Return the number of tensors of each type, by the type's name."""

    def close(self) -> None:
        """Close the files."""


# ---- checks of names and shapes --------------------------------------------------------------------------------------
def expected_shapes(config: ModelConfig, *, tied: bool) -> dict[Role, Shape]:
    """Return every tensor of a model of this configuration, and its shape, outermost dimension first."""
    return config.family.shapes(config, tied=tied)


def names_by_role(path: Path, names: TensorNames, found: Iterable[str]) -> dict[Role, str]:
    """Return the name of each role's tensor; raise a FormatError for an unknown name, or two of one role."""
    by_role: dict[Role, str] = {}
    for name in found:
        if name.endswith(names.ignored):
            continue
        role = names.role(name)
        if role is None:
            raise FormatError(f"{path}: tensor '{name}' does not belong to this architecture")
        if role in by_role:
            raise FormatError(f"{path}: tensors '{by_role[role]}' and '{name}' are the same; get the model again")
        by_role[role] = name
    return by_role


def check_tensors(
    place: Path, found: Mapping[Role, Shape], expected: Mapping[Role, Shape], optional: Iterable[Role] = ()
) -> None:
    """Raise a FormatError for the first tensor that is missing, left over, or of another shape."""
    for role, shape in expected.items():
        if role not in found:
            raise FormatError(f"{place}: {describe(role)} is missing; get the whole model again")
        if found[role] != shape:
            raise FormatError(f"{place}: {describe(role)} has the shape {found[role]}, the model needs {shape}")
    left_over = sorted(map(describe, found.keys() - expected.keys() - set(optional)))
    if left_over:
        raise FormatError(f"{place}: {left_over[0]} does not belong to this architecture; get the model again")


def describe(role: Role) -> str:
    """Name a tensor in a message."""
    return f"tensor '{role.name}.{role.part}'" + ("" if role.layer is None else f" of layer {role.layer}")


# ---- checks of values ------------------------------------------------------------------------------------------------
def ternary_from_floats(weights: npt.NDArray[np.float32], place: str, *, are_masters: bool) -> TernaryMatrix:
    """Return float weights that are ternary already as they are; quantize master weights by absmean.

    Raises UnsupportedError for other weights, unless the file says that they ``are_masters``.
    """
    exact = exact_ternary(weights)
    if exact is None and not are_masters:
        checked_finite(weights, place)
        raise UnsupportedError(
            f"{place}: a linear layer in full precision: its values are not ternary, and nothing says that they are "
            "master weights of BitNet; use a BitNet b1.58 model"
        )
    ternary, scale = exact if exact is not None else absmean_ternary(weights, place)
    return TernaryMatrix(scale, weights=ternary)


def ternary_of_scale(
    weights: npt.NDArray[np.float32], scale: np.float32, rounded: np.float32, place: str, *, are_masters: bool
) -> TernaryMatrix:
    """Return float weights whose exact scale the file states, and which it holds ``rounded`` to the weights' type.

    Raises FormatError if other values occur than 0 and plus or minus the rounded scale, unless they ``are_masters``.
    """
    checked_finite(weights, place)
    ternary = nearest_ternary(weights, scale if are_masters else rounded)
    if not are_masters and not np.array_equal(ternary * rounded, weights):
        raise FormatError(f"{place}: its values are not 0 and {rounded}, as the file states; get the file again")
    return TernaryMatrix(checked_scale(float(scale), place), weights=ternary)


def checked_finite(values: npt.NDArray[np.float32], place: str) -> npt.NDArray[np.float32]:
    """Return the values of a norm, or refuse them."""
    if not np.isfinite(values).all():
        raise FormatError(f"{place}: holds a value that is not finite; get the file again")
    return values
