"""Where a model's tensors come from, whatever the format: linear layers, norms, the embedding and the head, by role."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.formats.packing import absmean_ternary, exact_ternary, unpack_i2s
from bitnet_numba.model.config import ModelConfig
from bitnet_numba.model.roles import Role
from bitnet_numba.text.tokenizer import Tokenizer

RUN = 128  # weights of I2_S whose order is shuffled together

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TernaryMatrix:
    """A linear layer's weights: -1, 0 and +1, and what one unit stands for.

    Attributes
    ----------
    scale : float32
    weights : int8[rows, columns] or None
        The weights one by one, unless they are given as
    i2s : uint8[rows, columns // 4] or None
        their I2_S bytes, checked, where every row begins a run.
    """

    scale: np.float32
    weights: npt.NDArray[np.int8] | None = None
    i2s: npt.NDArray[np.uint8] | None = None

    def unpacked(self) -> npt.NDArray[np.int8]:
        """Return the weights one by one, int8[rows, columns]."""
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
    """A correction that was made to a tensor, as receipts keep it.

    Attributes
    ----------
    layer : str
        The tensor, by its GGUF name.
    correction_type : str
    rms_before, rms_after : float
        Of its weights.
    factor : float
        What they were multiplied by.
    policy_fingerprint : str
        Of the policy that asked for it, or the name of the variable.
    metadata : dict of str to Any
        Its parameters.
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
    notes: tuple[str, ...]  # what the user should know about how it was opened

    @property
    def corrections(self) -> tuple[CorrectionRecord, ...]:
        """What was changed in the tensors that were handed out so far."""
        ...

    def linear(self, role: str, layer: int) -> TernaryMatrix:
        """Return the weights of a linear layer, rows as the file has them."""
        ...

    def norm(self, role: str, layer: int | None) -> npt.NDArray[np.float32]:
        """Return the weights of a norm, all finite."""
        ...

    def matrix(self, role: str) -> Matrix:
        """Return the embedding (``token_embd``) or the head (``output``)."""
        ...

    def rope_factors(self) -> npt.NDArray[np.float64] | None:
        """Return what the file divides each RoPE frequency by, if it says so."""
        ...

    def tokenizer(self) -> Tokenizer:
        """Build the tokenizer that came with the model."""
        ...

    def tensor_types(self) -> Mapping[str, int]:
        """Return how many tensors are stored in each type, by the type's name."""
        ...

    def close(self) -> None:
        """Give the files back."""
        ...


# ---- what the tensors must be ----------------------------------------------------------------------------------------
def expected_shapes(config: ModelConfig, *, tied: bool) -> dict[Role, Shape]:
    """Return every tensor that a model of this configuration has, and its shape, outermost dimension first."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    heads, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    per_layer: dict[str, Shape] = {
        "attn_norm": (hidden,),
        "attn_q": (heads, hidden),
        "attn_k": (kv, hidden),
        "attn_v": (kv, hidden),
        "attn_output": (hidden, heads),
        "ffn_norm": (hidden,),
        "ffn_gate": (ffn, hidden),
        "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn),
    }
    if config.sub_norms:
        per_layer |= {"attn_sub_norm": (heads,), "ffn_sub_norm": (ffn,)}
    shapes = {Role("token_embd"): (config.vocab_size, hidden), Role("output_norm"): (hidden,)}
    if not tied:
        shapes[Role("output")] = (config.vocab_size, hidden)
    for layer in range(config.n_layers):
        shapes |= {Role(name, layer): shape for name, shape in per_layer.items()}
    return shapes


def check_tensors(
    place: Path, found: Mapping[Role, Shape], expected: Mapping[Role, Shape], optional: Iterable[Role] = ()
) -> None:
    """Refuse a model with a tensor missing, left over, or of another shape.

    Raises
    ------
    FormatError
        With the first such tensor.
    """
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


# ---- what the values must be -----------------------------------------------------------------------------------------
def ternary_from_floats(weights: npt.NDArray[np.float32], place: str) -> TernaryMatrix:
    """Take float weights for ternary ones if they are, and quantize them by absmean if they are master weights."""
    exact = exact_ternary(weights)
    ternary, scale = exact if exact is not None else absmean_ternary(weights, place)
    return TernaryMatrix(scale, weights=ternary)


def one_scale(weights: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], place: str) -> TernaryMatrix:
    """Join blocks that all have the same scale to a matrix with one; blocks of zeros may have any.

    Parameters
    ----------
    weights : int8[rows, columns]
    scales : float32[rows, blocks]
    place : str
        File and tensor, for messages.

    Raises
    ------
    UnsupportedError
        If the scales differ.
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
    """Make a matrix of values as stored, aligned as the kernels need."""
    if scales is None:
        scales = np.zeros((values.shape[0], 0), np.float32)
    return Matrix(np.require(values, requirements=["C", "A"]), scales)
