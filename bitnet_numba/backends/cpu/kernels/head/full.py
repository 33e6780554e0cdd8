"""The embedding and the output head: one matrix, read by rows, in the number format of its file."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.checks import check_array, check_lanes, check_rank
from bitnet_numba.backends.cpu.kernels.jit import jit
from bitnet_numba.backends.cpu.simd.memory import broadcast_from, load_f32, prefetch, store_f32
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.simd.vector import add_f32, fma_f32, mul_f32, sum_f32, zero_f32
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier, claim

ROWS = 64  # rows a task: about 300 kB, so that claiming one costs nothing beside reading it
STEP = 2 * LANES  # elements a turn: two sums, whose order defines the logit
AHEAD = 1024  # elements of prefetch

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[Any]


def head_product(ctx: ThreadContext, matrix: Matrix, scales: Floats, hidden: Floats, out: Floats) -> None:
    """Write the logits ``matrix . hidden`` of each token to ``out``.

    Every thread of a thread pool calls it; the rows are shared among them.

    Parameters
    ----------
    ctx : ThreadContext
        This thread's place in the thread pool.
    matrix : float32, uint16 (float16 bits), int16 (bfloat16 bits) or int8 [vocab_size, hidden_size]
        ``hidden_size`` is a multiple of 32.
    scales : float32[vocab_size, groups]
        For int8: what one unit of each group of ``hidden_size // groups`` elements stands for; the group is a multiple
        of 16. For the others ``groups`` is 0.
    hidden : float32[n_tokens, hidden_size]
    out : float32[n_tokens, vocab_size]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_matrix(matrix, scales)
    vocab_size, hidden_size = matrix.shape
    check_rank("hidden", hidden, 2)
    check_array("hidden", hidden, np.float32, (hidden.shape[0], hidden_size))
    check_array("out", out, np.float32, (hidden.shape[0], vocab_size), written=True)
    _head(ctx, matrix, scales, hidden, out)


def embedding_row(matrix: Matrix, scales: Floats, token: int, out: Floats) -> None:
    """Write row ``token`` of an embedding to ``out``, as float32, exactly.

    Parameters
    ----------
    matrix, scales
        As for :func:`head_product`.
    token : int
        From 0 to ``vocab_size - 1``.
    out : float32[hidden_size]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_matrix(matrix, scales)
    check_array("out", out, np.float32, (matrix.shape[1],), written=True)
    if not 0 <= token < matrix.shape[0]:
        raise ValueError(f"token: expected 0 to {matrix.shape[0] - 1}, got {token}")
    embedding_worker(matrix, scales, token, out)


def check_matrix(matrix: Matrix, scales: Floats) -> None:
    """Raise ``ValueError`` unless a matrix and its scales have the form that :func:`head_product` takes."""
    check_rank("matrix", matrix, 2)
    check_rank("scales", scales, 2)
    vocab_size, hidden_size = matrix.shape
    check_lanes("matrix", hidden_size, STEP)
    if matrix.dtype not in (np.float32, np.uint16, np.int16, np.int8):
        raise ValueError(f"matrix: expected float32, float16, bfloat16 or int8 elements, got {matrix.dtype}")
    check_array("matrix", matrix, matrix.dtype, (vocab_size, hidden_size))
    check_array("scales", scales, np.float32, (vocab_size, scales.shape[1]))
    if (matrix.dtype == np.int8) != (scales.shape[1] > 0):
        raise ValueError("scales: an int8 matrix needs them, and no other has them")
    if scales.shape[1] and hidden_size % (scales.shape[1] * LANES):
        raise ValueError(f"scales: {scales.shape[1]} groups do not divide {hidden_size} into multiples of {LANES}")


@jit
def _head(ctx: ThreadContext, matrix: Matrix, scales: Floats, hidden: Floats, out: Floats) -> None:
    head_worker(ctx, matrix, scales, hidden, out)
    barrier(ctx)


@jit
def head_worker(ctx: ThreadContext, matrix: Matrix, scales: Floats, hidden: Floats, out: Floats) -> None:
    vocab_size, n_tokens = matrix.shape[0], hidden.shape[0]
    n_tasks = (vocab_size + ROWS - 1) // ROWS
    task = claim(ctx, n_tasks)
    while task >= 0:
        first, end = task * ROWS, min((task + 1) * ROWS, vocab_size)
        fours = n_tokens // 4 * 4 if scales.shape[1] == 0 else 0
        for token in range(0, fours, 4):  # the task's rows stay in the second cache meanwhile
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
def _four_products(values: Matrix, hidden: Floats, token: int, row: int, out: Floats) -> None:
    """Four tokens' :func:`row_product`, each element of the row being loaded and converted once for them."""
    flat, n = hidden.reshape(-1), hidden.shape[1]
    at_1, at_2, at_3, at_4 = token * n, (token + 1) * n, (token + 2) * n, (token + 3) * n
    a_1 = a_2 = a_3 = a_4 = b_1 = b_2 = b_3 = b_4 = zero_f32()
    for i in range(0, n, STEP):
        prefetch(values, i + AHEAD)
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
def row_product(row: Matrix, hidden: Floats) -> Any:
    """Return a logit; the order of the sums defines its bits."""
    a = b = zero_f32()
    for i in range(0, hidden.size, STEP):
        prefetch(row, i + AHEAD)
        a = fma_f32(load_f32(row, i), load_f32(hidden, i), a)
        b = fma_f32(load_f32(row, i + LANES), load_f32(hidden, i + LANES), b)
    return sum_f32(add_f32(a, b))


@jit
def _grouped_dot(row: Matrix, scales: Floats, hidden: Floats) -> Any:
    """As :func:`row_product`; int8 times scale is exact in float32, so equal weights give equal bits."""
    group = hidden.size // scales.size
    a = b = zero_f32()
    for i in range(0, hidden.size, STEP):
        prefetch(row, i + AHEAD)
        first = mul_f32(load_f32(row, i), broadcast_from(scales, i // group))
        second = mul_f32(load_f32(row, i + LANES), broadcast_from(scales, (i + LANES) // group))
        a = fma_f32(first, load_f32(hidden, i), a)
        b = fma_f32(second, load_f32(hidden, i + LANES), b)
    return sum_f32(add_f32(a, b))


@jit
def embedding_worker(matrix: Matrix, scales: Floats, token: int, out: Floats) -> None:
    row = matrix[token]
    for i in range(0, out.size, LANES):
        x = load_f32(row, i)
        if scales.shape[1]:
            group = out.size // scales.shape[1]
            x = mul_f32(x, broadcast_from(scales[token], i // group))
        store_f32(out, i, x)
