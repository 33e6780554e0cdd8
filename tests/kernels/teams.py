"""Teams of several sizes, shared by the tests of kernels that share out their work."""

from collections.abc import Iterator
from contextlib import contextmanager

from bitnet_numba.simd.team import Team

SIZES = (1, 2, 3)


@contextmanager
def team_of(n_threads: int) -> Iterator[Team]:
    team = Team(n_threads)
    try:
        yield team
    finally:
        team.close()
