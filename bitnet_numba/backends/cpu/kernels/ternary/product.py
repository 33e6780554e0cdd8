"""The ternary product as callers see it: shapes checked, one token or many."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.checks import check_array, check_lanes, check_rank
from bitnet_numba.backends.cpu.kernels.jit import jit, new_counts
from bitnet_numba.backends.cpu.kernels.ternary.gemm import GemmScratch, gemm_scratch, gemm_worker
from bitnet_numba.backends.cpu.kernels.ternary.gemv import gemv_worker
from bitnet_numba.backends.cpu.kernels.ternary.layout import MAX_COLUMNS, ROWS, TOKENS, Activations, Bytes, Sums
from bitnet_numba.backends.cpu.packed_sizes import RUN, packed_size
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier


def ternary_product(
    ctx: ThreadContext, weights: Bytes, q: Activations, q_sum: Sums, out: Sums, scratch: GemmScratch
) -> None:
    """Write the products of a ternary matrix with each token's activations to ``out``.

    Every thread of a thread pool calls it; the rows are shared among them.

    Parameters
    ----------
    ctx : ThreadContext
        This thread's place in the thread pool.
    weights : uint8[packed_size(rows, columns)]
        The matrix, from ``pack``.
    q : int8[slots, columns]
        Activations, a token each row; ``slots`` is a multiple of 8 where there is more than one token. There are at
        most 2**19 columns.
    q_sum : int32[n_tokens]
        The sum of each token's activations.
    out : int32[n_tokens, rows]
    scratch : GemmScratch
        The thread pool's, from ``gemm_scratch``, for at least as many slots and columns.

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_rank("out", out, 2)
    check_rank("q", q, 2)
    n_tokens, rows = out.shape
    slots, columns = q.shape
    check_lanes("rows", rows, 2 * ROWS)
    check_lanes("columns", columns, RUN)
    if columns > MAX_COLUMNS:
        raise ValueError(f"columns: expected at most {MAX_COLUMNS}, got {columns}")
    check_array("weights", weights, np.uint8, (packed_size(rows, columns),))
    check_array("q", q, np.int8, (slots, columns))
    check_array("q_sum", q_sum, np.int32, (n_tokens,))
    check_array("out", out, np.int32, (n_tokens, rows), written=True)
    if slots < n_tokens or (n_tokens > 1 and slots % TOKENS):
        raise ValueError(f"q: {n_tokens} tokens need a multiple of {TOKENS} rows, got {slots}")
    _check_scratch(scratch, gemm_scratch(ctx.n_threads, slots, columns))
    _product(ctx, new_counts(), weights, q, q_sum, out, scratch)


def _check_scratch(scratch: GemmScratch, needed: GemmScratch) -> None:
    got: list[npt.NDArray[Any]] = [scratch.unpacked, *scratch.tiles]
    wanted: list[npt.NDArray[Any]] = [needed.unpacked, *needed.tiles]
    for array, enough in zip(got, wanted, strict=True):
        fits = array.ndim == enough.ndim and np.all(np.array(array.shape) >= enough.shape)
        if not fits or array.dtype != enough.dtype or not array.flags.c_contiguous or not array.flags.writeable:
            raise ValueError(f"scratch: expected {enough.dtype}{enough.shape}, got {array.dtype}{array.shape}")


@jit
def _product(
    ctx: ThreadContext,
    counts: npt.NDArray[np.int64],
    weights: Bytes,
    q: Activations,
    q_sum: Sums,
    out: Sums,
    scratch: GemmScratch,
) -> None:
    if out.shape[0] == 1:
        gemv_worker(ctx, counts, weights, q[0], q_sum[0], out[0])
    else:
        gemm_worker(ctx, counts, weights, q, q_sum, out, scratch)
    barrier(ctx)
