"""The forward pass: one jitted call takes a step's tokens through the whole model, on every thread of the pool.

Matrices and attention are shared among the threads by tasks. What is small is done once a slot (see ``RunState``): for
one token by every thread on its own copy, for many tokens by one thread each, after which the threads meet.
"""

import numpy as np

from bitnet_numba.backends.cpu.array_types import Bytes, Floats, Int8s, Int32s, Numbers
from bitnet_numba.backends.cpu.compiler.by_reference import by_reference
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_inline, jit_separate
from bitnet_numba.backends.cpu.forward.arrays import (
    CANDIDATE_HEAD,
    DOWN,
    GATE,
    OUTPUT,
    UP,
    RunState,
    Step,
    StepInput,
    Weights,
)
from bitnet_numba.backends.cpu.forward.attention import attention
from bitnet_numba.backends.cpu.forward.faults import (
    ATTENTION_INPUT,
    ATTENTION_OUTPUT,
    FFN_GATED,
    FFN_INPUT,
    note_fault,
)
from bitnet_numba.backends.cpu.kernels.ffn import gated_relu2, gated_silu
from bitnet_numba.backends.cpu.kernels.head.full import embedding_row, head_product
from bitnet_numba.backends.cpu.kernels.head.int8_filter import candidate_logits
from bitnet_numba.backends.cpu.kernels.norm import rms_norm
from bitnet_numba.backends.cpu.kernels.quantize import quantize_absmax
from bitnet_numba.backends.cpu.kernels.registry import Kernel
from bitnet_numba.backends.cpu.kernels.residual import add_scaled
from bitnet_numba.backends.cpu.kernels.ternary import ternary_gemm, ternary_gemv
from bitnet_numba.backends.cpu.threads.command_buffer import CommandBuffer, begin, finish, next_input, wait_for_call
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier, barrier_if_many, slots_end


@jit
def forward(
    ctx: ThreadContext,
    buffer: CommandBuffer,
    weights: Weights,
    element: Numbers,
    state: RunState,
    inputs: StepInput,
) -> None:
    """Run a step, then each further one that arrives in the command buffer; see ``PersistentWorkers``."""
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
    """Run the tokens, and write the logits of those that are wanted."""
    embed(ctx, step)
    for layer in range(step.inputs.shape.n_layers):
        attention_block(ctx, step, layer)
        ffn_block(ctx, step, layer)
    if step.inputs.wanted.size:
        output(ctx, step)


@jit_separate
def embed(ctx: ThreadContext, step: Step) -> None:
    """x = embedding[token]."""
    weights, state, tokens = step.weights, step.state, step.inputs.tokens
    for slot in slots(ctx, tokens.size):
        token = tokens[min(slot, tokens.size - 1)]
        embedding_row(weights.embedding, weights.embedding_scales, token, state.x[slot])
    if ctx.thread == 0:
        state.counts[Kernel.EMBEDDING] += 1


@jit_separate
def attention_block(ctx: ThreadContext, step: Step, layer: int) -> None:
    """x += output(norm(attention(qkv(norm(x)))))."""
    weights, state, shape = step.weights, step.state, step.inputs.shape
    for slot in slots(ctx, step.inputs.tokens.size):
        rms_norm(state.x[slot], weights.attn_norm[layer], shape.rms_norm_eps, shape.hidden_size, state.normed[slot])
        quantize(ctx, state, slot, state.normed[slot], state.q_hidden[slot], layer, ATTENTION_INPUT)
    linear(ctx, step, weights.qkv[layer], state.q_hidden, state.qkv)

    attention(ctx, step, layer)
    for slot in slots(ctx, step.inputs.tokens.size):
        sub_norm(step, weights.attn_sub_norm, layer, shape.attn_size, state.attn[slot])
        quantize(ctx, state, slot, state.attn[slot], state.q_attn[slot], layer, ATTENTION_OUTPUT)
    linear(ctx, step, weights.attn_output[layer], state.q_attn, state.attn_output)

    add_residual(ctx, step, state.attn_output, weights.scales[layer, OUTPUT])
    count_block(ctx, step)


@jit_separate
def ffn_block(ctx: ThreadContext, step: Step, layer: int) -> None:
    """x += down(norm(act(gate(norm(x))) * up(norm(x))))."""
    weights, state, shape = step.weights, step.state, step.inputs.shape
    for slot in slots(ctx, step.inputs.tokens.size):
        rms_norm(state.x[slot], weights.ffn_norm[layer], shape.rms_norm_eps, shape.hidden_size, state.normed[slot])
        quantize(ctx, state, slot, state.normed[slot], state.q_hidden[slot], layer, FFN_INPUT)
    linear(ctx, step, weights.gate_up[layer], state.q_hidden, state.gate_up)

    for slot in slots(ctx, step.inputs.tokens.size):
        gate(step, layer, slot, state.gated[slot])
        sub_norm(step, weights.ffn_sub_norm, layer, shape.ffn_size, state.gated[slot])
        quantize(ctx, state, slot, state.gated[slot], state.q_ffn[slot], layer, FFN_GATED)
    linear(ctx, step, weights.down[layer], state.q_ffn, state.down)

    add_residual(ctx, step, state.down, weights.scales[layer, DOWN])
    count_block(ctx, step)
    if ctx.thread == 0:
        state.counts[Kernel.FFN_RELU2 if shape.relu2 else Kernel.FFN_SILU] += 1


