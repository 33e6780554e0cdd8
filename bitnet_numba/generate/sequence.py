"""One generation: its tokens, KV cache, sampler and draft tokens, and the text that comes out.

A sequence runs nothing by itself. The engine asks it for the tokens of the next step (:meth:`Sequence.next_chunk`) and
gives it the logits (:meth:`Sequence.advance`); it samples, verifies draft tokens, and emits chunks of text.
"""

import itertools
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.chunk_checks import check_logits
from bitnet_numba.backends.protocol import (
    Backend,
    Cache,
    CandidateQuery,
    Candidates,
    Counts,
    Logits,
    TokenChunk,
)
from bitnet_numba.generate.hidden_digest import HiddenDigest
from bitnet_numba.generate.memory_check import peak_memory_mb
from bitnet_numba.generate.result import Chunk, FinishReason, GenerationRecord, GenerationResult
from bitnet_numba.generate.sampling.sampler import SampledToken, Sampler, TokenLogprob
from bitnet_numba.generate.speculation import Drafter, PromptLookup
from bitnet_numba.options import SamplingParams
from bitnet_numba.text.stop_strings import StopScanner

MAX_UNREAD_CHUNKS = (
    64  # a stream whose consumer is slower pauses here; with 8, threads that share steps need more steps
)
FULL_HEAD_STEPS = 15  # steps with the full head after one whose int8 filter excluded nothing
MAX_BACKOFF = 127  # upper limit of the back-off: after an undecided choice use the full head for 1, 3, 7, ... steps


class StreamDecoder(Protocol):
    """Turns tokens into text one by one; bytes of an unfinished character wait."""

    def push(self, token_id: int, /) -> str: ...
    def finish(self) -> str: ...


class Job(Protocol):
    """What a step can run: a :class:`Sequence`, or a :class:`PromptLogits`."""

    number: int
    failure: BaseException | None
    has_ended: bool  # whether it is done, and so is the step that ran it last: until then others may see half of it
    turn: int

    @property
    def is_done(self) -> bool:
        """Whether no further step is needed."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether the next step should run it."""
        ...

    @property
    def is_prefilling(self) -> bool: ...

    def next_chunk(self, room: int) -> TokenChunk[Any] | None:
        """Return the tokens of the next step, at most ``room``; None where they do not fit."""
        ...

    def advance(self, rows: list[Candidates]) -> None:
        """Take the logits of the last chunk."""
        ...

    def observe(self, calls: Counts, seconds: float) -> None:
        """Add the kernel calls and the duration of a step that ran this job."""
        ...


_numbers = itertools.count()


