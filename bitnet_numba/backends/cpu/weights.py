"""Load weights: every tensor packed and padded for the kernels, one array per role, stacked by layer."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.array_types import Bytes, Floats, Int64s, Numbers, Words, check_array
from bitnet_numba.backends.cpu.forward.arrays import DOWN, GATE, OUTPUT, UP, K, Q, V, Weights
from bitnet_numba.backends.cpu.kernels.head.int8_copy import MAX_HIDDEN, int8_copy_shape, quantize_rows
from bitnet_numba.backends.cpu.kernels.rope import RopeTable
from bitnet_numba.backends.cpu.kernels.ternary import pack
from bitnet_numba.backends.cpu.memory import Allocate, allocate
from bitnet_numba.backends.cpu.packed_sizes import ROWS_PER_BLOCK, packed_size
from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, ThreadPool
from bitnet_numba.formats.packing.i2s import pack_i2s
from bitnet_numba.model.rope_scaling import rope_frequencies
from bitnet_numba.model.source import Matrix, ModelSource, TernaryMatrix

_ZERO_CODES = 0b01_01_01_01  # four weights of zero
_I2S_TAIL = 32  # bytes of an I2_S tensor after its codes


def load_weights(
    source: ModelSource,
    sizes: PaddedSizes,
    max_context: int,
    *,
    with_int8_copy: bool = False,
    threads: int = 1,
    allocate: Allocate = allocate,
    rope: RopeTable | None = None,
) -> Weights:
    """Pack and pad every tensor of a model on ``threads`` threads; the RoPE table has ``max_context`` positions.

    A ``rope`` table that is given is filled later, as far as sequences reach.
    The memory of packed weights and of the head's int8 copy, if it gets one, comes from ``allocate``. BitNetError if a
    value is no valid weight, scale or norm; ResourceError if memory is short.
    """
    config = source.config
    n_layers = config.n_layers
    packer = _Packer(source, sizes, threads, allocate)
    embedding = _padded_matrix(source.matrix("token_embd"), sizes.hidden)
    head = embedding if source.tied else _padded_matrix(source.matrix("output"), sizes.hidden)
    attn = sizes.head_indices(config.n_heads)
    sub_norms = n_layers if config.sub_norms else 0
    weights = Weights(
        qkv=packer.stack(packer.qkv, sizes.qkv_rows, sizes.hidden),
        attn_output=packer.stack(packer.attn_output, sizes.hidden, sizes.attn),
        gate_up=packer.stack(packer.gate_up, 2 * sizes.ffn, sizes.hidden),
        down=packer.stack(packer.down, sizes.hidden, sizes.ffn),
        scales=packer.scales,
        attn_norm=_norms(source, "attn_norm", n_layers, sizes.hidden),
        ffn_norm=_norms(source, "ffn_norm", n_layers, sizes.hidden),
        attn_sub_norm=_norms(source, "attn_sub_norm", sub_norms, sizes.attn, attn),
        ffn_sub_norm=_norms(source, "ffn_sub_norm", sub_norms, sizes.ffn),
        output_norm=_padded(source.norm("output_norm", None), sizes.hidden),
        embedding=embedding.values,
        embedding_scales=embedding.scales,
        head=head.values,
        head_scales=head.scales,
        head_int8=int8_copy(head.values, threads, allocate) if with_int8_copy else _no_copy(),
        rope=(rope or whole_rope_table(source, sizes, max_context)).rows,
    )
    for array in weights:
        array.flags.writeable = False  # Numba's types tell this apart: one compilation serves every source
    return weights


def check_weights(weights: Weights, sizes: PaddedSizes, max_context: int) -> None:
    """Raise ValueError unless dtypes, shapes and memory layouts are as :class:`Weights` states.

    Kernels check no index: memory safety rests on this.
    """
    config, hidden, attn, ffn = sizes.config, sizes.hidden, sizes.attn, sizes.ffn
    n_layers, n_sub_norms = config.n_layers, config.n_layers if config.sub_norms else 0
    int8_shape = int8_copy_shape(config.vocab_size, hidden) if weights.head_int8.size else _no_copy().shape
    expected: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
        "qkv": (np.uint8, (n_layers, packed_size(sizes.qkv_rows, hidden))),
        "attn_output": (np.uint8, (n_layers, packed_size(hidden, attn))),
        "gate_up": (np.uint8, (n_layers, packed_size(2 * ffn, hidden))),
        "down": (np.uint8, (n_layers, packed_size(hidden, ffn))),
        "scales": (np.float32, (n_layers, 7)),
        "attn_norm": (np.float32, (n_layers, hidden)),
        "ffn_norm": (np.float32, (n_layers, hidden)),
        "attn_sub_norm": (np.float32, (n_sub_norms, attn)),
        "ffn_sub_norm": (np.float32, (n_sub_norms, ffn)),
        "output_norm": (np.float32, (hidden,)),
        "head_int8": (np.uint32, int8_shape),
        "rope": (np.float32, (max_context, sizes.head_dim)),
    }
    for name, (dtype, shape) in expected.items():
        check_array(name, getattr(weights, name), dtype, shape)
    for name in ("embedding", "head"):
        _check_matrix(name, getattr(weights, name), getattr(weights, f"{name}_scales"), (config.vocab_size, hidden))


def _check_matrix(name: str, matrix: npt.NDArray[np.generic], scales: Floats, shape: tuple[int, int]) -> None:
    """Check an embedding or head; int8 needs scales, each of a multiple of sixteen elements."""
    if matrix.dtype not in (np.float32, np.uint16, np.int16, np.int8):
        raise ValueError(f"{name}: expected float32, float16, bfloat16 or int8 elements, got {matrix.dtype}")
    check_array(name, matrix, matrix.dtype, shape)
    groups = scales.shape[-1] if scales.ndim else 0
    if (matrix.dtype == np.int8) != (groups > 0) or (groups and shape[1] % (groups * LANES)):
        raise ValueError(f"{name}_scales: {groups} groups do not fit {matrix.dtype}{shape}")
    check_array(f"{name}_scales", scales, np.float32, (shape[0], groups))


class _Packer:
    """Packs the linear layers of a model, and collects their scales."""

    def __init__(self, source: ModelSource, sizes: PaddedSizes, threads: int, allocate: Allocate) -> None:
        self._source, self._sizes, self._threads, self._allocate = source, sizes, threads, allocate
        config = source.config
        self.scales = np.zeros((config.n_layers, 7), np.float32)
        self._queries = sizes.head_indices(config.n_heads, adjacent=config.adjacent_pairs)
        self._keys = sizes.head_indices(config.n_kv_heads, adjacent=config.adjacent_pairs)
        self._values = sizes.head_indices(config.n_kv_heads)
        self._attn = sizes.head_indices(config.n_heads)
        self._hidden = np.arange(config.hidden_size)
        self._ffn = np.arange(config.intermediate_size)

    def stack(self, parts_of_layer: Callable[[int], Iterable[Bytes]], rows: int, columns: int) -> Bytes:
        """Pack one role of every layer into one array; a layer is its parts, as I2_S bytes, one below the other."""
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
                pass  # raises what a thread raised, the first layer's first
        return stacked

    def qkv(self, layer: int) -> Iterable[Bytes]:
        head_dim, config = self._sizes.head_dim, self._source.config
        yield self._rows("attn_q", layer, Q, self._queries, config.n_heads * head_dim)
        yield self._rows("attn_k", layer, K, self._keys, config.n_kv_heads * head_dim)
        yield self._rows("attn_v", layer, V, self._values, config.n_kv_heads * head_dim)

    def attn_output(self, layer: int) -> Iterable[Bytes]:
        matrix = self._matrix("attn_output", layer, OUTPUT)
        yield _padded_i2s(matrix, self._hidden, self._sizes.hidden, self._attn, self._sizes.attn)

    def gate_up(self, layer: int) -> Iterable[Bytes]:
        yield self._rows("ffn_gate", layer, GATE, self._ffn, self._sizes.ffn)
        yield self._rows("ffn_up", layer, UP, self._ffn, self._sizes.ffn)

    def down(self, layer: int) -> Iterable[Bytes]:
        matrix = self._matrix("ffn_down", layer, DOWN)
        yield _padded_i2s(matrix, self._hidden, self._sizes.hidden, self._ffn, self._sizes.ffn)

    def _rows(self, role: str, layer: int, scale: int, rows: Int64s, n_rows: int) -> Bytes:
        """Return a projection of the hidden state as I2_S bytes with padded rows."""
        matrix = self._matrix(role, layer, scale)
        return _padded_i2s(matrix, rows, n_rows, self._hidden, self._sizes.hidden)

    def _matrix(self, role: str, layer: int, scale: int) -> TernaryMatrix:
        matrix = self._source.linear(role, layer)
        self.scales[layer, scale] = matrix.scale
        return matrix


def _padded_i2s(matrix: TernaryMatrix, rows: Int64s, n_rows: int, columns: Int64s, n_columns: int) -> Bytes:
    """Return I2_S bytes, uint8[n_rows, n_columns // 4], with a matrix's rows and columns at these indices."""
    if matrix.i2s is not None and _in_order(columns, n_columns):
        if _in_order(rows, n_rows):
            return matrix.i2s
        padded = np.full((n_rows, n_columns // 4), _ZERO_CODES, np.uint8)
        padded[rows] = matrix.i2s
        return padded
    weights = matrix.unpacked()
    if not (_in_order(columns, n_columns) and _in_order(rows, n_rows)):
        weights = np.zeros((n_rows, n_columns), np.int8)
        weights[np.ix_(rows, columns)] = matrix.unpacked()
    return pack_i2s(weights, 1.0)[:-_I2S_TAIL].reshape(n_rows, n_columns // 4)


def _in_order(indices: Int64s, n: int) -> bool:
    return indices.size == n and bool((np.diff(indices) == 1).all())


def _norms(source: ModelSource, role: str, n_layers: int, length: int, indices: Int64s | None = None) -> Floats:
    """Return a norm of every layer, float32[n_layers, length]."""
    stacked = np.zeros((n_layers, length), np.float32)
    for layer in range(n_layers):
        stacked[layer] = _padded(source.norm(role, layer), length, indices)
    return stacked


def _padded(values: Floats, length: int, indices: Int64s | None = None) -> Floats:
    """Return values at these indices (default: the first ones), and zeros elsewhere."""
    padded = np.zeros(length, np.float32)
    padded[slice(values.size) if indices is None else indices] = values
    return padded


def _padded_matrix(matrix: Matrix, hidden: int) -> Matrix:
    """Return a matrix with rows of length ``hidden``; the file's own pages if they have that length."""
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
def int8_copy(matrix: Numbers, threads: int, allocate: Allocate = allocate) -> Words:
    """Make the int8 copy of a head, [vocab_size, hidden_size], that the candidate filter reads: see ``quantize_rows``.

    No blocks for an int8 head, where it would not be smaller, and for a hidden size above ``MAX_HIDDEN``, where the
    filter would not be exact. ResourceError if memory is short.
    """
    if matrix.dtype == np.int8 or matrix.shape[1] > MAX_HIDDEN:
        return _no_copy()
    copy = np.asarray(allocate(int8_copy_shape(*matrix.shape), np.uint32, "int8 copy of the head"), np.uint32)
    matrix = matrix.view()
    matrix.flags.writeable = False  # as the kernels see it later: one compilation serves both

    def work(ctx: ThreadContext) -> None:
        quantize_rows(ctx, matrix, np.zeros((ROWS_PER_BLOCK, matrix.shape[1]), np.int8), copy)

    pool = ThreadPool(threads)
    try:
        pool.run(work)
    finally:
        pool.close()
    return copy


def _no_copy() -> Words:
    return np.zeros((0, *int8_copy_shape(0, 0)[1:]), np.uint32)


# ---- RoPE ------------------------------------------------------------------------------------------------------------
def new_rope_table(source: ModelSource, sizes: PaddedSizes, max_context: int) -> RopeTable:
    """Reserve the RoPE table of a model; its rows are computed by :meth:`RopeTable.fill`."""
    return RopeTable(rope_frequencies(source), max_context, sizes.half, allocate)


def whole_rope_table(source: ModelSource, sizes: PaddedSizes, max_context: int) -> RopeTable:
    """Return a RoPE table with all its rows."""
    table = new_rope_table(source, sizes, max_context)
    table.fill(max_context)
    return table
