"""The arguments of the forward pass: model sizes, weights, scratch memory and step input, as tuples of arrays."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.attention import Results, Scratch
from bitnet_numba.backends.cpu.kernels.head.bounds import FilterState
from bitnet_numba.backends.cpu.kernels.head.int8_filter import CandidateQueries
from bitnet_numba.backends.cpu.kernels.ternary import GemmScratch

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]

FULL_HEAD, CANDIDATE_HEAD = range(2)
"""Head modes: compute all logits, or only those that a query needs."""

Q, K, V, OUTPUT, GATE, UP, DOWN = range(7)
"""Columns of ``Weights.scales``."""

MAX_CANDIDATE_TOKENS = 16  # of one step with the candidate head; for more, one pass of the full head is faster
QUERY_TILE = 16  # tokens whose queries share each tile of keys and values that is converted to float32


class Weights(NamedTuple):
    """Read-only arrays, padded as ``Layout`` says.

    Attributes
    ----------
    qkv : uint8[n_layers, packed_size(qkv_rows, hidden)]
        Query, key and value projections, one below the other, from ``pack``.
    attn_output : uint8[n_layers, packed_size(hidden, attn)]
        The output projection.
    gate_up : uint8[n_layers, packed_size(2 * ffn, hidden)]
        Gate projection, then up projection.
    down : uint8[n_layers, packed_size(hidden, ffn)]
    scales : float32[n_layers, 7]
        Scale of each matrix; columns ``Q`` to ``DOWN``.
    attn_norm, ffn_norm : float32[n_layers, hidden]
    attn_sub_norm : float32[n_layers, attn]
        No layers where the family has no sub-norms.
    ffn_sub_norm : float32[n_layers, ffn]
        Likewise.
    output_norm : float32[hidden]
    embedding, embedding_scales : see :class:`bitnet_numba.model.source.Matrix`
        ``[vocab_size, hidden]``.
    head, head_scales
        The same arrays as the embedding where the head is tied to it.
    head_int8 : uint32[n_blocks, 4 + hidden // 4, 16]
        The head's int8 copy, from ``quantize_rows``; no blocks where there is none.
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
    head_int8: npt.NDArray[np.uint32]
    rope: Floats


class Shape(NamedTuple):
    """A model's sizes and flags as the step uses them; padded lengths are those of the arrays.

    Attributes
    ----------
    n_layers, n_heads, n_kv_heads, head_dim : int
        ``head_dim`` is padded.
    hidden_size, attn_size, ffn_size : float32
        The true lengths, over which norms take their means.
    rms_norm_eps, query_scale : float32
        ``query_scale`` is 1 / sqrt(true head_dim).
    relu2, sub_norms : bool
        Whether the activation is squared ReLU, not SiLU, and whether norms precede output and down projections.
    head_kernel : int
        ``Kernel`` of the full head.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_size: np.float32
    attn_size: np.float32
    ffn_size: np.float32
    rms_norm_eps: np.float32
    query_scale: np.float32
    relu2: bool
    sub_norms: bool
    head_kernel: int


class RunState(NamedTuple):
    """Scratch memory of a step of up to ``chunk`` tokens on ``n_threads`` threads.

    A slot is the index of a token in a buffer. A step of a single token uses a slot for each thread: every thread
    computes what is small on its own copy, which is faster than waiting for another.

    Attributes
    ----------
    counts : int64[n_kernels]
        How often each kernel has run.
    x : float32[slots, hidden]
        The residual stream.
    normed : float32[slots, hidden]
    scale, q_sum : float32[slots], int32[slots]
        Of the activations quantized last.
    q_hidden, q_attn, q_ffn : int8[slots, ...]
        Quantized inputs of the linear layers.
    qkv, attn_output, gate_up, down : int32[chunk, ...]
        Accumulators of the linear layers.
    query : float32[n]
        Rotated queries, ``[n_kv_heads][slots][n_heads / n_kv_heads][head_dim]``, padded for a register tile after the
        last.
    attn : float32[slots, attn]
        Attention outputs of all heads.
    gated : float32[slots, ffn]
    key, value : float32[n_threads, head_dim]
        On their way to the cache.
    attention : Scratch
        For the queries of a tile of tokens, or of a single token.
    blocks : Results
        A single token's attention results, for each block of positions.
    gemm : GemmScratch
    head_filter : FilterState
        For the logits of up to ``MAX_CANDIDATE_TOKENS``.
    """

    counts: npt.NDArray[np.int64]
    x: Floats
    normed: Floats
    scale: Floats
    q_sum: Int32s
    q_hidden: Int8s
    q_attn: Int8s
    q_ffn: Int8s
    qkv: Int32s
    attn_output: Int32s
    gate_up: Int32s
    down: Int32s
    query: Floats
    attn: Floats
    gated: Floats
    key: Floats
    value: Floats
    attention: Scratch
    blocks: Results
    gemm: GemmScratch
    head_filter: FilterState


class StepInput(NamedTuple):
    """Input of one forward pass: its tokens, their positions and KV cache pages, and which logits to return.

    The tokens may be of several sequences; those of one sequence are neighbours, in their order.

    Attributes
    ----------
    shape : Shape
    pages : int64[n_sequences, n_pages]
        Addresses of the KV cache pages of each sequence. A page holds 256 positions of every layer and head: one
        ``HeadBlock`` after the other, ``[n_layers][n_kv_heads]``.
    tokens, positions, sequences : int32[n_tokens]
        Each token's id, its position in its sequence, and that sequence's row in ``pages``.
    tiles : int32[n_tiles, 4]
        Neighbouring tokens of one sequence, at most ``QUERY_TILE``, whose queries attend together: the first token,
        the number of tokens, the index of that sequence's first tile, and its number of tiles.
    wanted : int32[n_logits]
        The tokens whose logits are returned.
    head_mode : int
        ``FULL_HEAD`` or ``CANDIDATE_HEAD``.
    queries : CandidateQueries
        For ``CANDIDATE_HEAD``.
    logits : float32[n_logits, vocab_size]
        Output of ``FULL_HEAD``; empty for ``CANDIDATE_HEAD``, whose output is in ``RunState.head_filter``.
    """

    shape: Shape
    pages: npt.NDArray[np.int64]
    tokens: Int32s
    positions: Int32s
    sequences: Int32s
    tiles: Int32s
    wanted: Int32s
    head_mode: int
    queries: CandidateQueries
    logits: Floats


class Step(NamedTuple):
    """All arguments of one step.

    Attributes
    ----------
    weights : Weights
    element : float32, uint16 or int8 [0]
        Its dtype is the number format of the KV cache.
    state : RunState
    inputs : StepInput
    """

    weights: Weights
    element: npt.NDArray[Any]
    state: RunState
    inputs: StepInput
