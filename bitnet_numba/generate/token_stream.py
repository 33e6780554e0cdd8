"""The tokens of one generation: what must be read for each, and which one is chosen then."""

import time
from collections.abc import Generator, Iterator, Sequence
from typing import Generic

from bitnet_numba.backends.protocol import CacheT
from bitnet_numba.generate.request import Request, Work
from bitnet_numba.generate.result import FinishReason
from bitnet_numba.generate.sampler import SampledToken, Sampler, TokenLogprob
from bitnet_numba.generate.sampling_params import SamplingParams
from bitnet_numba.generate.shared import SharedTransformer
from bitnet_numba.generate.speculation import PromptLookup
from bitnet_numba.generate.steps import Steps


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
        self._eos_ids = frozenset[int]() if params.ignore_eos else eos_ids
        self.sampler = Sampler(params, prompt_ids, transformer.config.vocab_size)
        # The last token is given out without being read, so it needs no position.
        self._n_most = min(params.max_tokens, transformer.max_context - len(prompt_ids) + 1)
        self._cache = transformer.begin(prompt_ids, len(prompt_ids) + self._n_most - 1)
        self.cached_tokens = self._cache.length
        self.lookup = PromptLookup(params.lookup, prompt_ids)
        self._unread = prompt_ids[self.cached_tokens :]
        self._steps = Steps(self._cache, self.work, is_exact=params.logprobs is not None)

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
        while self.n_chosen < self._n_most:
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
        is_step = self._steps.is_due
        if is_step:
            n_left = self._n_most - self.n_chosen
            expected = self.lookup.propose(n_left - 1) if self.n_chosen else []
            yield from self._steps.read(self._unread, expected, self.sampler)
        token = yield from self._steps.choose(self.sampler)
        self.n_chosen += 1
        self._unread = [token.id]
        if n_wrong := self.lookup.refuted(token.id):
            self._steps.take_back(n_wrong)
        if is_step:
            self.step_seconds.append(0.0)
        self.step_seconds[-1] += time.perf_counter() - started
        return token

    def _keep(self) -> None:
        """Let later sequences begin with what was read of this one; not after an error, whose traces nobody knows."""
        self.transformer.keep([*self.prompt_ids, *self.token_ids], self._cache)
