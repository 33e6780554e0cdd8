"""What kernels see of a model: its sizes, weights, cache and scratch memory, as tuples of arrays."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.attention import Results, Scratch
from bitnet_numba.backends.cpu.kernels.head.bounds import ScreenState
from bitnet_numba.backends.cpu.kernels.head.int8_filter import HeadRequest
from bitnet_numba.backends.cpu.kernels.ternary import GemmScratch

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]

FULL_HEAD, SCREENED_HEAD, APPROXIMATE_HEAD = range(3)
"""Ways to compute logits: all of them exactly, only those that are needed, all of them roughly."""

Q, K, V, OUTPUT, GATE, UP, DOWN = range(7)
"""Columns of ``Weights.scales``."""

SCREENED_TOKENS = 16  # tokens of one step whose logits a screened head computes; for more, the matrix is read once
QUERY_TILE = 16  # tokens whose queries share each tile of keys and values that is made float32


class Weights(NamedTuple):
    """Read-only arrays, padded as ``Layout`` says.

    Attributes
    ----------
    qkv : uint8[n_layers, packed_size(qkv_rows, hidden)]
        Query, key and value projections, one below the other, from ``pack``.
    attn_output : uint8[n_layers, packed_size(hidden, attended)]
    gate_up : uint8[n_layers, packed_size(2 * ffn, hidden)]
        Gate projection, then up projection.
    down : uint8[n_layers, packed_size(hidden, ffn)]
    scales : float32[n_layers, 7]
        What one unit of each matrix stands for; columns ``Q`` to ``DOWN``.
    attn_norm, ffn_norm : float32[n_layers, hidden]
    attn_sub_norm : float32[n_layers, attended]
        No layers where the family has no sub-norms.
    ffn_sub_norm : float32[n_layers, ffn]
        Likewise.
    output_norm : float32[hidden]
    embedding, embedding_scales : see :class:`bitnet_numba.model.source.Matrix`
        ``[vocab_size, hidden]``.
    head, head_scales
        The same arrays as the embedding where the head is tied to it.
    head_screen : uint32[n_blocks, 4 + hidden // 4, 16]
        The head's int8 copy, of no blocks where there is none.
    rope : float32[max_context, head_dim]
        Cosines and sines of each position.
    """

    qkv: Bytes
    attn_output: Bytes
    gate_up: Bytes
    down: Bytes
    scales: Floats
    attn_norm: Floats
    ffn_norm: Floats
    attn_sub_norm: Floats
    ffn_sub_norm: Floats
    output_norm: Floats
    embedding: npt.NDArray[Any]
    embedding_scales: Floats
    head: npt.NDArray[Any]
    head_scales: Floats
    head_screen: npt.NDArray[np.uint32]
    rope: Floats


class Shape(NamedTuple):
    """A model's sizes as the step uses them; those of buffers are in the buffers.

    Attributes
    ----------
    n_layers, n_heads, n_kv_heads, head_dim : int
        ``head_dim`` is padded.
    hidden_size, attended_size, ffn_size : float32
        The true lengths, over which norms take their means.
    rms_norm_eps, query_scale : float32
        ``query_scale`` is 1 / sqrt(true head_dim).
    relu2, sub_norms : bool
        The family's gate (SiLU if not relu squared), and whether it has norms before output and down projections.
    head_kernel : int
        Number of the kernel that computes logits.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_size: np.float32
    attended_size: np.float32
    ffn_size: np.float32
    rms_norm_eps: np.float32
    query_scale: np.float32
    relu2: bool
    sub_norms: bool
    head_kernel: int


class RunState(NamedTuple):
    """Buffers of a step of up to ``chunk`` tokens on ``n_threads`` threads.

    Where an array has ``slots``, a slot is a token; but a single token has a slot for each thread, so that every thread
    computes what is small on a copy of its own instead of waiting for another.

    Attributes
    ----------
    counts : int64[n_kernels]
        How often each kernel has run.
    x : float32[slots, hidden]
        The residual stream.
    normed : float32[slots, hidden]
    scale, q_sum : float32[slots], int32[slots]
        Of the activations quantized last.
    q_hidden, q_attended, q_ffn : int8[slots, ...]
        Quantized inputs of the linear layers.
    qkv, attn_output, gate_up, down : int32[chunk, ...]
        Sums that the linear layers leave.
    query : float32[n]
        Turned queries, ``[n_kv_heads][slots][n_heads / n_kv_heads][head_dim]``, and room for some after the last.
    attended : float32[slots, attended]
    gated : float32[slots, ffn]
    key, value : float32[n_threads, head_dim]
        On their way to the cache.
    attention : Scratch
        Of the queries of a tile of tokens, or of a single token's.
    blocks : Results
        A single token's attention results, of each block of positions.
    gemm : GemmScratch
        Of the linear layers, for many tokens.
    screen : ScreenState
        Of the head, for the logits of a few tokens.
    """

    counts: npt.NDArray[np.int64]
    x: Floats
    normed: Floats
    scale: Floats
    q_sum: Sums
    q_hidden: Int8s
    q_attended: Int8s
    q_ffn: Int8s
    qkv: Sums
    attn_output: Sums
    gate_up: Sums
    down: Sums
    query: Floats
    attended: Floats
    gated: Floats
    key: Floats
    value: Floats
    attention: Scratch
    blocks: Results
    gemm: GemmScratch
    screen: ScreenState


class StepInput(NamedTuple):
    """What one call of the forward pass is to do: where its tokens stand, and what of them is wanted.

    The tokens may be of several sequences; those of one sequence are neighbours, in their order.

    Attributes
    ----------
    shape : Shape
    pages : int64[n_sequences, n_pages]
        Addresses of the keys and values of each sequence. A page holds 256 positions of every layer and head: one
        ``HeadBlock`` after the other, ``[n_layers][n_kv_heads]``.
    tokens, positions, sequences : int32[n_tokens]
        Each token's id, its position in its sequence, and that sequence's row in ``pages``.
    tiles : int32[n_tiles, 4]
        First token and number of tokens of runs that attention takes together: neighbours of one sequence, at most
        ``QUERY_TILE``; then the number of that sequence's first tile, and how many tiles it has.
    wanted : int32[n_logits]
        The tokens whose logits are asked for.
    head_way : int
        ``FULL_HEAD``, ``SCREENED_HEAD`` or ``APPROXIMATE_HEAD``.
    request : HeadRequest
        What a screened head must compute.
    logits : float32[n_logits, vocab_size]
        Of the wanted tokens, to be written; the screened head leaves what it computes in ``screen``, and this empty.
    """

    shape: Shape
    pages: npt.NDArray[np.int64]
    tokens: Sums
    positions: Sums
    sequences: Sums
    tiles: Sums
    wanted: Sums
    head_way: int
    request: HeadRequest
    logits: Floats


class Step(NamedTuple):
    """An order, and what every step of a model works with.

    Attributes
    ----------
    weights : Weights
    element : float32, uint16 or int8 [0]
        Its dtype is the number format of the cache's pages.
    state : RunState
    inputs : StepInput
    """

    weights: Weights
    element: npt.NDArray[Any]
    state: RunState
    inputs: StepInput
