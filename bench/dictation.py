"""A model that says what it is told: its steps and their times are real, the choice of the words is not its own."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bitnet_numba.backends.cpu.backend import Transformer
from bitnet_numba.backends.cpu.batch import TokenChunk
from bitnet_numba.backends.cpu.candidates import NeededLogits, Screening
from bitnet_numba.backends.cpu.kv_cache import KVCache
from bitnet_numba.backends.cpu.padded_sizes import Layout
from bitnet_numba.backends.cpu.weights import load_weights
from bitnet_numba.generate.assemble import choose_threads
from bitnet_numba.generate.sampler import ALL_KNOWN, Logits, SampledToken, Sampler
from bitnet_numba.generate.sampling_params import SamplingParams
from bitnet_numba.generate.shared import SharedTransformer
from bitnet_numba.generate.speculation import PromptLookup
from bitnet_numba.generate.token_stream import TokenStream
from bitnet_numba.model.open import open_source

STEPS_IN_ROW = 4  # of as many tokens


class _Dictation(Sampler):
    """Chooses as ever, and gives out the next token of an answer instead."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int, answer: Sequence[int]):
        super().__init__(params, prompt_ids, vocab_size)
        self._left = iter(answer)

    def pick(self, logits: Logits, screening: Screening = ALL_KNOWN) -> SampledToken | None:
        return super().pick(logits, screening) and SampledToken(next(self._left), None)


class _WatchedLookup(PromptLookup):
    """Notes of how many tokens each step is, after that of the prompt."""

    def __init__(self, most: int, token_ids: Sequence[int]) -> None:
        super().__init__(most, token_ids)
        self.widths: list[int] = []

    def propose(self, most: int) -> list[int]:
        guess = super().propose(most)
        self.widths.append(1 + len(guess))
        return guess


class Dictated(NamedTuple):
    """How an answer went.

    Attributes
    ----------
    tokens_per_second : float
        Without the first one, which comes with the prompt.
    widths : list of int
        Tokens of each step that gave the others.
    proposed_tokens, accepted_tokens : int
    """

    tokens_per_second: float
    widths: list[int]
    proposed_tokens: int
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
        source = open_source(path)
        layout, self.threads = Layout.of(source.config), choose_threads(threads)
        weights = load_weights(source, layout, max_context, is_screened=True, threads=self.threads)
        self._transformer = Transformer(
            layout, weights, threads=self.threads, kv_type="f16", max_context=max_context, head="exact"
        )
        self._shared: SharedTransformer[KVCache] = SharedTransformer(self._transformer, max_context, kept_prefixes=1)
        self.isa = self._transformer.isa

    def answer(self, prompt: Sequence[int], answer: Sequence[int], lookup: int) -> Dictated:
        """Give an answer, with up to ``lookup`` tokens proposed a step."""
        params = SamplingParams(max_tokens=len(answer), ignore_eos=True, lookup=lookup)
        tokens = TokenStream(self._shared, prompt, params, frozenset())
        tokens.sampler = _Dictation(params, prompt, self._transformer.config.vocab_size, answer)
        tokens.lookup = watched = _WatchedLookup(lookup, prompt)
        for _ in tokens:
            pass
        if tokens.token_ids != list(answer):
            raise RuntimeError("another answer was given than the one dictated")
        seconds = sum(tokens.step_seconds[1:])
        return Dictated((len(answer) - 1) / seconds, watched.widths, watched.proposed_tokens, watched.accepted_tokens)

    def step_seconds(
        self, prompt: Sequence[int], answer: Sequence[int], widths: Sequence[int], rounds: int
    ) -> dict[int, float]:
        """Return the median time of steps of so many tokens of an answer, greedy, all of them checked."""
        cache = self._transformer.new_cache(len(prompt) + max(widths))
        self._transformer.forward(np.asarray(prompt, np.int32), cache, "none")
        taken: dict[int, list[float]] = {width: [] for width in widths}
        for _ in range(rounds):
            for width, times in taken.items():
                piece = TokenChunk(np.asarray(answer[:width], np.int32), cache, width, NeededLogits(n_best=1))
                times += [self._seconds(piece) for _ in range(STEPS_IN_ROW)][1:]  # the first finds another's traces
        return {width: statistics.median(times) for width, times in taken.items()}

    def _seconds(self, piece: TokenChunk[KVCache]) -> float:
        """Return the time of a step, which leaves no trace in its cache."""
        before, started = piece.cache.length, time.perf_counter()
        self._transformer.forward_batch([piece])
        taken = time.perf_counter() - started
        piece.cache.truncate(before)
        return taken

    def close(self) -> None:
        """Give threads and memory back."""
        self._shared.close()