@jit_separate
def output(ctx: ThreadContext, step: Step) -> None:
    """logits = head(norm(x)) of the wanted tokens; activations stay float32."""
    weights, state, inputs, shape = step.weights, step.state, step.inputs, step.inputs.shape
    n_tokens, n_wanted = inputs.tokens.size, inputs.wanted.size
    barrier_if_many(ctx, n_tokens)  # a token's slot and its row of logits may be different threads'
    for slot in slots(ctx, n_wanted):
        token = ctx.thread if n_tokens == 1 else inputs.wanted[min(slot, n_wanted - 1)]
        rms_norm(state.x[token], weights.output_norm, shape.rms_norm_eps, shape.hidden_size, state.normed[slot])
    barrier_if_many(ctx, n_wanted)
    hidden = state.normed[:n_wanted] if n_wanted > 1 else state.normed[ctx.thread : ctx.thread + 1]
    if inputs.head_mode == CANDIDATE_HEAD:
        head_filter = state.head_filter
        candidate_logits(ctx, state.counts, weights.head, weights.head_int8, hidden, inputs.queries, head_filter)
    else:
        head_product(ctx, weights.head, weights.head_scales, hidden, inputs.logits)
    barrier(ctx)
    if ctx.thread == 0:
        state.counts[Kernel.RMS_NORM] += 1
        state.counts[shape.head_kernel] += inputs.head_mode != CANDIDATE_HEAD


# ---- parts of the blocks ---------------------------------------------------------------------------------------------
@jit_inline
def slots(ctx: ThreadContext, n_tokens: int) -> range:
    """Return the slots that this thread fills."""
    return range(ctx.thread, slots_end(ctx, n_tokens), ctx.n_threads)


@jit_inline
def sub_norm(step: Step, weight: Floats, layer: int, n: np.float32, x: Floats) -> None:
    """Normalize ``x`` in place, in families with norms before output and down projections."""
    if step.inputs.shape.sub_norms:
        rms_norm(x, weight[layer], step.inputs.shape.rms_norm_eps, n, x)


@jit_inline
def quantize(ctx: ThreadContext, state: RunState, slot: int, x: Floats, out: Int8s, layer: int, place: int) -> None:
    """Quantize a slot's activations, and note if they are infinite or NaN."""
    state.scale[slot], state.q_sum[slot] = quantize_absmax(x, out)
    note_fault(ctx, state.faults, layer, place, state.scale[slot] > 0)


@jit_inline
def linear(ctx: ThreadContext, step: Step, weights: Bytes, q: Int8s, out: Int32s) -> None:
    """BitLinear up to its int32 accumulators, whose readers multiply them by the scales; a barrier before and after."""
    state, n_tokens = step.state, step.inputs.tokens.size
    barrier_if_many(ctx, n_tokens)
    if n_tokens == 1:
        ternary_gemv(ctx, state.counts, weights, q[ctx.thread], state.q_sum[ctx.thread], out[0])
    else:
        ternary_gemm(ctx, state.counts, weights, q, state.q_sum[:n_tokens], state.gemm, out[:n_tokens])
    barrier(ctx)


@jit_inline
def gate(step: Step, layer: int, slot: int, out: Floats) -> None:
    """act(gate) * up of one slot."""
    state, scales = step.state, step.weights.scales
    acc = state.gate_up[min(slot, step.inputs.tokens.size - 1)]
    gate_scale, up_scale = scales[layer, GATE] / state.scale[slot], scales[layer, UP] / state.scale[slot]
    if step.inputs.shape.relu2:
        gated_relu2(acc, gate_scale, up_scale, out)
    else:
        gated_silu(acc, gate_scale, up_scale, out)


@jit_inline
def add_residual(ctx: ThreadContext, step: Step, acc: Int32s, scale: np.float32) -> None:
    state, n_tokens = step.state, step.inputs.tokens.size
    for slot in slots(ctx, n_tokens):
        add_scaled(acc[min(slot, n_tokens - 1)], scale / state.scale[slot], state.x[slot])


@jit_inline
def count_block(ctx: ThreadContext, step: Step) -> None:
    """Count a block's norms and quantizations."""
    if ctx.thread == 0:
        step.state.counts[Kernel.RMS_NORM] += 2 if step.inputs.shape.sub_norms else 1
        step.state.counts[Kernel.QUANTIZE_ABSMAX] += 2
