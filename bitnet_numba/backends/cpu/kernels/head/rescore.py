"""The logits that survive a screening, computed exactly, and what those weigh that do not."""

from typing import Any

import numpy as np
import numpy.typing as npt

import bitnet_numba.backends.cpu.simd.vector as v
from bitnet_numba.backends.cpu.kernels.head.bounds import ScreenState
from bitnet_numba.backends.cpu.kernels.head.full import ROWS as CHUNK
from bitnet_numba.backends.cpu.kernels.head.full import row_product
from bitnet_numba.backends.cpu.kernels.head.int8_copy import ROWS
from bitnet_numba.backends.cpu.kernels.jit import jit
from bitnet_numba.backends.cpu.kernels.softmax import exp_to_1
from bitnet_numba.backends.cpu.simd.memory import load_f32, prefetch
from bitnet_numba.backends.cpu.simd.types import LANES
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, claim

Matrix = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@jit
def compute_worker(ctx: ThreadContext, matrix: Matrix, hidden: Floats, coldness: Floats, state: ScreenState) -> None:
    """Compute the logits that survive; weigh the others of the tokens whose ``coldness`` is not negative."""
    n_tokens = hidden.shape[0]
    own = ctx.thread if n_tokens == 1 else 0  # the first token's slot
    n_computing = n_weighing = 0
    for token in range(n_tokens):
        n_computing = max(n_computing, -(-state.rescored[own + token] // CHUNK) * n_tokens)
        if coldness[token] >= 0:
            n_weighing = state.left_out.shape[1]
    task = claim(ctx, n_computing + n_weighing)
    while task >= 0:
        if task < n_computing:  # tokens' rows from about the same place one after the other: some are the same
            first, token = task // n_tokens * CHUNK, task % n_tokens
            known = state.known[own + token, first : min(first + CHUNK, state.rescored[own + token])]
            _rescore(matrix, hidden[token], known, state.logits[token, first:])
        else:
            _weigh_chunk(task - n_computing, own, coldness, state)
        task = claim(ctx, n_computing + n_weighing)


@jit
def _rescore(matrix: Matrix, hidden: Floats, known: npt.NDArray[np.int32], out: Floats) -> None:
    """Compute the logits of some rows as the full pass does."""
    for place in range(known.size):
        row, next_row = matrix[known[place]], matrix[known[min(place + 1, known.size - 1)]]
        for i in range(0, hidden.size, LANES):
            prefetch(next_row, i)
        out[place] = row_product(row, hidden)


@jit
def _weigh_chunk(chunk: int, own: int, coldness: Floats, state: ScreenState) -> None:
    """Note what the logits of a chunk of rows weigh that do not survive."""
    first, end = chunk * CHUNK, min((chunk + 1) * CHUNK, state.known.shape[1])
    for token in range(coldness.size):
        weight = _weight(state.upper[token], state.thresholds[own + token], coldness[token], first, end)
        state.left_out[token, chunk] = weight


@jit
def _weight(upper: Floats, threshold: Any, coldness: Any, first: int, end: int) -> Any:
    """Return what the logits weigh at most that do not survive."""
    total = v.zero_f32()
    if coldness < 0:
        return v.sum_f32(total)
    for start in range(first, end, ROWS):
        beyond = v.sub_f32(load_f32(upper, start), v.broadcast_f32(threshold))
        weight = exp_to_1(v.mul_f32(beyond, v.broadcast_f32(coldness)))
        total = v.add_f32(total, v.where_greater(v.zero_f32(), beyond, weight, v.zero_f32()))
    return v.sum_f32(total)
