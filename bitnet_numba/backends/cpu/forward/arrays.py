"""The arguments of the forward pass: model sizes, weights, scratch memory and step input, as tuples of arrays."""

from typing import NamedTuple

import numpy as np

from bitnet_numba.backends.cpu.array_types import Bytes, Floats, Int8s, Int32s, Int64s, Numbers, Words
from bitnet_numba.backends.cpu.kernels.attention import Results, Scratch
from bitnet_numba.backends.cpu.kernels.head.bounds import FilterState
from bitnet_numba.backends.cpu.kernels.head.int8_filter import CandidateQueries
from bitnet_numba.backends.cpu.kernels.ternary import GemmScratch

FULL_HEAD, CANDIDATE_HEAD = range(2)
"""Head modes: compute all logits, or only those that a query needs."""

Q, K, V, OUTPUT, GATE, UP, DOWN = range(7)
"""Columns of ``Weights.scales``."""

MAX_CANDIDATE_TOKENS = 16  # of one step with the candidate head; for more, one pass of the full head is faster
QUERY_TILE = 16  # tokens whose queries share each tile of keys and values that is converted to float32


class Weights(NamedTuple):
    """Read-only arrays, padded as ``PaddedSizes`` says."""

    qkv: Bytes  # [n_layers, packed_size(qkv_rows, hidden)]: query, key and value projections, one below the other
    attn_output: Bytes  # [n_layers, packed_size(hidden, attn)]: the output projection
    gate_up: Bytes  # [n_layers, packed_size(2 * ffn, hidden)]: gate projection, then up projection
    down: Bytes  # [n_layers, packed_size(hidden, ffn)]
    scales: Floats  # [n_layers, 7]: scale of each matrix, columns Q to DOWN
    attn_norm: Floats  # [n_layers, hidden]
    ffn_norm: Floats  # [n_layers, hidden]
    attn_sub_norm: Floats  # [n_layers, attn]; no layers where the family has no sub-norms
    ffn_sub_norm: Floats  # [n_layers, ffn]; likewise
    output_norm: Floats  # [hidden]
    embedding: Numbers  # [vocab_size, hidden]: with its scales a bitnet_numba.model.source.Matrix
    embedding_scales: Floats
    head: Numbers  # the embedding's arrays where the head is tied to it
    head_scales: Floats
    head_int8: Words  # [n_blocks, 4 + hidden // 4, 16]: the head's int8 copy, or no blocks
    rope: Floats  # [max_context, head_dim]: cosines, then sines of each position


class Shape(NamedTuple):
    """A model's sizes and flags as the step uses them; padded lengths are those of the arrays."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int  # padded
    hidden_size: np.float32  # true length, over which norms take their mean
    attn_size: np.float32  # likewise
    ffn_size: np.float32  # likewise
    rms_norm_eps: np.float32
    query_scale: np.float32  # 1 / sqrt(true head_dim)
    relu2: bool  # the activation is squared ReLU, not SiLU
    sub_norms: bool  # norms precede output and down projections
    head_kernel: int  # ``Kernel`` of the full head


class RunState(NamedTuple):
    """Scratch memory of a step of up to ``chunk`` tokens on ``n_threads`` threads.

    A slot is the index of a token in a buffer. A step of a single token uses a slot for each thread: every thread
    computes what is small on its own copy, which is faster than waiting for another.
    """

    counts: Int64s  # [n_kernels]: how often each kernel has run
    faults: Int32s  # [n_threads]: 0, or where a number was first infinite or NaN in this step; see ``faults.py``
    x: Floats  # [slots, hidden]: the residual stream
    normed: Floats  # [slots, hidden]
    scale: Floats  # [slots]: of the activations quantized last
    q_sum: Int32s  # [slots]: their sum
    q_hidden: Int8s  # [slots, hidden]: quantized inputs of the linear layers, as are q_attn and q_ffn
    q_attn: Int8s  # [slots, attn]
    q_ffn: Int8s  # [slots, ffn]
    qkv: Int32s  # [chunk, qkv_rows]: accumulators of the linear layers, as are the next three
    attn_output: Int32s  # [chunk, hidden]
    gate_up: Int32s  # [chunk, 2 * ffn]
    down: Int32s  # [chunk, hidden]
    query: Floats  # rotated, [n_kv_heads][slots][n_heads / n_kv_heads][head_dim]; then padding for a register tile
    attn: Floats  # [slots, attn]: attention outputs of all heads
    gated: Floats  # [slots, ffn]
    key: Floats  # [n_threads, head_dim]: on its way to the cache
    value: Floats  # likewise
    attention: Scratch  # for the queries of a tile of tokens, or of a single token
    blocks: Results  # a single token's attention results, for each block of positions
    gemm: GemmScratch
    head_filter: FilterState  # for the logits of up to MAX_CANDIDATE_TOKENS


class StepInput(NamedTuple):
    """Input of one forward pass: its tokens, their positions and KV cache pages, and which logits to return.

    The tokens may be of several sequences; those of one sequence are neighbours, in their order. A page holds 256
    positions of every layer and head: one ``HeadBlock`` after the other, ``[n_layers][n_kv_heads]``. A tile is at most
    ``QUERY_TILE`` neighbouring tokens of one sequence, whose queries attend together.
    """

    shape: Shape
    pages: Int64s  # [n_sequences, n_pages]: addresses of each sequence's KV cache pages
    tokens: Int32s  # [n_tokens]: token ids
    positions: Int32s  # [n_tokens]: position in the sequence
    sequences: Int32s  # [n_tokens]: the sequence's row in pages
    tiles: Int32s  # [n_tiles, 4]: first token, number of tokens; the sequence's first tile, and its number of tiles
    wanted: Int32s  # [n_logits]: the tokens whose logits are returned
    head_mode: int  # FULL_HEAD or CANDIDATE_HEAD
    queries: CandidateQueries  # for CANDIDATE_HEAD
    logits: Floats  # [n_logits, vocab_size] from FULL_HEAD; empty for CANDIDATE_HEAD, which writes to head_filter


class Step(NamedTuple):
    """All arguments of one step."""

    weights: Weights
    element: Numbers  # [0]: its dtype is the number format of the KV cache
    state: RunState
    inputs: StepInput
