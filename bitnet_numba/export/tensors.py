"""From a checkpoint's tensors to those of a GGUF file: which there must be, and how each is stored."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import FormatError
from bitnet_numba.export.shape import ModelShape
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import TensorSource
from bitnet_numba.formats.names import LINEAR_ROLES, Role, gguf_name, hf_name
from bitnet_numba.formats.packing import absmean_ternary, exact_ternary, pack_i2s, unpack_hf
from bitnet_numba.formats.safetensors import Checkpoint

# A layer's tensors in the order of the graph, so that a file's order never depends on the checkpoint's.
LAYER_ORDER = (
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_sub_norm",
    "attn_output",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_sub_norm",
    "ffn_down",
)
PACKED = "U8"  # the type of matrices whose weights are ternary already, four in a byte
BELOW_BF16 = np.uint32(0xFFFF)  # the bits of a float32 that bfloat16 drops
SMALLEST_SCALE = np.finfo(np.float32).tiny

Float32 = npt.NDArray[np.float32]


def i2s_tensors(checkpoint: Checkpoint, shape: ModelShape) -> list[TensorSource]:
    """Return the tensors of an I2_S file, each read from the checkpoint when its turn comes.

    Linear layers become I2_S, norms F32; the embedding, and an output head of its own, take the smallest of F16, BF16
    and F32 that holds every value exactly.

    Raises
    ------
    FormatError
        If the checkpoint lacks a tensor, has one that the model has not, or has one of the wrong shape. A value that is
        not finite is found when its tensor is read.
    """
    _check_names(checkpoint, shape)
    return [_source(checkpoint, role, shape) for role in model_roles(shape)]


def model_roles(shape: ModelShape) -> Iterator[Role]:
    """Yield the roles of all weights of a model, in the order in which they are written."""
    yield Role("token_embd")
    for layer in range(shape.n_layers):
        yield from (Role(name, layer) for name in LAYER_ORDER)
    yield Role("output_norm")
    if not shape.tied_embeddings:
        yield Role("output")


def role_shape(role: Role, shape: ModelShape) -> tuple[int, ...]:
    """Return the dimensions of a role's weights, rows before columns."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    kv_size = shape.n_kv_heads * shape.head_dim
    matrices = {
        "token_embd": (shape.vocab_size, hidden),
        "output": (shape.vocab_size, hidden),
        "attn_q": (hidden, hidden),
        "attn_k": (kv_size, hidden),
        "attn_v": (kv_size, hidden),
        "attn_output": (hidden, hidden),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
        "ffn_sub_norm": (inner,),
    }
    return matrices.get(role.name, (hidden,))


def _check_names(checkpoint: Checkpoint, shape: ModelShape) -> None:
    """Refuse missing and unexpected tensors, and those whose shape is not the one that config.json asks for."""
    expected = set()
    for role in model_roles(shape):
        name = hf_name(role)
        entry = checkpoint.tensors.get(name)
        if entry is None:
            raise FormatError(f"{checkpoint.path}: tensor {name!r} is missing; get the whole checkpoint again")
        expected.add(name)
        stored = role_shape(role, shape)
        if entry.dtype == PACKED and role.name in LINEAR_ROLES:
            expected.add(hf_name(_scale_of(role)))
            stored = (stored[0] // 4, *stored[1:])
        if entry.shape != stored:
            raise FormatError(
                f"{entry.file}: tensor {name!r} has the shape {entry.shape}, config.json asks for {stored}; "
                "get both files again"
            )
    for name, entry in checkpoint.tensors.items():
        if name not in expected:
            raise FormatError(f"{entry.file}: tensor {name!r} has no place in this model; check config.json beside it")


def _scale_of(role: Role) -> Role:
    return replace(role, part="scale")


def _source(checkpoint: Checkpoint, role: Role, shape: ModelShape) -> TensorSource:
    """Return one tensor in the form that its role is stored in."""
    read: Callable[[], npt.NDArray[Any]]
    dimensions = role_shape(role, shape)
    if role.name in LINEAR_ROLES:
        stored, read = TensorType.I2_S, partial(_read_i2s, checkpoint, role, shape)
    elif len(dimensions) == 1:
        stored, read = TensorType.F32, partial(_read_dense, checkpoint, role, TensorType.F32)
    else:
        stored = smallest_exact_type(_finite_float32(checkpoint, role))
        read = partial(_read_dense, checkpoint, role, stored)
    return TensorSource(gguf_name(role), stored, dimensions, read)


def smallest_exact_type(values: Float32) -> TensorType:
    """Return F16, BF16 or F32: the first of them that holds every value exactly.

    Parameters
    ----------
    values : float32[...]
        Finite.
    """
    with np.errstate(over="ignore"):
        if np.array_equal(values.astype(np.float16).astype(np.float32), values):
            return TensorType.F16
    return TensorType.F32 if np.any(values.view(np.uint32) & BELOW_BF16) else TensorType.BF16


def _read_dense(checkpoint: Checkpoint, role: Role, stored: TensorType) -> npt.NDArray[Any]:
    values = _finite_float32(checkpoint, role)
    if stored is TensorType.F16:
        return values.astype("<f2")
    if stored is TensorType.BF16:
        return (values.view(np.uint32) >> 16).astype("<u2")
    return values.astype("<f4")


def _read_i2s(checkpoint: Checkpoint, role: Role, shape: ModelShape) -> npt.NDArray[np.uint8]:
    name = hf_name(role)
    place = f"{checkpoint.path}: tensor {name!r}"
    if checkpoint.tensors[name].dtype == PACKED:
        scale = _packed_scale(checkpoint, role)
        weights = unpack_hf(checkpoint.raw(name), place)
        return pack_i2s(weights, float(scale if shape.multiply_by_scale else 1 / scale))
    masters = _finite_float32(checkpoint, role)
    # The mean of weights that are ternary already would shrink them by their share of zeros.
    weights, scale = exact_ternary(masters) or absmean_ternary(masters, place)
    return pack_i2s(weights, float(scale))


def _packed_scale(checkpoint: Checkpoint, role: Role) -> np.float32:
    """Return the one number that a packed matrix is multiplied or divided by."""
    scale = _finite_float32(checkpoint, _scale_of(role)).reshape(-1)
    if scale.size != 1 or not SMALLEST_SCALE < scale[0] < 1 / SMALLEST_SCALE:
        raise FormatError(
            f"{checkpoint.path}: tensor {hf_name(_scale_of(role))!r} is not one positive number; get the file again"
        )
    return np.float32(scale[0])


def _finite_float32(checkpoint: Checkpoint, role: Role) -> Float32:
    """Return a tensor as float32[shape], and refuse NaN and infinities."""
    name = hf_name(role)
    values = checkpoint.float32(name)
    finite = np.isfinite(values)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise FormatError(f"{checkpoint.path}: tensor {name!r}: {values[first]} at {first}; get an intact checkpoint")
    return values
