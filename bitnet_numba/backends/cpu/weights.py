"""A model's weights as the kernels read them: one packed format, one array a role, stacked by layer."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.forward.arrays import DOWN, GATE, OUTPUT, UP, K, Q, V, Weights
from bitnet_numba.backends.cpu.kernels.head.int8_copy import MAX_HIDDEN, quantize_rows, screen_shape
from bitnet_numba.backends.cpu.kernels.rope import rope_table
from bitnet_numba.backends.cpu.kernels.ternary import pack, packed_size
from bitnet_numba.backends.cpu.memory import Allocate, allocate, available_bytes
from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes, RowIndex
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, ThreadPool
from bitnet_numba.errors import ResourceError
from bitnet_numba.files import human_size
from bitnet_numba.formats.packing import pack_i2s
from bitnet_numba.model.rope_scaling import rope_frequencies
from bitnet_numba.model.source import Matrix, ModelSource, TernaryMatrix

_ZERO_CODES = 0b01_01_01_01  # four weights of zero
_I2S_TAIL = 32
_ROPE_BYTES = 32  # of a table's element while it is made: half as many angles, and a few float64 arrays of them

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def load_weights(
    source: ModelSource,
    sizes: PaddedSizes,
    max_context: int,
    *,
    with_int8_copy: bool = False,
    threads: int = 1,
    allocate: Allocate = allocate,
) -> Weights:
    """Bring every tensor of a model into the kernels' packed format.

    Parameters
    ----------
    source : ModelSource
    sizes : PaddedSizes
    max_context : int
        Positions to prepare RoPE for.
    with_int8_copy : bool
        Whether to make an int8 copy of the head.
    threads : int
        How many share the packing.
    allocate : callable
        Where the memory comes from.

    Raises
    ------
    BitNetError
        If a value cannot be a weight, a scale or a norm.
    ResourceError
        If the memory is not there.
    """
    config = source.config
    n_layers = config.n_layers
    packer = _Packer(source, sizes, threads, allocate)
    embedding = _padded_matrix(source.matrix("token_embd"), sizes.hidden)
    head = embedding if source.tied else _padded_matrix(source.matrix("output"), sizes.hidden)
    attended = sizes.head_indices(config.n_heads)
    sub_norms = n_layers if config.sub_norms else 0
    weights = Weights(
        qkv=packer.stack(packer.qkv, sizes.qkv_rows, sizes.hidden),
        attn_output=packer.stack(packer.attn_output, sizes.hidden, sizes.attended),
        gate_up=packer.stack(packer.gate_up, 2 * sizes.ffn, sizes.hidden),
        down=packer.stack(packer.down, sizes.hidden, sizes.ffn),
        scales=packer.scales,
        attn_norm=_norms(source, "attn_norm", n_layers, sizes.hidden),
        ffn_norm=_norms(source, "ffn_norm", n_layers, sizes.hidden),
        attn_sub_norm=_norms(source, "attn_sub_norm", sub_norms, sizes.attended, attended),
        ffn_sub_norm=_norms(source, "ffn_sub_norm", sub_norms, sizes.ffn),
        output_norm=_placed(source.norm("output_norm", None), sizes.hidden),
        embedding=embedding.values,
        embedding_scales=embedding.scales,
        head=head.values,
        head_scales=head.scales,
        head_screen=int8_copy(head.values, threads, allocate) if with_int8_copy else _no_copy(),
        rope=_rope(source, sizes, max_context),
    )
    for array in weights:
        array.flags.writeable = False  # also what Numba's types see: one compilation serves every source
    return weights


class _Packer:
    """Packs the linear layers of a model, and notes their scales."""

    def __init__(self, source: ModelSource, sizes: PaddedSizes, threads: int, allocate: Allocate) -> None:
        self._source, self._sizes, self._threads, self._allocate = source, sizes, threads, allocate
        config = source.config
        self.scales = np.zeros((config.n_layers, 7), np.float32)
        self._queries = sizes.head_indices(config.n_heads, adjacent=config.adjacent_pairs)
        self._keys = sizes.head_indices(config.n_kv_heads, adjacent=config.adjacent_pairs)
        self._values = sizes.head_indices(config.n_kv_heads)
        self._attended = sizes.head_indices(config.n_heads)
        self._hidden = np.arange(config.hidden_size)
        self._ffn = np.arange(config.intermediate_size)

    def stack(self, parts_of_layer: Callable[[int], Iterable[Bytes]], rows: int, columns: int) -> Bytes:
        """Pack one role of every layer into one array; its parts follow each other, as I2_S bytes."""
        shape = self._source.config.n_layers, packed_size(rows, columns)
        stacked = np.asarray(self._allocate(shape, np.uint8, "model weights"), np.uint8)

        def pack_layer(layer: int) -> None:
            begin = 0
            for part in parts_of_layer(layer):
                end = begin + packed_size(len(part), columns)
                pack(part, out=stacked[layer, begin:end])
                begin = end

        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(pack_layer, range(len(stacked))):
                pass  # what a thread raises comes out here, the first layer's first
        return stacked

    def qkv(self, layer: int) -> Iterable[Bytes]:
        head_dim, config = self._sizes.head_dim, self._source.config
        yield self._rows("attn_q", layer, Q, self._queries, config.n_heads * head_dim)
        yield self._rows("attn_k", layer, K, self._keys, config.n_kv_heads * head_dim)
        yield self._rows("attn_v", layer, V, self._values, config.n_kv_heads * head_dim)

    def attn_output(self, layer: int) -> Iterable[Bytes]:
        matrix = self._matrix("attn_output", layer, OUTPUT)
        yield _placed_i2s(matrix, self._hidden, self._sizes.hidden, self._attended, self._sizes.attended)

    def gate_up(self, layer: int) -> Iterable[Bytes]:
        yield self._rows("ffn_gate", layer, GATE, self._ffn, self._sizes.ffn)
        yield self._rows("ffn_up", layer, UP, self._ffn, self._sizes.ffn)

    def down(self, layer: int) -> Iterable[Bytes]:
        matrix = self._matrix("ffn_down", layer, DOWN)
        yield _placed_i2s(matrix, self._hidden, self._sizes.hidden, self._ffn, self._sizes.ffn)

    def _rows(self, role: str, layer: int, scale: int, rows: RowIndex, n_rows: int) -> Bytes:
        """Return a projection out of the hidden state, its rows where they belong, as I2_S bytes."""
        matrix = self._matrix(role, layer, scale)
        return _placed_i2s(matrix, rows, n_rows, self._hidden, self._sizes.hidden)

    def _matrix(self, role: str, layer: int, scale: int) -> TernaryMatrix:
        matrix = self._source.linear(role, layer)
        self.scales[layer, scale] = matrix.scale
        return matrix


def _placed_i2s(matrix: TernaryMatrix, rows: RowIndex, n_rows: int, columns: RowIndex, n_columns: int) -> Bytes:
    """Return I2_S bytes, uint8[n_rows, n_columns // 4], with each row and column of a matrix at its place."""
    if matrix.i2s is not None and _in_order(columns, n_columns):
        if _in_order(rows, n_rows):
            return matrix.i2s
        placed = np.full((n_rows, n_columns // 4), _ZERO_CODES, np.uint8)
        placed[rows] = matrix.i2s
        return placed
    weights = matrix.unpacked()
    if not (_in_order(columns, n_columns) and _in_order(rows, n_rows)):
        weights = np.zeros((n_rows, n_columns), np.int8)
        weights[np.ix_(rows, columns)] = matrix.unpacked()
    return pack_i2s(weights, 1.0)[:-_I2S_TAIL].reshape(n_rows, n_columns // 4)


def _in_order(places: RowIndex, n: int) -> bool:
    return places.size == n and bool((np.diff(places) == 1).all())


def _norms(source: ModelSource, role: str, n_layers: int, length: int, places: RowIndex | None = None) -> Floats:
    """Return a norm of every layer, float32[n_layers, length]."""
    stacked = np.zeros((n_layers, length), np.float32)
    for layer in range(n_layers):
        stacked[layer] = _placed(source.norm(role, layer), length, places)
    return stacked


def _placed(values: Floats, length: int, places: RowIndex | None = None) -> Floats:
    """Return values at their places, and zeros between and after them."""
    placed = np.zeros(length, np.float32)
    placed[: values.size] = values
    if places is not None:
        placed[:] = 0
        placed[places] = values
    return placed


def _padded_matrix(matrix: Matrix, hidden: int) -> Matrix:
    """Return a matrix whose rows are ``hidden`` long; the file's own pages where they are already."""
    vocab_size, columns = matrix.values.shape
    if columns == hidden:
        return matrix
    values = np.zeros((vocab_size, hidden), matrix.values.dtype)
    values[:, :columns] = matrix.values
    groups = matrix.scales.shape[1]
    scales = np.zeros((vocab_size, groups * hidden // columns), np.float32)
    scales[:, :groups] = matrix.scales
    return Matrix(values, scales)


# ---- int8 copy of the head -------------------------------------------------------------------------------------------
def int8_copy(matrix: npt.NDArray[Any], threads: int, allocate: Allocate = allocate) -> npt.NDArray[np.uint32]:
    """Make the int8 copy of a head that the candidate filter reads, if one would be smaller and the filter exact.

    Parameters
    ----------
    matrix : float32, uint16 (float16 bits), int16 (bfloat16 bits) or int8 [vocab_size, hidden_size]
    threads : int
        Number of threads that quantize.
    allocate : callable

    Returns
    -------
    uint32[n_blocks, 4 + hidden_size // 4, 16]
        As ``quantize_rows`` writes it; no blocks for an int8 head and for a hidden size above ``MAX_HIDDEN``.

    Raises
    ------
    ResourceError
        If the memory is not there.
    """
    if matrix.dtype == np.int8 or matrix.shape[1] > MAX_HIDDEN:
        return _no_copy()
    copy = np.asarray(allocate(screen_shape(*matrix.shape), np.uint32, "int8 copy of the head"), np.uint32)
    matrix = matrix.view()
    matrix.flags.writeable = False  # as the kernels see it later: one compilation serves both

    def work(ctx: ThreadContext) -> None:
        quantize_rows(ctx, matrix, copy)

    pool = ThreadPool(threads)
    try:
        pool.run(work)
    finally:
        pool.close()
    return copy


def _no_copy() -> npt.NDArray[np.uint32]:
    return np.zeros((0, *screen_shape(0, 0)[1:]), np.uint32)


# ---- RoPE ------------------------------------------------------------------------------------------------------------
def _rope(source: ModelSource, sizes: PaddedSizes, max_context: int) -> Floats:
    needed, free = max_context * sizes.head_dim * _ROPE_BYTES, available_bytes()
    if free is not None and needed > free:
        raise ResourceError(
            f"{source.path}: RoPE for {max_context:,} positions needs {human_size(needed)}, "
            f"{human_size(free)} are free; ask for a smaller context"
        )
    return rope_table(rope_frequencies(source), max_context, sizes.half)
