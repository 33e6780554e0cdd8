"""The tokens of one generation: what must be read for each, and which one is chosen then."""

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Generic

import numpy as np

from bitnet_numba.engine.head import NeededLogits
from bitnet_numba.engine.lookup import PromptLookup
from bitnet_numba.engine.protocols import CacheT
from bitnet_numba.engine.request import Request, Work
from bitnet_numba.engine.result import FinishReason
from bitnet_numba.engine.sampler import Logits, SampledToken, Sampler, TokenLogprob
from bitnet_numba.engine.sampling import SamplingParams
from bitnet_numba.engine.shared import SharedTransformer

STEPS_IN_FULL = 15  # without a screen, after one that has let all logits through: it would most likely do so again


class TokenStream(Generic[CacheT]):
    """The tokens of one generation, made one by one, once; and a record of how that went.

    Iterated, it reads what it needs by itself. :meth:`events` leaves that to others, who can read it together with what
    other sequences need.

    Parameters
    ----------
    transformer : SharedTransformer
    prompt_ids : sequence of int
        At least one, all in the vocabulary.
    params : SamplingParams
    eos_ids : frozenset of int
        Tokens that end the sequence; they are not given out.

    Attributes
    ----------
    token_ids : list of int
        The tokens so far.
    logprobs : list of TokenLogprob or None
        One for each of them, where asked for.
    finish_reason : {"stop", "length"} or None
        ``None`` until the tokens end.
    cached_tokens : int
        How many tokens of the prompt need not be read.
    n_chosen : int
        How many tokens were chosen so far, with the one that ended the sequence.
    step_seconds : list of float
        Duration of each step, from the request to the choice of its tokens: first the prompt's, then those after it.
        Where steps are shared, what others choose meanwhile is part of it.
    work : Work
        What these steps took.
    sampler : Sampler
        Chooses the tokens; it counts its own kernels.
    lookup : PromptLookup
        Proposes tokens to check together.

    Raises
    ------
    ResourceError
        If the prompt does not fit the context, or memory does not allow the cache.
    ParameterError
        If ``params`` names a token outside the vocabulary.
    """

    def __init__(
        self,
        transformer: SharedTransformer[CacheT],
        prompt_ids: Sequence[int],
        params: SamplingParams,
        eos_ids: frozenset[int],
    ) -> None:
        transformer.check_fits(len(prompt_ids))
        self.transformer = transformer
        self.prompt_ids = prompt_ids
        self.params = params
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] | None = None if params.logprobs is None else []
        self.finish_reason: FinishReason | None = None
        self.n_chosen = 0
        self.step_seconds: list[float] = []
        self.work = Work()
        self._steps_in_full = 0
        self._eos_ids = frozenset[int]() if params.ignore_eos else eos_ids
        self.sampler = Sampler(params, prompt_ids, transformer.config.vocab_size)
        # The last token is given out without being read, so it needs no position.
        self._steps = min(params.max_tokens, transformer.max_context - len(prompt_ids) + 1)
        self._cache = transformer.begin(prompt_ids, len(prompt_ids) + self._steps - 1)
        self.cached_tokens = self._cache.length
        self.lookup = PromptLookup(params.lookup, prompt_ids)
        self._unread = prompt_ids[self.cached_tokens :]
        self._logits: deque[Logits] = deque()  # of the last step, from which no token is chosen yet
        self._is_partial = False

    def __iter__(self) -> Iterator[SampledToken]:
        return self.transformer.run(self.events())

    def events(self) -> Iterator[Request[CacheT] | SampledToken]:
        """Go from token to token.

        Yields
        ------
        Request
            Must be done before the next event is asked for.
        SampledToken
            The next token.
        """
        while self.n_chosen < self._steps:
            token = yield from self._next()
            if token.id in self._eos_ids:
                self.finish_reason = "stop"
                break
            self.token_ids.append(token.id)
            if self.logprobs is not None and token.logprob is not None:
                self.logprobs.append(token.logprob)
            try:
                yield token
            except GeneratorExit:
                self._keep()
                raise
        else:
            self.finish_reason = "length"
        self._keep()

    def _next(self) -> Generator[Request[CacheT], None, SampledToken]:
        """Choose a token, as if every token took a step; what was proposed in its place proves right or wrong."""
        started = time.perf_counter()
        is_step = not self._logits
        if is_step:
            yield from self._step()
        token = self.sampler.pick(self._logits.popleft(), is_partial=self._is_partial)
        self.n_chosen += 1
        self._unread = [token.id]
        if n_wrong := self.lookup.refuted(token.id):
            self._logits.clear()
            self._cache.truncate(self._cache.length - n_wrong)
        if is_step:
            self.step_seconds.append(0.0)
        self.step_seconds[-1] += time.perf_counter() - started
        return token

    def _step(self) -> Generator[Request[CacheT], None, None]:
        """Read what is unread, and behind it what is expected to come."""
        n_left = self._steps - self.n_chosen
        expected = self.lookup.propose(n_left - 1) if self.n_chosen else []
        needed = None if self.params.logprobs is not None else self._needed(expected)
        before = self.work.rescored_rows
        unread = np.asarray([*self._unread, *expected], np.int32)
        request = Request(unread, self._cache, self.work, unread.size if expected else 1, needed)
        yield request
        logits = request.logits()
        self._is_partial = needed is not None and needed.is_partial and self.transformer.head == "exact"
        if self._is_partial and self.work.rescored_rows - before == logits.size:
            self._steps_in_full = STEPS_IN_FULL
        self._logits.extend(logits)

    def _needed(self, expected: Sequence[int]) -> NeededLogits:
        """What the sampler needs; for a while all, where screening has been of no use."""
        if self._steps_in_full:
            self._steps_in_full -= 1
            return NeededLogits()
        return self.sampler.needed(expected)

    def _keep(self) -> None:
        """Let later sequences begin with what was read of this one; not after an error, whose traces nobody knows."""
        self.transformer.keep([*self.prompt_ids, *self.token_ids], self._cache)
