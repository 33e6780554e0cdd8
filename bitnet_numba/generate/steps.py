"""The steps of one sequence: which logits they ask for, and what is read again where these were too few."""

from collections import deque
from collections.abc import Generator, Sequence
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.backends.cpu.candidates import Logits, NeededLogits, Screening
from bitnet_numba.backends.protocol import CacheT
from bitnet_numba.generate.request import Request, Work
from bitnet_numba.generate.sampler import SampledToken, Sampler

STEPS_IN_FULL = 15  # without a screen, after one that has let all logits through: it would most likely do so again
LONGEST_PAUSE = 127  # steps in full where choice after choice needs all logits; the first time it is one


class Steps(Generic[CacheT]):
    """What is read of a sequence, and the logits from which no token is chosen yet.

    Parameters
    ----------
    cache : Cache
        Of the sequence.
    work : Work
        To which is added what the steps take.
    is_exact : bool
        Whether all logits are to be exact, with every head.
    """

    def __init__(self, cache: CacheT, work: Work, *, is_exact: bool) -> None:
        self._cache, self._work, self._is_exact = cache, work, is_exact
        self._rows: deque[tuple[Logits, Screening]] = deque()
        self._tokens = np.zeros(0, np.int32)  # of the last step
        self._in_full = 0  # so many steps to come
        self._pause = 0  # as many as there were after the last choice that was open, if none was decided since

    @property
    def is_due(self) -> bool:
        """Whether the next choice takes a step."""
        return not self._rows

    def read(
        self, unread: Sequence[int], expected: Sequence[int], sampler: Sampler
    ) -> Generator[Request[CacheT], None, None]:
        """Read tokens, of the last of which logits are wanted, and behind them what is expected to come."""
        needed = None if self._is_exact else self._needed(expected, sampler)
        yield from self._step(np.asarray([*unread, *expected], np.int32), 1 + len(expected), needed)
        if all(screening.rescored_rows and not screening.is_partial for _, screening in self._rows):
            self._in_full = STEPS_IN_FULL

    def choose(self, sampler: Sampler) -> Generator[Request[CacheT], None, SampledToken]:
        """Choose the next token, if need be from all logits."""
        while True:
            logits, screening = self._rows[0]
            token = sampler.pick(logits, screening)
            if token is not None:
                break
            yield from self._read_again()
        self._rows.popleft()
        if screening.is_partial:
            self._pause = 0
        return token

    def take_back(self, n_wrong: int) -> None:
        """Forget so many of the last tokens, which did not come as expected."""
        self._rows.clear()
        self._cache.truncate(self._cache.length - n_wrong)

    def _needed(self, expected: Sequence[int], sampler: Sampler) -> NeededLogits:
        """What the sampler needs; for a while all, where screening has been of no use."""
        if self._in_full:
            self._in_full -= 1
            return NeededLogits()
        return sampler.needed(expected)

    def _read_again(self) -> Generator[Request[CacheT], None, None]:
        """Take the tokens from whose logits none is chosen yet through a step once more, for all their logits."""
        tokens = self._tokens[-len(self._rows) :]
        self.take_back(tokens.size)
        yield from self._step(tokens, tokens.size, NeededLogits())
        self._work.rescored_rows += sum(logits.size for logits, _ in self._rows)
        self._in_full = self._pause = min(2 * self._pause + 1, LONGEST_PAUSE)

    def _step(
        self, tokens: NDArray[np.int32], n_logits: int, needed: NeededLogits | None
    ) -> Generator[Request[CacheT], None, None]:
        self._tokens = tokens
        request = Request(tokens, self._cache, self._work, n_logits, needed)
        yield request
        self._rows.extend(zip(request.rows(), request.screenings, strict=True))
