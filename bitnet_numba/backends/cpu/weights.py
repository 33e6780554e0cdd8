"""A model's weights as the kernels read them: one packed layout, one array a role, stacked by layer."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.candidates import no_screen, screen_of
from bitnet_numba.backends.cpu.forward.arrays import DOWN, GATE, OUTPUT, UP, K, Q, V, Weights
from bitnet_numba.backends.cpu.kernels.rope import rope_table
from bitnet_numba.backends.cpu.kernels.ternary import pack, packed_size
from bitnet_numba.backends.cpu.memory import Allocate, allocate, available_bytes
from bitnet_numba.backends.cpu.padded_sizes import Layout, Places
from bitnet_numba.errors import ResourceError
from bitnet_numba.files import human_size
from bitnet_numba.formats.packing import pack_i2s
from bitnet_numba.model.rope_scaling import inverse_frequencies, llama3_factors
from bitnet_numba.model.source import Matrix, ModelSource, TernaryMatrix

_ZERO_CODES = 0b01_01_01_01  # four weights of zero
_I2S_TAIL = 32
_ROPE_BYTES = 32  # of a table's element while it is made: half as many angles, and a few float64 arrays of them

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def load_weights(
    source: ModelSource,
    layout: Layout,
    max_context: int,
    *,
    is_screened: bool = False,
    threads: int = 1,
    allocate: Allocate = allocate,
) -> Weights:
    """Bring every tensor of a model into the kernels' layout.

    Parameters
    ----------
    source : ModelSource
    layout : Layout
    max_context : int
        Positions to prepare RoPE for.
    is_screened : bool
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
    packer = _Packer(source, layout, threads, allocate)
    embedding = _padded_matrix(source.matrix("token_embd"), layout.hidden)
    head = embedding if source.tied else _padded_matrix(source.matrix("output"), layout.hidden)
    attended = layout.head_places(config.n_heads)
    sub_norms = n_layers if config.sub_norms else 0
    weights = Weights(
        qkv=packer.stack(packer.qkv, layout.qkv_rows, layout.hidden),
        attn_output=packer.stack(packer.attn_output, layout.hidden, layout.attended),
        gate_up=packer.stack(packer.gate_up, 2 * layout.ffn, layout.hidden),
        down=packer.stack(packer.down, layout.hidden, layout.ffn),
        scales=packer.scales,
        attn_norm=_norms(source, "attn_norm", n_layers, layout.hidden),
        ffn_norm=_norms(source, "ffn_norm", n_layers, layout.hidden),
        attn_sub_norm=_norms(source, "attn_sub_norm", sub_norms, layout.attended, attended),
        ffn_sub_norm=_norms(source, "ffn_sub_norm", sub_norms, layout.ffn),
        output_norm=_placed(source.norm("output_norm", None), layout.hidden),
        embedding=embedding.values,
        embedding_scales=embedding.scales,
        head=head.values,
        head_scales=head.scales,
        head_screen=screen_of(head.values, threads, allocate) if is_screened else no_screen(),
        rope=_rope(source, layout, max_context),
    )
    for array in weights:
        array.flags.writeable = False  # also what Numba's types see: one compilation serves every source
    return weights


class _Packer:
    """Packs the linear layers of a model, and notes their scales."""

    def __init__(self, source: ModelSource, layout: Layout, threads: int, allocate: Allocate) -> None:
        self._source, self._layout, self._threads, self._allocate = source, layout, threads, allocate
        config = source.config
        self.scales = np.zeros((config.n_layers, 7), np.float32)
        self._queries = layout.head_places(config.n_heads, adjacent=config.adjacent_pairs)
        self._keys = layout.head_places(config.n_kv_heads, adjacent=config.adjacent_pairs)
        self._values = layout.head_places(config.n_kv_heads)
        self._attended = layout.head_places(config.n_heads)
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
        head_dim, config = self._layout.head_dim, self._source.config
        yield self._rows("attn_q", layer, Q, self._queries, config.n_heads * head_dim)
        yield self._rows("attn_k", layer, K, self._keys, config.n_kv_heads * head_dim)
        yield self._rows("attn_v", layer, V, self._values, config.n_kv_heads * head_dim)

    def attn_output(self, layer: int) -> Iterable[Bytes]:
        matrix = self._matrix("attn_output", layer, OUTPUT)
        yield _placed_i2s(matrix, self._hidden, self._layout.hidden, self._attended, self._layout.attended)

    def gate_up(self, layer: int) -> Iterable[Bytes]:
        yield self._rows("ffn_gate", layer, GATE, self._ffn, self._layout.ffn)
        yield self._rows("ffn_up", layer, UP, self._ffn, self._layout.ffn)

    def down(self, layer: int) -> Iterable[Bytes]:
        matrix = self._matrix("ffn_down", layer, DOWN)
        yield _placed_i2s(matrix, self._hidden, self._layout.hidden, self._ffn, self._layout.ffn)

    def _rows(self, role: str, layer: int, scale: int, rows: Places, n_rows: int) -> Bytes:
        """Return a projection out of the hidden state, its rows where they belong, as I2_S bytes."""
        matrix = self._matrix(role, layer, scale)
        return _placed_i2s(matrix, rows, n_rows, self._hidden, self._layout.hidden)

    def _matrix(self, role: str, layer: int, scale: int) -> TernaryMatrix:
        matrix = self._source.linear(role, layer)
        self.scales[layer, scale] = matrix.scale
        return matrix


def _placed_i2s(matrix: TernaryMatrix, rows: Places, n_rows: int, columns: Places, n_columns: int) -> Bytes:
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


def _in_order(places: Places, n: int) -> bool:
    return places.size == n and bool((np.diff(places) == 1).all())


def _norms(source: ModelSource, role: str, n_layers: int, length: int, places: Places | None = None) -> Floats:
    """Return a norm of every layer, float32[n_layers, length]."""
    stacked = np.zeros((n_layers, length), np.float32)
    for layer in range(n_layers):
        stacked[layer] = _placed(source.norm(role, layer), length, places)
    return stacked


def _placed(values: Floats, length: int, places: Places | None = None) -> Floats:
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


def _rope(source: ModelSource, layout: Layout, max_context: int) -> Floats:
    needed, free = max_context * layout.head_dim * _ROPE_BYTES, available_bytes()
    if free is not None and needed > free:
        raise ResourceError(
            f"{source.path}: RoPE for {max_context:,} positions needs {human_size(needed)}, "
            f"{human_size(free)} are free; ask for a smaller context"
        )
    return rope_table(rope_frequencies(source), max_context, layout.half)


def rope_frequencies(source: ModelSource) -> npt.NDArray[np.float64]:
    """Return by which angle each pair turns from one position to the next, float64[head_dim // 2]."""
    config = source.config
    frequencies = inverse_frequencies(config.head_dim, config.rope_theta)
    scaling = config.rope_scaling
    if scaling is not None and scaling.bands is None:
        frequencies = frequencies / scaling.factor
    elif scaling is not None and scaling.bands is not None:
        frequencies = frequencies / llama3_factors(frequencies, scaling.factor, *scaling.bands)
    factors = source.rope_factors()
    if factors is not None:
        frequencies = frequencies / factors
    return frequencies
