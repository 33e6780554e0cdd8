"""The forward pass: one jitted call takes a chunk of tokens through the whole model, on every thread of the thread pool.

Everything that is small is done once a token: for one token by every thread on its own copy, which is cheaper than
waiting; for many tokens by one thread each, and then the thread pool meets. Matrices and attention are shared by tasks.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.forward.arrays import (
    APPROXIMATE_HEAD,
    DOWN,
    FULL_HEAD,
    GATE,
    OUTPUT,
    SCREENED_HEAD,
    SCREENED_TOKENS,
    UP,
    RunState,
    Step,
    StepInput,
    Weights,
)
from bitnet_numba.backends.cpu.forward.attention import attention
from bitnet_numba.backends.cpu.kernels.ffn import gated_relu2_worker, gated_silu_worker
from bitnet_numba.backends.cpu.kernels.head.bounds import approximate_worker
from bitnet_numba.backends.cpu.kernels.head.full import embedding_worker, head_worker
from bitnet_numba.backends.cpu.kernels.head.int8_filter import screened_head_worker
from bitnet_numba.backends.cpu.kernels.jit import EMBEDDING, FFN_RELU2, FFN_SILU, QUANTIZE, RMS_NORM, jit, jit_inline
from bitnet_numba.backends.cpu.kernels.norm import rms_norm_worker
from bitnet_numba.backends.cpu.kernels.quantize import quantize_worker
from bitnet_numba.backends.cpu.kernels.residual import add_scaled_worker
from bitnet_numba.backends.cpu.kernels.ternary import gemm_worker, gemv_worker
from bitnet_numba.backends.cpu.simd.by_reference import by_reference
from bitnet_numba.backends.cpu.threads.command_buffer import CommandBuffer, begin, finish, next_input, wait_for_call
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier, meet_for, slots_end

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Int8s = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]


@jit
def forward(
    ctx: ThreadContext,
    buffer: CommandBuffer,
    weights: Weights,
    element: npt.NDArray[Any],
    state: RunState,
    inputs: StepInput,
) -> None:
    """Run a step, and then those that are called for; see ``PersistentWorkers``."""
    begin(buffer, inputs)
    n_calls = 1
    while True:
        run_step(ctx, by_reference(Step(weights, element, state, inputs)))
        finish(ctx, buffer, n_calls)
        if not wait_for_call(buffer, n_calls):
            return
        inputs = next_input(buffer, inputs)
        n_calls += 1


@jit_inline
def run_step(ctx: ThreadContext, step: Step) -> None:
    """Run the tokens; write the logits of those that are wanted."""
    embed(ctx, step)
    for layer in range(step.inputs.shape.n_layers):
        attention_block(ctx, step, layer)
        ffn_block(ctx, step, layer)
    if step.inputs.wanted.size:
        output(ctx, step)


@jit_inline
def embed(ctx: ThreadContext, step: Step) -> None:
    weights, state = step.weights, step.state
    if ctx.thread == 0:
        state.counts[EMBEDDING] += 1
    for slot in range(ctx.thread, slots_end(ctx, step.inputs.tokens.size), ctx.n_threads):
        token = step.inputs.tokens[min(slot, step.inputs.tokens.size - 1)]
        embedding_worker(weights.embedding, weights.embedding_scales, token, state.x[slot])


@jit_inline
def attention_block(ctx: ThreadContext, step: Step, layer: int) -> None:
    """x += output(norm(attention(qkv(norm(x)))))."""
    weights, state = step.weights, step.state
    for slot in range(ctx.thread, slots_end(ctx, step.inputs.tokens.size), ctx.n_threads):
        norm_hidden(step, slot, weights.attn_norm[layer], slot)
        quantize(state, slot, state.normed[slot], state.q_hidden[slot])
    meet_for(ctx, step.inputs.tokens.size)
    linear(ctx, step, weights.qkv[layer], state.q_hidden, state.qkv)

    attention(ctx, step, layer)
    for slot in range(ctx.thread, slots_end(ctx, step.inputs.tokens.size), ctx.n_threads):
        attended = state.attended[slot]
        if step.inputs.shape.sub_norms:
            norm, size = weights.attn_sub_norm[layer], step.inputs.shape.attended_size
            rms_norm_worker(attended, norm, step.inputs.shape.rms_norm_eps, size, attended)
        quantize(state, slot, attended, state.q_attended[slot])
    meet_for(ctx, step.inputs.tokens.size)
    linear(ctx, step, weights.attn_output[layer], state.q_attended, state.attn_output)

    add_residual(ctx, step, state.attn_output, weights.scales[layer, OUTPUT])
    if ctx.thread == 0:
        state.counts[RMS_NORM] += 2 if step.inputs.shape.sub_norms else 1
        state.counts[QUANTIZE] += 2


@jit_inline
def ffn_block(ctx: ThreadContext, step: Step, layer: int) -> None:
    """x += down(norm(act(gate(norm(x))) * up(norm(x))))."""
    weights, state = step.weights, step.state
    for slot in range(ctx.thread, slots_end(ctx, step.inputs.tokens.size), ctx.n_threads):
        norm_hidden(step, slot, weights.ffn_norm[layer], slot)
        quantize(state, slot, state.normed[slot], state.q_hidden[slot])
    meet_for(ctx, step.inputs.tokens.size)
    linear(ctx, step, weights.gate_up[layer], state.q_hidden, state.gate_up)

    for slot in range(ctx.thread, slots_end(ctx, step.inputs.tokens.size), ctx.n_threads):
        gated = state.gated[slot]
        gate(step, slot, layer, gated)
        if step.inputs.shape.sub_norms:
            norm, size = weights.ffn_sub_norm[layer], step.inputs.shape.ffn_size
            rms_norm_worker(gated, norm, step.inputs.shape.rms_norm_eps, size, gated)
        quantize(state, slot, gated, state.q_ffn[slot])
    meet_for(ctx, step.inputs.tokens.size)
    linear(ctx, step, weights.down[layer], state.q_ffn, state.down)

    add_residual(ctx, step, state.down, weights.scales[layer, DOWN])
    if ctx.thread == 0:
        state.counts[FFN_RELU2 if step.inputs.shape.relu2 else FFN_SILU] += 1
        state.counts[RMS_NORM] += 2 if step.inputs.shape.sub_norms else 1
        state.counts[QUANTIZE] += 2


@jit_inline
def output(ctx: ThreadContext, step: Step) -> None:
    """Logits of the wanted tokens; their activations stay float32."""
    weights, state, order, logits = step.weights, step.state, step.inputs, step.inputs.logits
    n_tokens, n_wanted = order.tokens.size, order.wanted.size
    meet_for(ctx, n_tokens)  # whoever finished a token need not be who goes on with it here
    for slot in range(ctx.thread, slots_end(ctx, n_wanted), ctx.n_threads):
        of_token = ctx.thread if n_tokens == 1 else order.wanted[min(slot, n_wanted - 1)]
        norm_hidden(step, of_token, weights.output_norm, slot)
    if ctx.thread == 0:
        state.counts[RMS_NORM] += 1
        state.counts[order.shape.head_kernel] += order.head_way == FULL_HEAD
    meet_for(ctx, n_wanted)
    hidden = state.normed[:n_wanted] if n_wanted > 1 else state.normed[ctx.thread : ctx.thread + 1]
    if order.head_way == SCREENED_HEAD:
        screened_head_worker(ctx, state.counts, weights.head, weights.head_screen, hidden, order.request, state.screen)
    elif order.head_way == APPROXIMATE_HEAD:
        for first in range(0, n_wanted, SCREENED_TOKENS):  # as many as there is scratch memory for
            some = slice(first, min(first + SCREENED_TOKENS, n_wanted))
            approximate_worker(ctx, state.counts, weights.head_screen, hidden[some], state.screen, logits[some])
            barrier(ctx)
    else:
        head_worker(ctx, weights.head, weights.head_scales, hidden, logits)
    barrier(ctx)


# ---- what the blocks are made of -------------------------------------------------------------------------------------
@jit_inline
def norm_hidden(step: Step, slot: int, weight: Floats, out_slot: int) -> None:
    shape, state = step.inputs.shape, step.state
    rms_norm_worker(state.x[slot], weight, shape.rms_norm_eps, shape.hidden_size, state.normed[out_slot])


@jit_inline
def quantize(state: RunState, slot: int, x: Floats, out: Int8s) -> None:
    state.scale[slot], state.q_sum[slot] = quantize_worker(x, out)


@jit_inline
def linear(ctx: ThreadContext, step: Step, weights: Bytes, q: Int8s, out: Sums) -> None:
    """BitLinear without its scales: exact sums, which whoever reads them multiplies by what one unit stands for."""
    state, n_tokens = step.state, step.inputs.tokens.size
    if n_tokens == 1:
        gemv_worker(ctx, state.counts, weights, q[ctx.thread], state.q_sum[ctx.thread], out[0])
    else:
        gemm_worker(ctx, state.counts, weights, q, state.q_sum[:n_tokens], out[:n_tokens], state.gemm)
    barrier(ctx)


@jit_inline
def gate(step: Step, slot: int, layer: int, gated: Floats) -> None:
    state = step.state
    sums = state.gate_up[min(slot, step.inputs.tokens.size - 1)]
    gate_factor = step.weights.scales[layer, GATE] / state.scale[slot]
    up_factor = step.weights.scales[layer, UP] / state.scale[slot]
    if step.inputs.shape.relu2:
        gated_relu2_worker(sums, gate_factor, up_factor, gated)
    else:
        gated_silu_worker(sums, gate_factor, up_factor, gated)


@jit_inline
def add_residual(ctx: ThreadContext, step: Step, sums: Sums, scale: np.float32) -> None:
    state = step.state
    for slot in range(ctx.thread, slots_end(ctx, step.inputs.tokens.size), ctx.n_threads):
        add_scaled_worker(state.x[slot], sums[min(slot, step.inputs.tokens.size - 1)], scale / state.scale[slot])
