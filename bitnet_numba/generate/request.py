"""What a sequence wants to have read: the border between who chooses tokens and who runs steps."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.backends.cpu.batch import TokenChunk
from bitnet_numba.backends.cpu.candidates import Logits, NeededLogits, Rows, Screening
from bitnet_numba.backends.cpu.kernels.jit import new_counts
from bitnet_numba.backends.protocol import CacheT


@dataclass(slots=True)
class Work:
    """What steps have taken.

    Attributes
    ----------
    calls : int64[n_kernels]
        Of each kernel in the steps that the sequence took part in, whoever else did.
    rescored_rows : int
        Logits that were computed exactly after the screening of all.
    """

    calls: NDArray[np.int64] = field(default_factory=new_counts)
    rescored_rows: int = 0


class Request(Generic[CacheT]):
    """Tokens of one sequence that are to be read, in one step or several.

    Parameters
    ----------
    tokens : int32[n_tokens]
        At least one.
    cache : KVCache
        Where they are read into; nobody else may use it until that is done.
    work : Work
        What this takes is added to it.
    n_logits : int
        Of how many of the last tokens logits are asked for.
    needed : NeededLogits, optional
        Which logits of these must be exact; others may be left out.

    Attributes
    ----------
    number : int
        Greater than those of all requests made before.
    failure : BaseException or None
        What has ended it.
    screenings : list of Screening
        What is known of the logits that were left out, for each of the :meth:`rows`.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        tokens: NDArray[np.int32],
        cache: CacheT,
        work: Work,
        n_logits: int = 1,
        needed: NeededLogits | None = None,
    ) -> None:
        self.number = next(self._numbers)
        self.failure: BaseException | None = None
        self._tokens, self._cache, self._work, self._n_logits, self._needed = tokens, cache, work, n_logits, needed
        self.screenings: list[Screening] = []
        self._n_read = 0
        self._parts: list[Rows] = []

    @property
    def n_unread(self) -> int:
        """How many of the tokens are still to be read."""
        return self._tokens.size - self._n_read

    @property
    def is_done(self) -> bool:
        """Whether everything is read, or nothing more will be."""
        return self.failure is not None or not self.n_unread

    def piece(self, n_tokens: int) -> TokenChunk[CacheT]:
        """Return the next tokens for a step, with those that logits are asked for among them."""
        end = self._n_read + n_tokens
        n_logits = max(0, end - max(self._n_read, self._tokens.size - self._n_logits))
        return TokenChunk(self._tokens[self._n_read : end], self._cache, n_logits, self._needed)

    def take(
        self, piece: TokenChunk[CacheT], rows: Rows, calls: NDArray[np.int64], screenings: Sequence[Screening]
    ) -> None:
        """Take what came of a piece: its logits, the kernels that the step called, and how the logits were screened."""
        if piece.n_logits or not self._parts:
            self._parts.append(rows)
        self._n_read += piece.tokens.size
        self._work.calls += calls
        self.screenings += screenings
        self._work.rescored_rows += sum(screening.rescored_rows for screening in screenings)

    def rows(self) -> list[Logits]:
        """Return the logits of each token, of a request that is done: all of them, or those that are known.

        Raises
        ------
        BaseException
            What ended it before.
        """
        return [row for part in self._checked_parts() for row in part]

    def logits(self) -> Logits:
        """Return :meth:`rows` of which all logits are known as ``float32[n_logits, vocab_size]``, the caller's own."""
        parts = [np.asarray(part) for part in self._checked_parts()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _checked_parts(self) -> list[Rows]:
        """Return what each step gave, or raise what ended them."""
        if self.failure is not None:
            raise self.failure
        return self._parts
