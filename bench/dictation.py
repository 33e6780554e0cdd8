"""A model that says what it is told: its steps and their times are real, the choice of the words is not its own."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitnet_numba.backends.cpu.kv_cache import KVCache
from bitnet_numba.backends.cpu.load import load_backend
from bitnet_numba.backends.protocol import MAX_PREFILL_CHUNK, CandidateQuery, Candidates, TokenChunk
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.sampling.sampler import SampledToken, Sampler
from bitnet_numba.generate.sequence import Sequence as RunningSequence
from bitnet_numba.model.open import open_source
from bitnet_numba.options import LoadOptions, SamplingParams

STEPS_IN_ROW = 4  # steps of one width measured in a row


class _Dictation(Sampler):
    """Samples as ever, and returns the next token of an answer instead."""

    def __init__(self, backend: Any, params: SamplingParams, prompt_ids: Sequence[int], answer: Sequence[int]) -> None:
        super().__init__(backend, params, prompt_ids, backend.config.vocab_size)
        self._left = iter(answer)

    def pick(self, candidates: Candidates) -> SampledToken | None:
        return super().pick(candidates) and SampledToken(next(self._left), None)


class _NoText:
    """A stream decoder that decodes nothing."""

    def push(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


class Dictated(NamedTuple):
    """How an answer went.

    Attributes
    ----------
    tokens_per_second : float
        Without the first one, which comes with the prompt.
    widths : list of int
        Tokens of each step that gave the others.
    draft_tokens, accepted_tokens : int
    """

    tokens_per_second: float
    widths: list[int]
    draft_tokens: int
    accepted_tokens: int


class DictatedModel:
    """A model with the exact head, for prompts whose answers are known.

    Parameters
    ----------
    path : str, Path or None
        As :func:`bitnet_numba.load` takes it.
    threads : int or None
    max_context : int
        Positions of the longest prompt with its answer.
    """

    def __init__(self, path: str | Path | None, threads: int | None, max_context: int) -> None:
        self._backend = load_backend(open_source(path), LoadOptions(threads=threads, max_context=max_context))
        self.threads = self._backend.threads
        self._engine = Engine(self._backend, cached_prefixes=0)
        self.isa = self._backend.isa

    def answer(self, prompt: Sequence[int], answer: Sequence[int], lookup: int) -> Dictated:
        """Generate an answer, with up to ``lookup`` draft tokens in a step."""
        params = SamplingParams(max_tokens=len(answer), ignore_eos=True, lookup=lookup)
        sampler = _Dictation(self._backend, params, prompt, answer)
        cache = self._backend.new_cache(len(prompt) + len(answer))
        sequence = RunningSequence(prompt, params, sampler, cache, frozenset(), _NoText(), len(answer))
        widths, forward = [], self._backend.forward

        def watched(chunks: Sequence[TokenChunk[KVCache]]) -> list[list[Candidates]]:
            if not sequence.is_prefilling:
                widths.append(chunks[0].tokens.size)
            return forward(chunks)

        self._backend.forward = watched  # type: ignore[method-assign]
        try:
            [result] = self._engine.generate([sequence])
        finally:
            self._backend.forward = forward  # type: ignore[method-assign]
        if result.token_ids != list(answer):
            raise RuntimeError("another answer was given than the one dictated")
        return Dictated(result.generation_tps, widths, result.draft_tokens, result.accepted_tokens)

    def step_seconds(
        self, prompt: Sequence[int], answer: Sequence[int], widths: Sequence[int], rounds: int
    ) -> dict[int, float]:
        """Return the median time of steps that verify this many tokens of an answer, greedily."""
        cache = self._backend.new_cache(len(prompt) + max(widths))
        for start in range(0, len(prompt), MAX_PREFILL_CHUNK):
            tokens = np.asarray(prompt[start : start + MAX_PREFILL_CHUNK], np.int32)
            self._backend.forward([TokenChunk(tokens, cache, 0)])
        taken: dict[int, list[float]] = {width: [] for width in widths}
        for _ in range(rounds):
            for width, times in taken.items():
                chunk = TokenChunk(np.asarray(answer[:width], np.int32), cache, width, CandidateQuery(n_best=1))
                times += [self._seconds(chunk) for _ in range(STEPS_IN_ROW)][1:]  # caches are warm from the second on
        return {width: statistics.median(times) for width, times in taken.items()}

    def _seconds(self, chunk: TokenChunk[KVCache]) -> float:
        """Return the time of a step, whose positions are dropped again."""
        before, started = chunk.cache.length, time.perf_counter()
        self._backend.forward([chunk])
        taken = time.perf_counter() - started
        chunk.cache.truncate(before)
        return taken

    def close(self) -> None:
        """Give threads and memory back."""
        self._engine.close()
