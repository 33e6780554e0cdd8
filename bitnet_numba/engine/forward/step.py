"""The forward pass: one jitted call takes a chunk of tokens through the whole model, on every thread of the team.

Everything that is small is done once a token: for one token by every thread on its own copy, which is cheaper than
waiting; for many tokens by one thread each, and then the team meets. Matrices and attention are shared by tasks.
"""

import numpy as np
import numpy.typing as npt

from bitnet_numba.engine.forward.arrays import DOWN, GATE, OUTPUT, UP, CacheArrays, RunState, Shape, Weights
from bitnet_numba.engine.forward.attention import attention
from bitnet_numba.kernels.ffn import gated_relu2_worker, gated_silu_worker
from bitnet_numba.kernels.head import embedding_worker, head_worker
from bitnet_numba.kernels.jit import EMBEDDING, FFN_RELU2, FFN_SILU, QUANTIZE, RMS_NORM, jit, jit_inline
from bitnet_numba.kernels.norm import rms_norm_worker
from bitnet_numba.kernels.quantize import quantize_worker
from bitnet_numba.kernels.residual import add_scaled_worker
from bitnet_numba.kernels.ternary import gemm_worker, gemv_worker
from bitnet_numba.simd.team import Crew, barrier, meet_for, slots_end

Floats = npt.NDArray[np.float32]


@jit
def forward(
    crew: Crew,
    shape: Shape,
    weights: Weights,
    cache: CacheArrays,
    state: RunState,
    tokens: npt.NDArray[np.int32],
    position: int,
    logits: Floats,
) -> None:
    """Run ``tokens`` at ``position`` and after; write the logits of as many last tokens as ``logits`` has rows."""
    embed(crew, weights, state, tokens)
    n_tokens = tokens.size
    for layer in range(shape.n_layers):
        attention_block(crew, shape, weights, cache, state, layer, n_tokens, position)
        ffn_block(crew, shape, weights, state, layer, n_tokens)
    if logits.shape[0]:
        output(crew, shape, weights, state, n_tokens, logits)


@jit_inline
def embed(crew: Crew, weights: Weights, state: RunState, tokens: npt.NDArray[np.int32]) -> None:
    if crew.thread == 0:
        state.counts[EMBEDDING] += 1
    for slot in range(crew.thread, slots_end(crew, tokens.size), crew.n_threads):
        token = tokens[min(slot, tokens.size - 1)]
        embedding_worker(weights.embedding, weights.embedding_scales, token, state.x[slot])


@jit_inline
def attention_block(
    crew: Crew,
    shape: Shape,
    weights: Weights,
    cache: CacheArrays,
    state: RunState,
    layer: int,
    n_tokens: int,
    position: int,
) -> None:
    """x += output(norm(attention(qkv(norm(x)))))."""
    for slot in range(crew.thread, slots_end(crew, n_tokens), crew.n_threads):
        rms_norm_worker(
            state.x[slot], weights.attn_norm[layer], shape.rms_norm_eps, shape.hidden_size, state.normed[slot]
        )
        quantize(state, slot, state.normed[slot], state.q_hidden[slot])
    meet_for(crew, n_tokens)
    linear(crew, state, weights.qkv[layer], state.q_hidden, n_tokens, state.qkv)

    attention(crew, shape, weights, cache, state, layer, n_tokens, position)
    for slot in range(crew.thread, slots_end(crew, n_tokens), crew.n_threads):
        attended = state.attended[slot]
        if shape.sub_norms:
            rms_norm_worker(attended, weights.attn_sub_norm[layer], shape.rms_norm_eps, shape.attended_size, attended)
        quantize(state, slot, attended, state.q_attended[slot])
    meet_for(crew, n_tokens)
    linear(crew, state, weights.attn_output[layer], state.q_attended, n_tokens, state.attn_output)

    for slot in range(crew.thread, slots_end(crew, n_tokens), crew.n_threads):
        sums = state.attn_output[min(slot, n_tokens - 1)]
        add_scaled_worker(state.x[slot], sums, weights.scales[layer, OUTPUT] / state.scale[slot])
    if crew.thread == 0:
        state.counts[RMS_NORM] += 2 if shape.sub_norms else 1
        state.counts[QUANTIZE] += 2


