"""Convert a checkpoint's tensors to those of a GGUF file: their order, their types, their bytes."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import ParameterError, UnsupportedError
from bitnet_numba.export.floats import Float32, check_finite, smallest_exact_type, stored_floats
from bitnet_numba.export.quantization import check_blocks, is_float, is_quantized, stored_type
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import Part, TensorSource
from bitnet_numba.formats.packing.codec import FloatCodec, TernaryCodec
from bitnet_numba.formats.packing.masters import nearest_ternary
from bitnet_numba.formats.packing.matrices import TernaryMatrix
from bitnet_numba.formats.tensor_formats import FORMATS
from bitnet_numba.model.config import RopeScaling
from bitnet_numba.model.hf_source import HuggingFaceSource
from bitnet_numba.model.roles import ROTATED_ROLES, Role
from bitnet_numba.model.rope_scaling import inverse_frequencies, llama3_factors
from bitnet_numba.model.source import expected_shapes, ternary_from_floats

BLOCK_WEIGHTS = 1 << 20  # weights of a float tensor in memory at a time: they stay in the cores' caches
MAX_THREADS = 4  # conversion threads; reading and hashing keep pace with no more
_PACKED = "U8"  # the type of matrices whose weights are ternary already, four in a byte

# A layer's tensors in the order of the graph, whatever the order in the checkpoint.
_LAYER_ORDER = (
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


class ModelTensors:
    """The tensors of a checkpoint for a GGUF file, each read just before it is written.

    ``wanted`` is the type of the linear layers; see :func:`~bitnet_numba.export.quantization.stored_type` for others.
    In a float type they hold the values that the engine computes with, or ``masters``, the weights of the training.

    Attributes
    ----------
    rounded : dict of str to None
        Names of tensors written with rounded values, in the order of the file.
    scales : dict of str to float
        Exact scales of the linear layers in a float type; 0 until a layer is written.
    """

    def __init__(self, source: HuggingFaceSource, wanted: TensorType, *, masters: bool = False) -> None:
        self._source = source
        self._wanted = wanted
        self._masters = masters
        linears = sorted(filter(is_quantized, source.names), key=by_position) if is_float(wanted) else []
        self.scales: dict[str, float] = {self._name(role): 0.0 for role in linears}
        if masters and not is_float(wanted):
            raise ParameterError(f"--masters is about float types, and {wanted.name} is none; leave it out")
        if masters and any(map(self._is_packed, linears)):
            raise UnsupportedError(
                f"{source.path}: its linear layers are packed ternary weights, not masters; leave --masters out"
            )
        self.rounded: dict[str, None] = {}  # names of tensors written with rounded values, in the order of the file

    def sources(self) -> list[TensorSource]:
        """Return every tensor, in the order of the file.

        Raises FormatError if an embedding holds a value that is not finite (other tensors are checked when they are
        read), UnsupportedError if a matrix does not fill the blocks of the type wanted.
        """
        shapes = expected_shapes(self._source.config, tied=self._source.tied)
        tensors = [self._tensor(role, shapes[role]) for role in sorted(shapes, key=by_position)]
        scaling = self._source.config.rope_scaling
        if scaling is not None and scaling.bands is not None:
            tensors.append(self._rope_factors(scaling, *scaling.bands))
        return tensors

    def _tensor(self, role: Role, shape: tuple[int, ...]) -> TensorSource:
        stored = stored_type(role, self._wanted, lambda: smallest_exact_type(self._blocks(role, shape)))
        name = self._name(role)
        if is_quantized(role) and role.layer is not None:
            check_blocks(self._place(role), stored, shape)
            return TensorSource(name, stored, shape, partial(self._linear, role, role.layer, stored))
        return TensorSource(name, stored, shape, partial(self._dense, role, shape, stored))

    def _rope_factors(self, scaling: RopeScaling, low: float, high: float, context: int) -> TensorSource:
        """Return the tensor of the factors of Llama 3's RoPE scaling."""
        config = self._source.config
        plain = inverse_frequencies(config.head_dim, config.rope_theta)
        factors = llama3_factors(plain, scaling.factor, low, high, context).astype("<f4")
        return TensorSource(self._name(Role("rope_freqs")), TensorType.F32, factors.shape, lambda: factors)

    # ---- floats ------------------------------------------------------------------------------------------------------
    def _dense(self, role: Role, shape: tuple[int, ...], stored: TensorType) -> Iterator[Part]:
        """Convert blocks on other threads while this one reads the next; yield them in order."""
        with ThreadPoolExecutor(MAX_THREADS) as pool:
            waiting: deque[Future[npt.NDArray[Any]]] = deque()
            for values in self._blocks(role, shape):
                waiting.append(pool.submit(self._floats, role, values, stored))
                if len(waiting) > MAX_THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _blocks(self, role: Role, shape: tuple[int, ...]) -> Iterator[Float32]:
        """Yield blocks of a tensor's rows, small enough that the largest embedding takes little memory."""
        checkpoint, name = self._source.checkpoint, self._source.names[role]
        n_rows = max(1, BLOCK_WEIGHTS // math.prod(shape[1:]))
        for first in range(0, shape[0], n_rows):
            values = checkpoint.float32(name, slice(first, first + n_rows))
            checkpoint.forget_pages()
            yield check_finite(values, self._place(role), first)

    def _floats(self, role: Role, values: Float32, stored: TensorType) -> npt.NDArray[Any]:
        contents, is_rounded = stored_floats(values, stored, self._place(role))
        if is_rounded:
            self._note_rounding(role)
        return contents

    def _note_rounding(self, role: Role) -> None:
        self.rounded[self._name(role)] = None

    # ---- linear layers -----------------------------------------------------------------------------------------------
    def _linear(self, role: Role, layer: int, stored: TensorType) -> Part:
        """Return a matrix as stored; ternary weights are those that the engine runs."""
        checkpoint, name, place = self._source.checkpoint, self._source.names[role], self._place(role)
        if self._is_packed(role):
            stored_matrix = self._source.linear(role.name, layer)
            matrix = TernaryMatrix(stored_matrix.scale, self._reordered(role, stored_matrix.unpacked()))
        else:
            masters = self._reordered(role, check_finite(checkpoint.float32(name), place))
            matrix = ternary_from_floats(masters, place, are_masters=self._source.has_masters)
        checkpoint.forget_pages()
        if is_float(stored):
            self.scales[self._name(role)] = float(matrix.scale)
            if self._masters:
                return self._master_weights(role, masters, matrix, stored)
            return values(matrix, stored, place)
        contents, is_rounded = packed(matrix, stored, place)
        if is_rounded:
            self._note_rounding(role)
        return contents

    def _master_weights(
        self, role: Role, masters: Float32, matrix: TernaryMatrix, stored: TensorType
    ) -> npt.NDArray[Any]:
        """Return master weights as a float type stores them; refuse a rounding that makes other ternary weights."""
        contents = self._floats(role, masters, stored)
        back = cast(FloatCodec, FORMATS[stored].codec).widen(contents)
        if not np.array_equal(nearest_ternary(back, matrix.scale), matrix.unpacked()):
            raise UnsupportedError(
                f"{self._place(role)}: rounded to {stored.name}, its ternary weights would be others; use a wider type"
            )
        return contents

    def _reordered(self, role: Role, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Put rows of q and k into GGUF's order: ``LlamaModel.permute`` of llama.cpp's ``convert_hf_to_gguf.py``."""
        if not self._is_reordered(role):
            return rows
        config = self._source.config
        n_heads = config.n_heads if role.name == "attn_q" else config.n_kv_heads
        halves = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, rows.shape[1])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)

    def _is_reordered(self, role: Role) -> bool:
        return role.name in ROTATED_ROLES and self._source.config.family.adjacent_pairs

    def _is_packed(self, role: Role) -> bool:
        return self._source.checkpoint.tensors[self._source.names[role]].dtype == _PACKED

    def _name(self, role: Role) -> str:
        return self._source.config.family.gguf.name(role)

    def _place(self, role: Role) -> str:
        return f"{self._source.path}: tensor {self._source.names[role]!r}"


def values(matrix: TernaryMatrix, stored: TensorType, place: str) -> npt.NDArray[Any]:
    """Return what the engine computes with, weights times scale, as a float type stores it.

    Raises UnsupportedError if the type cannot hold the scale; that it rounds it is no loss, as the file has it too.
    """
    if not 0 < cast(FloatCodec, FORMATS[stored].codec).stored_value(matrix.scale) < np.inf:
        raise UnsupportedError(f"{place}: its scale {matrix.scale} is none that {stored.name} can hold; use f32")
    return stored_floats(matrix.unpacked() * matrix.scale, stored, place)[0]


def packed(matrix: TernaryMatrix, stored: TensorType, place: str) -> tuple[npt.NDArray[np.uint8], bool]:
    """Return a matrix as bytes of a ternary type, and whether its scale had to be rounded.

    Raises UnsupportedError if the type cannot hold the scale.
    """
    codec = cast(TernaryCodec, FORMATS[stored].codec)
    scale = codec.stored_scale(matrix.scale)
    if not 0 < scale < np.inf:
        raise UnsupportedError(f"{place}: its scale {matrix.scale} is none that {stored.name} can hold; use i2_s")
    return codec.pack(matrix.unpacked(), float(scale)), bool(scale != matrix.scale)


def by_position(role: Role) -> tuple[int, int, int]:
    """Return the sort key of the tensors of a file: the order of the forward pass."""
    if role.layer is None:
        return {"token_embd": (0, 0, 0), "output_norm": (2, 0, 0), "output": (2, 1, 0)}[role.name]
    return 1, role.layer, _LAYER_ORDER.index(role.name)
