"""The interface that loaders see of a model file: linear layers, norms, embedding and head by role, in any format.

Both readers, ``gguf_source.py`` and ``hf_source.py``, check tensors and values with the functions below.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.formats.packing import absmean_ternary, exact_ternary, unpack_i2s
from bitnet_numba.model.config import ModelConfig
from bitnet_numba.model.families import Shape, TensorNames
from bitnet_numba.model.roles import Role
from bitnet_numba.text.tokenizer import Tokenizer

I2S_RUN = 128  # weights of I2_S that are interleaved with each other


@dataclass(frozen=True, slots=True)
class TernaryMatrix:
    """A linear layer's weights, -1, 0 and +1, and their scale.

    Attributes
    ----------
    weights : int8[rows, columns] or None
        None where ``i2s`` has them.
    i2s : uint8[rows, columns // 4] or None
        I2_S bytes, checked; each row is a whole number of runs.
    """

    scale: np.float32
    weights: npt.NDArray[np.int8] | None = None
    i2s: npt.NDArray[np.uint8] | None = None

    def unpacked(self) -> npt.NDArray[np.int8]:
        """Return the weights as int8[rows, columns]."""
        if self.weights is not None:
            return self.weights
        assert self.i2s is not None  # one of the two is there by construction
        rows, row_bytes = self.i2s.shape
        tail = np.zeros(32, np.uint8)
        tail[:4] = np.array([self.scale], "<f4").view(np.uint8)
        return unpack_i2s(np.concatenate([self.i2s.reshape(-1), tail]), (rows, 4 * row_bytes))[0]


class Matrix(NamedTuple):
    """An embedding or output head, as stored.

    Attributes
    ----------
    values : float32, uint16 (float16 bits), int16 (bfloat16 bits) or int8 [vocab_size, hidden_size]
    scales : float32[vocab_size, groups]
        For int8; ``groups`` is 0 for the others.
    """

    values: npt.NDArray[Any]
    scales: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CorrectionRecord:
    """A correction that was made to a tensor, as receipts store it.

    ``layer`` is the tensor's GGUF name, ``policy_fingerprint`` that of the policy or the name of the variable, and
    ``metadata`` has the parameters of the correction.
    """

    layer: str
    correction_type: str
    rms_before: float
    rms_after: float
    factor: float
    policy_fingerprint: str
    metadata: dict[str, Any]


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
def ternary_from_floats(weights: npt.NDArray[np.float32], place: str) -> TernaryMatrix:
    """Return float weights that are ternary already as they are; quantize master weights by absmean."""
    exact = exact_ternary(weights)
    ternary, scale = exact if exact is not None else absmean_ternary(weights, place)
    return TernaryMatrix(scale, weights=ternary)


def one_scale(weights: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], place: str) -> TernaryMatrix:
    """Return int8[rows, columns] with one scale; raise an UnsupportedError if float32[rows, blocks] scales differ.

    The scale of a block of zeros does not matter.
    """
    rows, blocks = scales.shape
    used = scales[weights.reshape(rows, blocks, -1).any(axis=2)]
    if used.size == 0:
        return TernaryMatrix(np.float32(1), weights=weights)
    if not (used == used[0]).all():
        raise UnsupportedError(
            f"{place}: its blocks have different scales, from {used.min()} to {used.max()}; "
            "a BitNet b1.58 matrix has one: take the model's I2_S file"
        )
    return TernaryMatrix(checked_scale(used[0], place), weights=weights)


def checked_scale(scale: float, place: str) -> np.float32:
    """Return a scale as float32, or refuse it."""
    with np.errstate(over="ignore"):  # the error below says it
        value = np.float32(scale)
    if not 0 < value < np.inf:
        raise FormatError(f"{place}: its scale is {value}, expected a finite number above 0; get the file again")
    return value


def checked_finite(values: npt.NDArray[np.float32], place: str) -> npt.NDArray[np.float32]:
    """Return the values of a norm, or refuse them."""
    if not np.isfinite(values).all():
        raise FormatError(f"{place}: holds a value that is not finite; get the file again")
    return values


def matrix_of(values: npt.NDArray[Any], scales: npt.NDArray[np.float32] | None = None) -> Matrix:
    """Return a matrix of values as stored, contiguous and aligned as the kernels need."""
    if scales is None:
        scales = np.zeros((values.shape[0], 0), np.float32)
    return Matrix(np.require(values, requirements=["C", "A"]), scales)