@jit_inline
def ffn_block(crew: Crew, shape: Shape, weights: Weights, state: RunState, layer: int, n_tokens: int) -> None:
    """x += down(norm(act(gate(norm(x))) * up(norm(x))))."""
    for slot in range(crew.thread, slots_end(crew, n_tokens), crew.n_threads):
        rms_norm_worker(
            state.x[slot], weights.ffn_norm[layer], shape.rms_norm_eps, shape.hidden_size, state.normed[slot]
        )
        quantize(state, slot, state.normed[slot], state.q_hidden[slot])
    meet_for(crew, n_tokens)
    linear(crew, state, weights.gate_up[layer], state.q_hidden, n_tokens, state.gate_up)

    for slot in range(crew.thread, slots_end(crew, n_tokens), crew.n_threads):
        gate_factor = weights.scales[layer, GATE] / state.scale[slot]
        up_factor = weights.scales[layer, UP] / state.scale[slot]
        sums, gated = state.gate_up[min(slot, n_tokens - 1)], state.gated[slot]
        if shape.relu2:
            gated_relu2_worker(sums, gate_factor, up_factor, gated)
        else:
            gated_silu_worker(sums, gate_factor, up_factor, gated)
        if shape.sub_norms:
            rms_norm_worker(gated, weights.ffn_sub_norm[layer], shape.rms_norm_eps, shape.ffn_size, gated)
        quantize(state, slot, gated, state.q_ffn[slot])
    meet_for(crew, n_tokens)
    linear(crew, state, weights.down[layer], state.q_ffn, n_tokens, state.down)

    for slot in range(crew.thread, slots_end(crew, n_tokens), crew.n_threads):
        sums = state.down[min(slot, n_tokens - 1)]
        add_scaled_worker(state.x[slot], sums, weights.scales[layer, DOWN] / state.scale[slot])
    if crew.thread == 0:
        state.counts[FFN_RELU2 if shape.relu2 else FFN_SILU] += 1
        state.counts[RMS_NORM] += 2 if shape.sub_norms else 1
        state.counts[QUANTIZE] += 2


@jit_inline
def output(crew: Crew, shape: Shape, weights: Weights, state: RunState, n_tokens: int, logits: Floats) -> None:
    """Logits of the last tokens; their activations stay float32."""
    for slot in range(crew.thread, slots_end(crew, n_tokens), crew.n_threads):
        rms_norm_worker(state.x[slot], weights.output_norm, shape.rms_norm_eps, shape.hidden_size, state.normed[slot])
    if crew.thread == 0:
        state.counts[RMS_NORM] += 1
        state.counts[shape.head_kernel] += 1
    meet_for(crew, n_tokens)
    end = n_tokens if n_tokens > 1 else crew.thread + 1
    hidden = state.normed[end - logits.shape[0] : end]
    head_worker(crew, weights.head, weights.head_scales, hidden, logits)
    barrier(crew)


@jit_inline
def quantize(state: RunState, slot: int, x: Floats, out: npt.NDArray[np.int8]) -> None:
    state.scale[slot], state.q_sum[slot] = quantize_worker(x, out)


@jit_inline
def linear(
    crew: Crew,
    state: RunState,
    weights: npt.NDArray[np.uint8],
    q: npt.NDArray[np.int8],
    n_tokens: int,
    out: npt.NDArray[np.int32],
) -> None:
    """BitLinear without its scales: exact sums, which whoever reads them multiplies by what one unit stands for."""
    if n_tokens == 1:
        gemv_worker(crew, state.counts, weights, q[crew.thread], state.q_sum[crew.thread], out[0])
    else:
        gemm_worker(crew, state.counts, weights, q, state.q_sum[:n_tokens], out[:n_tokens])
    barrier(crew)
