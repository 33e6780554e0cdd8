"""The engine loop: one ``step`` runs a chunk of every running sequence and lets each sample its tokens.

There is no engine thread. Whoever needs a token and finds no step running, runs one, for all; the others wait for
theirs. A server adds sequences and calls :meth:`Engine.step` in a loop.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from collections.abc import Sequence as SequenceOf
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.after_fork import register_for_forks
from bitnet_numba.backends.protocol import MAX_PREFILL_CHUNK, MAX_STEP_TOKENS, Backend, Cache, Logits, TokenChunk
from bitnet_numba.errors import BitNetError, ParameterError, ResourceError
from bitnet_numba.generate.prefix_cache import PrefixCache
from bitnet_numba.generate.result import Chunk, GenerationResult
from bitnet_numba.generate.sampling.logits_processors import LogitsProcessor
from bitnet_numba.generate.sampling.sampler import Sampler, token_logprob
from bitnet_numba.generate.sequence import Job, PromptLogits, Sequence, StreamDecoder
from bitnet_numba.generate.speculation import Drafter
from bitnet_numba.options import SamplingParams

Batch = list[tuple[Job, TokenChunk[Any]]]


class Engine:
    """Runs the sequences of one model together; Python threads may share it.

    Parameters
    ----------
    backend : Backend
        From now on used and closed by the engine alone.
    cached_prefixes : int
        Number of recent sequences whose KV cache is kept for prefix reuse.
    load_ms : float
        Milliseconds that loading the model took, as results report them.
    """

    def __init__(self, backend: Backend[Any], *, cached_prefixes: int = 4, load_ms: float = 0.0) -> None:
        self.backend = backend
        self.load_ms = load_ms
        self.prefixes: PrefixCache[Any] = PrefixCache(self._new_cache, cached_prefixes, backend.max_context)
        self._running: list[Job] = []
        self._abandoned: deque[Sequence] = deque()  # a step may still be using their caches
        self._mutex = threading.Lock()  # of the fields below; never held during a step
        self._waiters: list[_Waiter] = []
        self._is_stepping = self._is_closed = False
        self._in_step: Batch = []
        self._n_steps = 0
        self._turns = itertools.count(1)
        self._owners: dict[Job, int] = {}  # the thread that added each running sequence
        register_for_forks(self)

    def after_fork(self) -> None:
        """Go on with this thread's sequences alone: those of other threads, and steps of theirs, are the parent's."""
        this = threading.get_ident()
        self._running = [job for job in self._running if self._owners.get(job) == this]
        self._owners = dict.fromkeys(self._running, this)
        for job, _ in self._in_step:  # another thread's step, which may have changed half of it
            job.failure = BitNetError("the process was forked while a step ran this sequence: start it again")
            job.has_ended = True
        self._abandoned.clear()
        self._mutex = threading.Lock()
        self._waiters, self._is_stepping, self._in_step = [], False, []

    @property
    def n_running(self) -> int:
        """Number of sequences that were added and not removed."""
        return len(self._running)

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._is_closed

    # ---- sequences ---------------------------------------------------------------------------------------------------
    def sequence(
        self,
        prompt_ids: SequenceOf[int],
        params: SamplingParams,
        *,
        eos_ids: frozenset[int],
        decoder: StreamDecoder,
        answer: SequenceOf[int] = (),
        drafter: Drafter | None = None,
        record: bool = False,
        logits_processors: SequenceOf[LogitsProcessor] = (),
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Sequence:
        """Make a sequence and allocate its KV cache; it runs once it is added.

        Parameters
        ----------
        answer : sequence of int
            The beginning of the answer, where that is continued: penalties and random draws count it.
        drafter : Drafter, optional
            Drafts tokens in place of prompt-lookup speculation.
        record : bool
            Whether the result has digests of the hidden states.
        logits_processors : sequence of callable
            See :meth:`LanguageModel.generate`.
        on_progress : callable, optional
            Likewise.

        Raises
        ------
        ResourceError
            If the prompt does not fit the context, or memory does not allow the cache.
        ParameterError
            If ``params`` names a token outside the vocabulary, or a record of logits processors is requested.
        """
        self._check_fits(len(prompt_ids) + len(answer))
        if record and logits_processors:
            raise ParameterError("record: logits_processors cannot be recorded; leave one of them out")
        stop_ids = (frozenset() if params.ignore_eos else eos_ids) | frozenset(params.stop_token_ids)
        vocab_size = self.backend.config.vocab_size
        sampler = Sampler(self.backend, params, prompt_ids, vocab_size, stop_ids, logits_processors)
        for token_id in answer:
            sampler.append(token_id)
        prompt_ids = [*prompt_ids, *answer]
        # the last token is emitted without being run, so it needs no position
        max_new_tokens = min(params.max_tokens, self.backend.max_context - len(prompt_ids) + 1)
        self._release_abandoned()
        cache = self.prefixes.begin(prompt_ids, len(prompt_ids) + max_new_tokens - 1)
        return Sequence(
            prompt_ids, params, sampler, cache, stop_ids, decoder, max_new_tokens, drafter, record, on_progress
        )

    def add(self, job: Job) -> None:
        """Let the next step run a sequence too; returns at once, also while a step runs."""
        self._owners[job] = threading.get_ident()
        self._running.append(job)  # atomic: waiting here for the step that runs would cost others their steps

    def remove(self, job: Job) -> None:
        """Take a sequence out; if it is not done, nobody may use it any more."""
        if job in self._owners:  # not in a forked child, if it is another thread's
            del self._owners[job]
            self._running.remove(job)

    def generate(self, sequences: SequenceOf[Sequence]) -> list[GenerationResult]:
        """Run new sequences to their end, in steps that they share; return their results in the same order.

        Raises
        ------
        Exception
            The first error that ended one of them; the others are ended too.
        """
        for sequence in sequences:
            self.add(sequence)
        try:
            self._run_until(lambda: all(s.has_ended for s in sequences) or any(s.failure for s in sequences))
        finally:
            for sequence in sequences:
                self.remove(sequence)
        for sequence in sequences:
            if sequence.failure:
                raise sequence.failure
        for sequence in sequences:
            self._keep_prefix(sequence)
        return [sequence.result(self.backend, self.load_ms) for sequence in sequences]

    def stream(self, sequence: Sequence) -> Generator[Chunk]:
        """Run a new sequence chunk by chunk, as the caller asks for them; the last one has the result.

        Raises
        ------
        Exception
            What ended the sequence.
        """
        with closing(self.stream_batch([sequence])) as chunks:
            for _, chunk in chunks:
                yield chunk

    def stream_batch(self, sequences: SequenceOf[Sequence]) -> Generator[tuple[int, Chunk]]:
        """Run new sequences together; yield each one's chunks as they come, with the sequence's index.

        Raises
        ------
        Exception
            The first error that ended one of them; the others are ended too.
        """
        for sequence in sequences:
            sequence.is_streamed = True
            self.add(sequence)
        left = dict(enumerate(sequences))
        is_intact = True
        try:
            while left:
                self._run_until(lambda: any(sequence.has_chunk or sequence.has_ended for sequence in left.values()))
                for index, sequence in list(left.items()):
                    while sequence.has_chunk:
                        yield index, self._next_chunk(sequence)
                    if sequence.failure:
                        raise sequence.failure
                    if sequence.has_ended and not sequence.chunks:
                        del left[index]
        except GeneratorExit:
            raise
        except BaseException:
            is_intact = False
            raise
        finally:
            for sequence in sequences:
                self.remove(sequence)
                if is_intact and sequence.has_ended:
                    self._keep_prefix(sequence)
                elif is_intact:  # a step of another thread may still be using its cache
                    self._abandoned.append(sequence)
            self._release_abandoned()

    def logits(
        self, token_ids: npt.NDArray[np.int32], chunk_size: int, n_last: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the logits after the last tokens, float32[n_last, vocab_size], in steps of up to ``chunk_size``.

        ``n_last`` is by default that of all tokens.

        Raises
        ------
        ResourceError
            If the tokens do not fit the context, or memory does not allow cache or result.
        """
        self._check_fits(token_ids.size)
        vocab_size = self.backend.config.vocab_size
        n_last = token_ids.size if n_last is None else n_last
        try:
            out = np.empty((n_last, vocab_size), np.float32)
            self._read(token_ids, chunk_size, n_last, out.__setitem__)
        except MemoryError as error:
            size = f"{n_last:,} x {vocab_size:,}"
            raise ResourceError(f"no memory for {size} logits of 4 bytes: ask for fewer tokens") from error
        return out

    def logprobs(self, token_ids: npt.NDArray[np.int32], n_last: int) -> npt.NDArray[np.float64]:
        """Return the log probabilities of the last tokens after those before them, float64[n_last].

        The logits of one step at a time are in memory. Raises as :meth:`logits`.
        """
        self._check_fits(token_ids.size - 1)
        out = np.empty(n_last, np.float64)
        wanted = token_ids[token_ids.size - n_last :]
        counts = np.zeros_like(self.backend.counts())

        def take(index: int, logits: Logits) -> None:
            out[index] = token_logprob(self.backend, logits, int(wanted[index]), counts)

        self._read(token_ids[:-1], MAX_PREFILL_CHUNK, n_last, take)
        return out

    def _read(
        self, token_ids: npt.NDArray[np.int32], chunk_size: int, n_last: int, take: Callable[[int, Logits], None]
    ) -> None:
        """Run tokens that fit the context for their logits, in steps that running sequences share."""
        job = PromptLogits(token_ids, self.prefixes.new_cache(token_ids.size), chunk_size, n_last, take)
        self.add(job)
        try:
            self._run_until(lambda: job.has_ended)
        finally:
            self.remove(job)
        if job.failure:
            raise job.failure

    def close(self) -> None:
        """Wait for the running step, and give threads and memory back; later steps are refused."""
        closing = _Waiter(lambda: not self._is_stepping, self._mutex)
        with self._mutex:
            was_closed, self._is_closed = self._is_closed, True
            self._waiters.append(closing)
            try:
                while self._is_stepping:
                    closing.changed.wait()
            finally:
                self._waiters.remove(closing)
                self._hand_over()
        if not was_closed:
            self.backend.close()
        self.prefixes.close()

    def _next_chunk(self, sequence: Sequence) -> Chunk:
        """Take the next chunk of a stream; the last one gets the result."""
        chunk = sequence.chunks.popleft()
        is_last = sequence.finish_reason is not None and not sequence.chunks
        return replace(chunk, result=sequence.result(self.backend, self.load_ms)) if is_last else chunk

    # ---- steps -------------------------------------------------------------------------------------------------------
    def step(self) -> bool:
        """Run one step, after the one that runs, if any; return whether sequences are left that are not done.

        A step takes a chunk of each sequence that is ready, as far as ``MAX_STEP_TOKENS`` go. What sequences emit, and
        an error that ended one, are read from them; whoever added one also removes it.

        Raises
        ------
        BitNetError
            If the engine was closed.
        """
        before = self._n_steps + self._is_stepping
        self._run_until(lambda: self._n_steps > before)
        return any(not job.is_done for job in list(self._running))

    def _run_until(self, is_served: Callable[[], bool]) -> None:
        """Run steps until the caller is served, or wait while another thread does."""
        waiter = _Waiter(is_served, self._mutex)
        with self._mutex:
            self._waiters.append(waiter)
            try:
                while not is_served():
                    if self._is_closed:
                        raise BitNetError("the model was closed: load it again")
                    if self._is_stepping:
                        waiter.changed.wait()
                    else:
                        self._step_without_mutex()
            finally:  # after an interrupt too: whoever waited for this thread's steps runs the next one
                self._waiters.remove(waiter)
                self._hand_over()
        self._release_abandoned()

    def _step_without_mutex(self) -> None:
        self._is_stepping = True
        try:
            self._mutex.release()
            self._in_step = self._schedule()
            if self._in_step:
                self._run(self._in_step)
        finally:
            self._mutex.acquire()
            for job, _ in self._in_step:
                job.has_ended = job.is_done
            self._is_stepping, self._in_step = False, []
            self._n_steps += 1
            for waiter in self._waiters:
                if waiter.is_served():
                    waiter.changed.notify()
            self._keep_abandoned()

    def _hand_over(self) -> None:
        """If no step runs, wake a thread that waits; it runs the next one, or hands over in turn."""
        if not self._is_stepping and self._waiters:
            self._waiters[0].changed.notify()

    def _schedule(self) -> Batch:
        """Build the batch: sequences that decode in turn, then chunks of prompts in their order of arrival."""
        batch: Batch = []
        room = MAX_STEP_TOKENS
        ready = [job for job in list(self._running) if job.is_ready]
        ready.sort(key=lambda job: (True, job.number) if job.is_prefilling else (False, job.turn))
        for job in ready:
            chunk = job.next_chunk(min(room, MAX_PREFILL_CHUNK)) if room else None
            if chunk is not None:  # else it has draft tokens, which are not split
                batch.append((job, chunk))
                room -= chunk.tokens.size
        return batch

    def _run(self, batch: Batch) -> None:
        """Run the model, and let each sequence sample; an error meets only the sequence that causes it."""
        started = time.perf_counter()
        before = self.backend.counts()
        try:
            rows = self.backend.forward([chunk for _, chunk in batch])
        except Exception as failure:
            if len(batch) == 1:
                batch[0][0].failure = failure
            else:
                for job, chunk in batch:
                    self._run([(job, job.next_chunk(chunk.tokens.size) or chunk)])
            return
        calls = self.backend.counts() - before
        for (job, _), own_rows in zip(batch, rows, strict=True):
            job.turn = next(self._turns)
            try:
                job.advance(own_rows)
            except Exception as failure:
                job.failure = failure
            except BaseException as interrupt:  # its state is unknown
                job.failure = interrupt
                raise
            job.observe(calls, time.perf_counter() - started)

    # ---- memory ------------------------------------------------------------------------------------------------------
    def _release_abandoned(self) -> None:
        """Offer caches of streams that were left to the prefix cache, once no step uses them.

        Never waits: a stream may be collected in a thread that holds the mutex.
        """
        while self._abandoned and self._mutex.acquire(blocking=False):
            try:
                if self._is_stepping:  # then the thread that runs the step comes here after it
                    return
                self._keep_abandoned()
            finally:
                self._mutex.release()

    def _keep_abandoned(self) -> None:
        while self._abandoned:
            self._keep_prefix(self._abandoned.popleft())

    def _keep_prefix(self, sequence: Sequence) -> None:
        self.prefixes.keep([*sequence.prompt_ids, *sequence.token_ids], sequence.cache)

    def _check_fits(self, n_tokens: int) -> None:
        """Raise ResourceError unless a sequence can have this many tokens."""
        holds, longest = self.backend.max_context, self.backend.config.max_seq_len
        if n_tokens > holds:
            remedy = f" or raise max_context, up to {longest:,}" if holds < longest else ""
            raise ResourceError(f"the prompt has {n_tokens:,} tokens, the context holds {holds:,}: shorten it{remedy}")

    def _new_cache(self, capacity: int) -> Cache:
        if self._is_closed:
            raise BitNetError("the model was closed: load it again")
        cache: Cache = self.backend.new_cache(capacity)
        return cache


class _Waiter:
    """A thread that waits until it is served."""

    def __init__(self, is_served: Callable[[], bool], mutex: threading.Lock) -> None:
        self.is_served = is_served
        self.changed = threading.Condition(mutex)
