"""Two-bit codes to numbers by table: a byte finds its four values at once."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.checks import check_array, check_lanes
from bitnet_numba.backends.cpu.kernels.jit import jit
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, barrier, claim

RUN = 128  # weights that share 32 bytes: byte j holds weights j, j + 32, j + 64 and j + 96, the first in its top bits
RUN_BYTES = RUN // 4
RUNS_A_TASK = 256


def value_table(dtype: npt.DTypeLike, scale: float = 1.0) -> npt.NDArray[Any]:
    """Return the four values of every byte.

    Parameters
    ----------
    dtype : dtype
        ``int8`` for the weights themselves, ``float32`` for the weights times ``scale``.
    scale : float
        What one unit stands for.

    Returns
    -------
    dtype[256, 4]
        Code 0 is -1, 1 is 0, 2 is +1; 3 never occurs in a checked file.

    Raises
    ------
    ValueError
        If int8 values are asked for with a scale.
    """
    if np.dtype(dtype) == np.int8 and scale != 1:
        raise ValueError(f"scale: expected 1 for int8, got {scale}")
    codes = np.arange(256)[:, None] >> np.array([6, 4, 2, 0]) & 3
    return np.asarray((codes - 1) * np.float32(scale), dtype)


def unpack_lut(
    ctx: ThreadContext, packed: npt.NDArray[np.uint8], table: npt.NDArray[Any], out: npt.NDArray[Any]
) -> None:
    """Write the value of every two-bit code to ``out``, in the order of the weights.

    Every thread of a thread pool calls it; the runs are shared among them.

    Parameters
    ----------
    ctx : ThreadContext
        This thread's place in the thread pool.
    packed : uint8[n // 4]
        I2_S codes without their tail; ``n`` is a multiple of 128.
    table : int8[256, 4] or float32[256, 4]
        From :func:`value_table`.
    out : as table [n]

    Raises
    ------
    ValueError
        If shapes, dtypes or layouts differ from the above.
    """
    check_lanes("packed", packed.size, RUN_BYTES)
    check_array("packed", packed, np.uint8, (packed.size,))
    if table.dtype not in (np.int8, np.float32):
        raise ValueError(f"table: expected int8 or float32, got {table.dtype}")
    check_array("table", table, table.dtype, (256, 4))
    check_array("out", out, table.dtype, (4 * packed.size,), written=True)
    unpack_worker(ctx, packed, table, out)


@jit
def unpack_worker(
    ctx: ThreadContext, packed: npt.NDArray[np.uint8], table: npt.NDArray[Any], out: npt.NDArray[Any]
) -> None:
    n_runs = packed.size // RUN_BYTES
    n_tasks = (n_runs + RUNS_A_TASK - 1) // RUNS_A_TASK
    task = claim(ctx, n_tasks)
    while task >= 0:
        for run in range(task * RUNS_A_TASK, min((task + 1) * RUNS_A_TASK, n_runs)):
            for j in range(RUN_BYTES):
                values = table[packed[run * RUN_BYTES + j]]
                at = run * RUN + j
                for quarter in range(4):
                    out[at + quarter * RUN_BYTES] = values[quarter]
        task = claim(ctx, n_tasks)
    barrier(ctx)