class Sequence:
    """A prompt and what is generated after it.

    Parameters
    ----------
    prompt_ids : sequence of int
        At least one token, all in the vocabulary.
    params : SamplingParams
    sampler : Sampler
    cache : Cache
        May hold the first tokens of the prompt, but not the last.
    stop_ids : frozenset of int
        Tokens that end the sequence; they are not emitted.
    decoder : StreamDecoder
    max_new_tokens : int
        Fewer than ``params.max_tokens`` where the context ends before.
    drafter : Drafter, optional
        Drafts tokens in place of prompt lookup.
    record : bool
        Whether the result tells the digests of the hidden states.
    on_progress : callable, optional
        Called after each step of the prompt with the number of its tokens that were read, and that of all.

    Attributes
    ----------
    number : int
        Arrival order: greater than those of all sequences made before.
    token_ids : list of int
        Generated tokens.
    finish_reason : FinishReason or None
        None while it runs.
    stop_token_id : int or None
        The token that ended it; not among ``token_ids``.
    failure : BaseException or None
        The error that ended it.
    has_ended : bool
        Whether it is done, and the step that ran it last is over: the engine says so.
    cached_tokens : int
        Prompt tokens found in the prefix cache.
    is_streamed : bool
        Whether text is emitted as :attr:`chunks`.
    chunks : deque of Chunk
        Emitted and not yet consumed.
    turn : int
        Grows with each step that ran it: sequences with lower turns run first.
    """

    def __init__(
        self,
        prompt_ids: SequenceOf[int],
        params: SamplingParams,
        sampler: Sampler,
        cache: Cache,
        stop_ids: frozenset[int],
        decoder: StreamDecoder,
        max_new_tokens: int,
        drafter: Drafter | None = None,
        record: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.number = next(_numbers)
        self.prompt_ids, self.params, self.cache = list(prompt_ids), params, cache
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.stop_token_id: int | None = None
        self.failure: BaseException | None = None
        self.has_ended = False
        self.cached_tokens = cache.length
        self.is_streamed = False
        self.chunks: deque[Chunk] = deque()
        self.turn = 0
        self._sampler = sampler
        self._drafter = drafter or PromptLookup(params.lookup, prompt_ids)
        self._hidden = HiddenDigest() if record else None
        self._stop_ids = stop_ids
        self._on_progress = on_progress
        self._max_new_tokens = max_new_tokens
        # the step to come
        self._n_cached = cache.length
        self._pending = self.prompt_ids[self._n_cached :]
        self._n_logits = 1
        self._n_in_step = 0
        self._was_prefilling = True
        self._is_rerun = False  # of tokens whose candidates left a choice undecided
        self._full_steps = self._backoff = 0
        # what comes out, and what it took
        self._decoder, self._stops = decoder, StopScanner(params.stop)
        self._logprobs: list[TokenLogprob] | None = None if params.logprobs is None else []
        self._text: list[str] = []
        self._n_emitted = 0  # tokens in chunks
        self._n_sampled = 0
        self._calls = np.zeros_like(sampler.kernel_counts())
        self._prefill_seconds = self._decode_seconds = 0.0
        self._rescored_rows = 0

    @property
    def is_done(self) -> bool:
        """Whether the generation has ended, or failed."""
        return self.finish_reason is not None or self.failure is not None

    @property
    def has_chunk(self) -> bool:
        """Whether a chunk can be consumed: the last one, which has the result, only when its step is over."""
        n_chunks = len(self.chunks)  # before the reason, which is set before the last chunk comes
        return n_chunks > 1 or (n_chunks == 1 and (self.finish_reason is None or self.has_ended))

    @property
    def is_ready(self) -> bool:
        """Whether the next step should run it: not if its stream has too many chunks to consume."""
        return not self.is_done and len(self.chunks) < MAX_UNREAD_CHUNKS

    @property
    def is_prefilling(self) -> bool:
        """Whether no token has been sampled yet."""
        return self._n_sampled == 0

    # ---- a step ------------------------------------------------------------------------------------------------------
    def next_chunk(self, room: int) -> TokenChunk[Any] | None:
        """Return the tokens that the next step runs, at most ``room``; None where they do not fit."""
        n_tokens = min(len(self._pending), room)
        if n_tokens < (1 if self.is_prefilling else len(self._pending)):
            return None
        if self.cache.length != self._n_cached:  # an earlier step was interrupted before its logits arrived here
            self.cache.truncate(self._n_cached)
        self._n_in_step = n_tokens
        is_last = n_tokens == len(self._pending)
        tokens = np.array(self._pending[:n_tokens], np.int32)
        return TokenChunk(tokens, self.cache, self._n_logits if is_last else 0, self._query() if is_last else None)

    def advance(self, rows: list[Candidates]) -> None:
        """Sample from the logits of the last chunk, and say what the next step runs."""
        self._was_prefilling = self.is_prefilling
        self._n_cached += self._n_in_step
        in_step, self._pending = self._pending[: self._n_in_step], self._pending[self._n_in_step :]
        if self._on_progress is not None and self._was_prefilling:
            self._on_progress(self._n_cached, len(self.prompt_ids))
        if self._pending:  # a prompt that takes several steps
            return
        self._note_head(rows)
        for index, row in enumerate(rows):
            token = self._sampler.pick(row)
            if token is None:
                self._rerun(in_step[index - len(rows) :])
                return
            if row.is_partial:
                self._backoff = 0
            if self._hidden is not None:
                self._hidden.add(row.hidden)
            n_rejected = self._drafter.verify(token.id)
            self._emit(token)
            if n_rejected or self.finish_reason:
                self._truncate(n_rejected)
                break
        if self.finish_reason is None:
            drafts = self._drafter.draft(self._max_new_tokens - self._n_sampled - 1)
            self._pending, self._n_logits = [self.token_ids[-1], *drafts], 1 + len(drafts)

    def observe(self, calls: Counts, seconds: float) -> None:
        """Add the kernel calls and the duration of a step that ran this sequence."""
        self._calls += calls
        if self._was_prefilling:
            self._prefill_seconds += seconds
        else:
            self._decode_seconds += seconds

    def _query(self) -> CandidateQuery | None:
        """Return which logits are needed; for a while all, where the int8 filter was of no use."""
        if self._logprobs is not None:
            return None
        if self._is_rerun or self._full_steps:
            return CandidateQuery()
        return self._sampler.query(self._pending[len(self._pending) - self._n_logits + 1 :])

    def _note_head(self, rows: list[Candidates]) -> None:
        """Count rescored rows, and go on with the back-off of the int8 filter."""
        if self._is_rerun:
            self._is_rerun = False
            self._rescored_rows += sum(row.logits.size for row in rows)
            self._full_steps = self._backoff = min(2 * self._backoff + 1, MAX_BACKOFF)
            return
        self._rescored_rows += sum(row.rescored_rows for row in rows)
        self._full_steps = max(0, self._full_steps - 1)
        if all(row.rescored_rows and not row.is_partial for row in rows):
            self._full_steps = FULL_HEAD_STEPS

    def _rerun(self, tokens: list[int]) -> None:
        """Let the next step run these tokens again, for all their logits."""
        self._truncate(len(tokens))
        self._pending, self._n_logits, self._is_rerun = tokens, len(tokens), True

    def _truncate(self, n_tokens: int) -> None:
        """Drop the last tokens from the KV cache."""
        self._n_cached -= n_tokens
        self.cache.truncate(self._n_cached)

    # ---- what comes out ----------------------------------------------------------------------------------------------
    def _emit(self, token: SampledToken) -> None:
        """Append a token, and its text as far as no stop string can begin in it."""
        self._n_sampled += 1
        text = ""
        if token.id in self._stop_ids:
            self.finish_reason, self.stop_token_id = "stop_token", token.id
        else:
            self.token_ids.append(token.id)
            if self._logprobs is not None and token.logprob is not None:
                self._logprobs.append(token.logprob)
            text = self._stops.push(self._decoder.push(token.id))
            if self._n_sampled == self._max_new_tokens:
                self.finish_reason = "length" if self._n_sampled == self.params.max_tokens else "context"
        if self.finish_reason and self._stops.found is None:
            text += self._stops.push(self._decoder.finish()) + self._stops.finish()
        if self._stops.found is not None:
            self.finish_reason = "stop_string"
        self._text.append(text)
        if self.is_streamed and (text or self.finish_reason):
            logprobs = None if self._logprobs is None else self._logprobs[self._n_emitted :]
            self.chunks.append(Chunk(text, self.token_ids[self._n_emitted :], logprobs))
            self._n_emitted = len(self.token_ids)

    def hidden_leaves(self) -> list[str]:
        """Return the digests of the hidden states so far; empty unless they are recorded."""
        return [] if self._hidden is None else self._hidden.leaves()

    def _record(self) -> GenerationRecord | None:
        return None if self._hidden is None else GenerationRecord(self.prompt_ids, self.params, self.hidden_leaves())

    def result(self, backend: Backend[Any], load_ms: float) -> GenerationResult:
        """Return the finished generation, and what was observed while it ran."""
        calls = (self._calls + self._sampler.kernel_counts()).tolist()
        return GenerationResult(
            text="".join(self._text),
            token_ids=list(self.token_ids),
            finish_reason=self.finish_reason or "length",
            stop_reason=self.stop_token_id if self._stops.found is None else self._stops.found,
            logprobs=None if self._logprobs is None else list(self._logprobs),
            prompt_tokens=len(self.prompt_ids),
            generation_tokens=len(self.token_ids),
            cached_tokens=self.cached_tokens,
            prompt_tps=_rate(len(self.prompt_ids) - self.cached_tokens, self._prefill_seconds),
            generation_tps=_rate(self._n_sampled - 1, self._decode_seconds),
            first_token_ms=1000 * self._prefill_seconds,
            load_ms=load_ms,
            peak_memory_mb=peak_memory_mb(),
            kernels={name: n for name, n in sorted(zip(backend.kernel_names, calls, strict=True)) if n},
            threads=backend.threads,
            isa=backend.isa,
            head=backend.head,
            rescored_rows=self._rescored_rows,
            draft_tokens=self._drafter.draft_tokens,
            accepted_tokens=self._drafter.accepted_tokens,
            record=self._record(),
        )


class PromptLogits:
    """The logits after the last tokens of a prompt, computed in steps that running sequences share.

    Parameters
    ----------
    token_ids : int32[n_tokens]
    cache : Cache
        Empty, with room for all of them.
    chunk_size : int
        Tokens in a step, at most.
    n_last : int
        Number of last tokens whose logits are wanted.
    take : callable
        Called with 0 to ``n_last - 1`` and the logits, float32[vocab_size], of each of them in turn.
    """

    is_prefilling = True

    def __init__(
        self,
        token_ids: npt.NDArray[np.int32],
        cache: Cache,
        chunk_size: int,
        n_last: int,
        take: Callable[[int, Logits], None],
    ) -> None:
        self.number = next(_numbers)
        self.failure: BaseException | None = None
        self.has_ended = False
        self.turn = 0
        self._token_ids, self._cache = token_ids, cache
        self._chunk_size, self._n_last, self._take = chunk_size, n_last, take
        self._n_done = 0

    @property
    def is_done(self) -> bool:
        """Whether all logits are taken, or an error ended it."""
        return self._n_done == self._token_ids.size or self.failure is not None

    @property
    def is_ready(self) -> bool:
        """Whether the next step should run it."""
        return not self.is_done

    def next_chunk(self, room: int) -> TokenChunk[Any] | None:
        """Return the tokens that the next step runs, at most ``room``; None where there is no room."""
        self._cache.truncate(self._n_done)
        tokens = self._token_ids[self._n_done : self._n_done + min(room, self._chunk_size)]
        if not tokens.size:
            return None
        n_before = self._token_ids.size - self._n_last  # tokens without logits
        return TokenChunk(tokens, self._cache, max(0, min(tokens.size, self._n_done + tokens.size - n_before)))

    def advance(self, rows: list[Candidates]) -> None:
        """Hand over the logits of the last chunk."""
        self._n_done = self._cache.length
        first = self._n_last - (self._token_ids.size - self._n_done) - len(rows)
        for index, row in enumerate(rows):
            check_logits(row.logits)
            self._take(first + index, row.logits)

    def observe(self, calls: Counts, seconds: float) -> None:
        """Keep nothing: the caller gets logits alone."""


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
