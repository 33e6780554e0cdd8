"""Generation in three layers: tokens, a stream of text, a result."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal

from bitnet_numba.engine.head import HeadType
from bitnet_numba.engine.lookup import PromptLookup
from bitnet_numba.engine.peak_memory import peak_memory_mb
from bitnet_numba.engine.protocols import CacheT, StreamDecoder
from bitnet_numba.engine.sampler import SampledToken, Sampler, TokenLogprob
from bitnet_numba.engine.sampling import SamplingParams
from bitnet_numba.engine.scheduler import Work
from bitnet_numba.engine.shared import SharedTransformer
from bitnet_numba.engine.steps import Steps
from bitnet_numba.engine.stop import StopScanner

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished generation, and what was observed while it ran.

    Attributes
    ----------
    text : str
        What was generated, up to the first stop string.
    token_ids : list of int
        What was generated, with the tokens of a stop string, without the end-of-sequence token.
    finish_reason : {"stop", "length"}
        Whether an end-of-sequence token or a stop string ended it, or ``max_tokens`` or the context.
    logprobs : list of TokenLogprob or None
        One for each of ``token_ids``, where asked for.
    prompt_tokens, generation_tokens : int
        How many tokens the prompt has, and are in ``token_ids``.
    cached_tokens : int
        How many tokens of the prompt were not read, since a sequence before had begun with them.
    prompt_tps : float
        The other tokens of the prompt per second of the step that read them.
    generation_tps : float
        Tokens of later steps per second; 0 where there were none. The first token comes from the prompt's step and is
        not among them; an end-of-sequence token is. Time that the program spends on other things between steps does
        not count.
    first_token_ms : float
        Milliseconds from the start of the prompt's step to the first token.
    load_ms : float
        Milliseconds that loading the model took.
    peak_memory_mb : float or None
        The process's largest resident size so far, in 10**6 bytes; ``None`` where the system does not tell.
    kernels : dict of str to int
        Calls of each kernel during this generation, counted by the kernels.
    threads : int
        Threads that shared the work.
    isa : str
        The instruction set that the kernels were compiled for.
    head : {"exact", "f16", "int8"}
        How the output head ran.
    rescored_rows : int
        Logits that ``"exact"`` computed exactly in all steps but those that asked for all from the start; of those that
        were read again, all count.
    proposed_tokens, accepted_tokens : int
        How many tokens ``lookup`` proposed, and how many of them were what was chosen then.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None
    prompt_tokens: int
    generation_tokens: int
    cached_tokens: int
    prompt_tps: float
    generation_tps: float
    first_token_ms: float
    load_ms: float
    peak_memory_mb: float | None
    kernels: dict[str, int]
    threads: int
    isa: str
    head: HeadType
    rescored_rows: int
    proposed_tokens: int
    accepted_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as what JSON can hold."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the text, as it is generated.

    Attributes
    ----------
    text : str
        May be empty in the last chunk only.
    token_ids : list of int
        Tokens taken since the chunk before.
    logprobs : list of TokenLogprob or None
        One for each of ``token_ids``, where asked for.
    result : GenerationResult or None
        The whole generation, in the last chunk only.
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    result: GenerationResult | None = None


class TokenStream(Generic[CacheT]):
    """The tokens of one generation, made one by one while it is iterated, once; and a record of how that went.

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
        Duration of each step with its choice of tokens: first the prompt's, then those after it.
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
        self._steps = Steps(transformer, self._cache, self.work, is_exact=params.logprobs is not None)

    def __iter__(self) -> Iterator[SampledToken]:
        while self.n_chosen < self._n_most:
            token = self._next()
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

    def _next(self) -> SampledToken:
        """Choose a token, as if every token took a step; what was proposed in its place proves right or wrong."""
        started = time.perf_counter()
        is_step = self._steps.is_due
        if is_step:
            self._step()
        token = self._steps.choose(self.sampler)
        self.n_chosen += 1
        self._unread = [token.id]
        if n_wrong := self.lookup.refuted(token.id):
            self._steps.take_back(n_wrong)
        if is_step:
            self.step_seconds.append(0.0)
        self.step_seconds[-1] += time.perf_counter() - started
        return token

    def _step(self) -> None:
        """Read what is unread, and behind it what is expected to come."""
        n_left = self._n_most - self.n_chosen
        expected = self.lookup.propose(n_left - 1) if self.n_chosen else []
        self._steps.read(self._unread, expected, self.sampler)

    def _keep(self) -> None:
        """Let later sequences begin with what was read of this one; not after an error, whose traces nobody knows."""
        self.transformer.keep([*self.prompt_ids, *self.token_ids], self._cache)


def stream(tokens: TokenStream[CacheT], decoder: StreamDecoder, load_ms: float) -> Iterator[Chunk]:
    """Turn tokens into pieces of text that never hold half a character or a part of a stop string.

    Yields
    ------
    Chunk
        Where there is new text, and once at the end, with the result.
    """
    scanner = StopScanner(tokens.params.stop)
    parts: list[str] = []
    reported = 0
    for token in tokens:
        text = scanner.push(decoder.push(token.id))
        if scanner.stopped:
            break
        if text:
            parts.append(text)
            yield _chunk(tokens, text, reported)
            reported = len(tokens.token_ids)
    else:
        text = scanner.push(decoder.finish()) + scanner.finish()
    parts.append(text)
    reason = "stop" if scanner.stopped else tokens.finish_reason or "length"
    yield _chunk(tokens, text, reported, _result(tokens, "".join(parts), reason, load_ms))


def generate(tokens: TokenStream[CacheT], decoder: StreamDecoder, load_ms: float) -> GenerationResult:
    """Run a generation to its end."""
    for chunk in stream(tokens, decoder, load_ms):
        if chunk.result is not None:
            return chunk.result
    raise RuntimeError("a stream ended without its result")


def _chunk(tokens: TokenStream[CacheT], text: str, start: int, result: GenerationResult | None = None) -> Chunk:
    logprobs = None if tokens.logprobs is None else tokens.logprobs[start:]
    return Chunk(text, tokens.token_ids[start:], logprobs, result)


def _result(tokens: TokenStream[CacheT], text: str, reason: FinishReason, load_ms: float) -> GenerationResult:
    prefill_seconds, *decode_seconds = tokens.step_seconds
    return GenerationResult(
        text=text,
        token_ids=list(tokens.token_ids),
        finish_reason=reason,
        logprobs=None if tokens.logprobs is None else list(tokens.logprobs),
        prompt_tokens=len(tokens.prompt_ids),
        generation_tokens=len(tokens.token_ids),
        cached_tokens=tokens.cached_tokens,
        prompt_tps=_rate(len(tokens.prompt_ids) - tokens.cached_tokens, prefill_seconds),
        generation_tps=_rate(tokens.n_chosen - 1, sum(decode_seconds)),
        first_token_ms=1000 * prefill_seconds,
        load_ms=load_ms,
        peak_memory_mb=peak_memory_mb(),
        kernels=dict(sorted({**tokens.work.kernels, **tokens.sampler.kernel_counts()}.items())),
        threads=tokens.transformer.threads,
        isa=tokens.transformer.isa,
        head=tokens.transformer.head,
        rescored_rows=tokens.work.rescored_rows,
        proposed_tokens=tokens.lookup.proposed_tokens,
        accepted_tokens=tokens.lookup.accepted_tokens,
    )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
