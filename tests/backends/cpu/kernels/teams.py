"""Teams of several sizes, shared by the tests of kernels that share out their work."""

from collections.abc import Iterator
from contextlib import contextmanager

from bitnet_numba.backends.cpu.threads.thread_pool import ThreadPool

SIZES = (1, 2, 3)


@contextmanager
def team_of(n_threads: int) -> Iterator[ThreadPool]:
    pool = ThreadPool(n_threads)
    try:
        yield pool
    finally:
        pool.close()
