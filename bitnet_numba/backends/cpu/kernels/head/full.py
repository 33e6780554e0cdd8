"""The full output head and the embedding: one matrix, read by rows, in the number format of its file."""

from typing import Any

from bitnet_numba.backends.cpu.array_types import Floats, Numbers
from bitnet_numba.backends.cpu.compiler.jit import jit, jit_separate
from bitnet_numba.backends.cpu.simd.memory import broadcast_from, load_f32, prefetch, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import add_f32, fma_f32, mul_f32, sum_f32, zero_f32
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, claim

HEAD_ROWS_PER_TASK = 64  # about 300 kB, so that claiming a task costs nothing beside reading it
ELEMENTS_PER_STEP = 2 * LANES  # of the two sums of a logit, whose order defines its bits
PREFETCH_ELEMENTS = 1024  # prefetch distance


@jit_separate
def head_product(ctx: ThreadContext, matrix: Numbers, scales: Floats, hidden: Floats, out: Floats) -> None:
    """Write the logits ``matrix . hidden`` of each token to ``out``, [n_tokens, vocab_size]; a barrier must follow.

    All threads call it and share the rows. ``matrix`` is [vocab_size, hidden_size]; ``hidden_size`` is a multiple of
    32. int8 has ``scales``, [vocab_size, groups], of groups of a multiple of 16 elements; for the others ``groups`` is
    0.
    """
    vocab_size, n_tokens = matrix.shape[0], hidden.shape[0]
    n_tasks = (vocab_size + HEAD_ROWS_PER_TASK - 1) // HEAD_ROWS_PER_TASK
    task = claim(ctx, n_tasks)
    while task >= 0:
        first = task * HEAD_ROWS_PER_TASK
        end = min(first + HEAD_ROWS_PER_TASK, vocab_size)
        fours = n_tokens // 4 * 4 if scales.shape[1] == 0 else 0
        for token in range(0, fours, 4):  # the task's rows stay in the L2 cache
            for row in range(first, end):
                _four_products(matrix[row], hidden, token, row, out)
        for token in range(fours, n_tokens):
            for row in range(first, end):
                if scales.shape[1]:
                    out[token, row] = _grouped_dot(matrix[row], scales[row], hidden[token])
                else:
                    out[token, row] = row_product(matrix[row], hidden[token])
        task = claim(ctx, n_tasks)


@jit
def _four_products(values: Numbers, hidden: Floats, token: int, row: int, out: Floats) -> None:
    """Write four tokens' logits as :func:`row_product`; each element of the row is loaded and converted once."""
    flat, n = hidden.reshape(-1), hidden.shape[1]
    at_1, at_2, at_3, at_4 = token * n, (token + 1) * n, (token + 2) * n, (token + 3) * n
    a_1 = a_2 = a_3 = a_4 = b_1 = b_2 = b_3 = b_4 = zero_f32()
    for i in range(0, n, ELEMENTS_PER_STEP):
        prefetch(values, i + PREFETCH_ELEMENTS)
        x, y, j = load_f32(values, i), load_f32(values, i + LANES), i + LANES
        a_1, b_1 = fma_f32(x, load_f32(flat, at_1 + i), a_1), fma_f32(y, load_f32(flat, at_1 + j), b_1)
        a_2, b_2 = fma_f32(x, load_f32(flat, at_2 + i), a_2), fma_f32(y, load_f32(flat, at_2 + j), b_2)
        a_3, b_3 = fma_f32(x, load_f32(flat, at_3 + i), a_3), fma_f32(y, load_f32(flat, at_3 + j), b_3)
        a_4, b_4 = fma_f32(x, load_f32(flat, at_4 + i), a_4), fma_f32(y, load_f32(flat, at_4 + j), b_4)
    out[token, row] = sum_f32(add_f32(a_1, b_1))
    out[token + 1, row] = sum_f32(add_f32(a_2, b_2))
    out[token + 2, row] = sum_f32(add_f32(a_3, b_3))
    out[token + 3, row] = sum_f32(add_f32(a_4, b_4))


@jit
def row_product(row: Numbers, hidden: Floats) -> Any:
    """Return a logit; the order of the sums defines its bits."""
    a = b = zero_f32()
    for i in range(0, hidden.size, ELEMENTS_PER_STEP):
        prefetch(row, i + PREFETCH_ELEMENTS)
        a = fma_f32(load_f32(row, i), load_f32(hidden, i), a)
        b = fma_f32(load_f32(row, i + LANES), load_f32(hidden, i + LANES), b)
    return sum_f32(add_f32(a, b))


@jit
def _grouped_dot(row: Numbers, scales: Floats, hidden: Floats) -> Any:
    """Return a logit as :func:`row_product`; int8 times scale is exact in float32, so equal weights give equal bits."""
    group = hidden.size // scales.size
    a = b = zero_f32()
    for i in range(0, hidden.size, ELEMENTS_PER_STEP):
        prefetch(row, i + PREFETCH_ELEMENTS)
        first = mul_f32(load_f32(row, i), broadcast_from(scales, i // group))
        second = mul_f32(load_f32(row, i + LANES), broadcast_from(scales, (i + LANES) // group))
        a = fma_f32(first, load_f32(hidden, i), a)
        b = fma_f32(second, load_f32(hidden, i + LANES), b)
    return sum_f32(add_f32(a, b))


@jit
def embedding_row(matrix: Numbers, scales: Floats, token: int, out: Floats) -> None:
    """Write row ``token`` to ``out``, float32[hidden_size], exactly; the matrix is as for :func:`head_product`."""
    row = matrix[token]
    for i in range(0, out.size, LANES):
        x = load_f32(row, i)
        if scales.shape[1]:
            group = out.size // scales.shape[1]
            x = mul_f32(x, broadcast_from(scales[token], i // group))
        store_f32(out, i, x)
