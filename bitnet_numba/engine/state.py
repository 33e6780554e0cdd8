"""The scratch memory of a step, allocated once."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.engine.layout import Layout, round_up
from bitnet_numba.kernels.attention import BLOCK, HEADER
from bitnet_numba.kernels.jit import KERNELS
from bitnet_numba.kernels.ternary import TOKENS

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]


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
    query : float32[slots, n_heads * head_dim]
        Turned queries.
    attended : float32[slots, attended]
    gated : float32[slots, ffn]
    key, value : float32[n_threads, head_dim]
        On their way to the cache.
    scores : float32[n_threads, 256]
    partials : float32[max(n_heads, n_threads), n_blocks, 16 + head_dim]
        Attention results of blocks of positions: a row a head for one token, a row a thread for many.
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
    scores: Floats
    partials: Floats


def allocate_state(layout: Layout, n_threads: int, chunk: int, max_context: int) -> RunState:
    """Allocate the buffers of a model's steps.

    Parameters
    ----------
    layout : Layout
    n_threads : int
    chunk : int
        The most tokens of one step.
    max_context : int
        The most positions that a token can look back on.
    """
    config = layout.config
    slots = round_up(max(chunk, n_threads), TOKENS)
    n_blocks = round_up(max_context, BLOCK) // BLOCK
    return RunState(
        counts=np.zeros(len(KERNELS), np.int64),
        x=np.zeros((slots, layout.hidden), np.float32),
        normed=np.zeros((slots, layout.hidden), np.float32),
        scale=np.ones(slots, np.float32),
        q_sum=np.zeros(slots, np.int32),
        q_hidden=np.zeros((slots, layout.hidden), np.int8),
        q_attended=np.zeros((slots, layout.attended), np.int8),
        q_ffn=np.zeros((slots, layout.ffn), np.int8),
        qkv=np.zeros((chunk, layout.qkv_rows), np.int32),
        attn_output=np.zeros((chunk, layout.hidden), np.int32),
        gate_up=np.zeros((chunk, 2 * layout.ffn), np.int32),
        down=np.zeros((chunk, layout.hidden), np.int32),
        query=np.zeros((slots, config.n_heads * layout.head_dim), np.float32),
        attended=np.zeros((slots, layout.attended), np.float32),
        gated=np.zeros((slots, layout.ffn), np.float32),
        key=np.zeros((n_threads, layout.head_dim), np.float32),
        value=np.zeros((n_threads, layout.head_dim), np.float32),
        scores=np.zeros((n_threads, BLOCK), np.float32),
        partials=np.zeros((max(config.n_heads, n_threads), n_blocks, HEADER + layout.head_dim), np.float32),
    )
