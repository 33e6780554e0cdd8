"""From logits to the next token, with the same result on every CPU."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.backends.protocol import Backend, CandidateQuery, Candidates, Logits
from bitnet_numba.errors import BitNetError, ParameterError
from bitnet_numba.generate.nucleus import early, first_to_arrive, left_out_weight, nucleus, stretch_of
from bitnet_numba.generate.sampling_params import SamplingParams

Scores = NDArray[np.float64]
Ids = NDArray[np.int64]

LEAST_LOGIT = -1000.0  # below the likeliest: long before that, a probability is 0 in float32
LEAST_EXPONENT = 64.0  # below the likeliest, a probability is exactly 0
MOST_RANKED = 1024  # where more tokens could matter to top_p, reading all logits takes hardly longer
EARLY = 1 / 256  # where no filter is set, tokens that would arrive by then are needed, so many of them
FAR = 9.0  # and those that are at most so much below the highest: others would most likely come too late
BEYOND = 6.0  # at so much below where a share of e**-x of the likeliest's weight ends, top_p is most likely decided
MARGIN_STEPS = 1024  # a margin is a multiple of 1/1024: one value on every CPU, whatever its logarithm's last bit


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely the model itself held a token to be, in natural logarithms.

    Attributes
    ----------
    token_id : int
        The token that was taken.
    logprob : float
        Its log probability.
    top : tuple of (int, float)
        Ids and log probabilities of the likeliest tokens, as many as were asked for, likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token that was taken; ``logprob`` only where it was asked for."""

    id: int
    logprob: TokenLogprob | None


class Sampler:
    """Choose the next token of one sequence.

    The logits pass, in this order: ``logit_bias``; ``repetition_penalty``; ``frequency_penalty`` and
    ``presence_penalty``; ``temperature``; ``top_k``; ``top_p``, as a share of what is left; ``min_p``; the draw. The
    penalties look at the prompt as their authors meant them: the first does, the other two see the answer only.

    The draw is a race (:func:`bitnet_numba.generate.nucleus.first_to_arrive`), so that its outcome can be told without
    the logits that do not take part, and often without knowing how many do.

    Parameters
    ----------
    backend : Backend
    params : SamplingParams
    prompt_ids : sequence of int
        Tokens before the first one to choose, each below ``vocab_size``.
    vocab_size : int

    Raises
    ------
    ParameterError
        If ``logit_bias`` names a token outside the vocabulary.

    References
    ----------
    Order of the steps: Hugging Face transformers, ``GenerationMixin._get_logits_processor``. Repetition penalty: Keskar
    et al., "CTRL", 2019. Frequency and presence penalty, bias: OpenAI API reference. Top-p: Holtzman et al., "The
    Curious Case of Neural Text Degeneration", 2020. Min-p: Nguyen et al., "Turning Up the Heat", 2024.
    """

    def __init__(
        self, backend: Backend[Any], params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int
    ) -> None:
        outside = [token_id for token_id in params.logit_bias if token_id >= vocab_size]
        if outside:
            raise ParameterError(f"logit_bias[{outside[0]}]: the vocabulary has ids 0 to {vocab_size - 1:,}; drop it")
        self._backend, self._params = backend, params
        self._seen = set(prompt_ids)
        self._answer: Counter[int] = Counter()
        # The bit generator's raw stream is fixed for all NumPy versions, unlike that of Generator (NEP 19).
        self._start = int(np.random.PCG64(params.seed).random_raw())
        self._vocab_size = vocab_size
        self._always = self._changed_tokens(vocab_size)
        self._counts = np.zeros(len(backend.kernel_names), np.int64)

    def query(self, expected: Sequence[int] = ()) -> CandidateQuery:
        """Return which logits the next choice can depend on, and those after it as long as ``expected`` tokens come.

        What a bias or penalty changes is needed as it is. Among the others, greedy choice needs the highest, ``top_k``
        the k highest: changed tokens can only push them out. ``min_p`` alone needs what is near enough to the highest:
        changed tokens can only raise what it is measured against. ``top_p`` is a share of all, but where it ends may be
        told from the highest and the weight of the others. Where nothing but the temperature is set, the highest and
        those that the next draw favours are most likely enough. In these two cases, :meth:`pick` says when not.
        """
        params, always = self._params, self._always
        if expected and self._changes_answer():
            always = always.copy()
            always[list(expected)] = 1
        if params.temperature == 0 or params.top_k:
            return CandidateQuery(n_best=params.top_k if params.temperature else 1, always=always)
        if params.min_p and params.top_p >= 1:
            # the distance times temperature is rounded, so a little more is asked for
            margin = self._largest_distance() * params.temperature * (1 + 1e-9)
            return CandidateQuery(margin=margin, always=always)
        if params.top_p < 1:
            margin = (BEYOND - math.log(1 - params.top_p)) * params.temperature
            return CandidateQuery(MOST_RANKED, margin, always, params.temperature)
        if expected:  # each of several draws favours others
            return CandidateQuery()
        favoured = early(self._vocab_size, self._stretch(), EARLY).view(np.uint8)
        return CandidateQuery(MOST_RANKED, FAR * params.temperature, favoured | always if always.size else favoured)

    def pick(self, screening: Candidates) -> SampledToken | None:
        """Choose a token and remember it as part of the answer.

        Parameters
        ----------
        logits : float32[n]
            Of all tokens, or of those that ``screening`` names; left as they are.
        screening : Screening
            What is known of the others, which are not :meth:`needed`.

        Returns
        -------
        SampledToken or None
            Nothing, and nothing is remembered, where the choice may depend on logits that were left out: it is to be
            made again with all of them. It is the one that they would have given, else.

        Raises
        ------
        BitNetError
            If the logits hold NaN or infinity: no choice would mean anything.
        """
        logits = screening.logits
        if not np.isfinite(logits).all():
            raise BitNetError("the model gave logits that are not finite: its weights or scales are damaged")
        ids = np.arange(logits.size) if screening.ids is None else screening.ids
        scores = self._adjusted(ids, logits)
        place = int(np.argmax(scores)) if self._params.temperature == 0 else self._draw(ids, scores, screening)
        if place is None:
            return None
        token_id = int(ids[place])
        self._seen.add(token_id)
        self._answer[token_id] += 1
        if self._always.size and self._changes_answer():
            self._always[token_id] = 1
        return SampledToken(token_id, self._logprob(logits, token_id))

    def kernel_counts(self) -> NDArray[np.int64]:
        """Return how often each kernel has run for this sequence's choices, as they count themselves."""
        return self._counts

    def _probabilities(self, logits: Logits) -> Logits:
        """Compute the softmax of ``float32[n]`` logits with the same bits on every CPU."""
        return self._backend.softmax(logits, self._counts)

    def _changes_answer(self) -> bool:
        """Whether a token's score changes once it has been chosen."""
        params = self._params
        return params.repetition_penalty != 1 or bool(params.frequency_penalty or params.presence_penalty)

    def _changed_tokens(self, vocab_size: int) -> NDArray[np.uint8]:
        """Mark the tokens whose scores are not their logits; no marks where there is nothing to change them."""
        params = self._params
        if not params.logit_bias and not self._changes_answer():
            return np.zeros(0, np.uint8)
        changed = np.zeros(vocab_size, np.uint8)
        changed[list(params.logit_bias)] = 1
        if params.repetition_penalty != 1:
            changed[list(self._seen)] = 1
        return changed

    def _adjusted(self, ids: Ids, logits: Logits) -> Scores:
        """Apply bias and penalties to the logits of the tokens ``ids``, which are in ascending order."""
        params = self._params
        scores = logits.astype(np.float64)
        for token_id, bias in params.logit_bias.items():
            scores[np.searchsorted(ids, token_id)] += bias
        if params.repetition_penalty != 1:
            seen = np.searchsorted(ids, np.fromiter(self._seen, np.int64))
            old = scores[seen]
            scores[seen] = np.where(old > 0, old / params.repetition_penalty, old * params.repetition_penalty)
        if params.frequency_penalty or params.presence_penalty:
            for token_id, count in self._answer.items():
                scores[np.searchsorted(ids, token_id)] -= params.frequency_penalty * count + params.presence_penalty
        return scores

    def _draw(self, ids: Ids, scores: Scores, screening: Candidates) -> int | None:
        """Draw a place of one of the scores that the filters keep; none where left-out ones may change it."""
        params = self._params
        candidates = self._candidates(scores)
        scores = scores[candidates]
        highest = float(scores.max())
        weights = self._weights(scores, highest)
        is_kept = (weights > 0) & (weights >= params.min_p * weights.max())
        places = np.flatnonzero(is_kept)
        n_sure, deadline = places.size, math.inf
        if params.top_k:
            screening = Candidates(screening.logits)
        each, together = left_out_weight(screening, highest, params.temperature)
        if params.top_p < 1:
            inside = nucleus(scores, weights, params.top_p, screening, together)
            if inside.n_largest > inside.ranked.size and each >= params.min_p:
                return None
            n_sure = int(np.count_nonzero(is_kept[inside.ranked[: inside.n_sure]]))
            places = inside.ranked[is_kept[inside.ranked]]
        elif each and not params.min_p:
            deadline = EARLY / each
        first = first_to_arrive(weights[places], ids[candidates[places]], self._stretch())
        return int(candidates[places[first.place]]) if first.place < n_sure and first.time <= deadline else None

    def _stretch(self) -> int:
        """Tell where the next draw has its random numbers."""
        return stretch_of(self._start, self._answer.total(), self._vocab_size)

    def _candidates(self, scores: Scores) -> Ids:
        """Places of the scores that are weighed, ascending: those that :meth:`needed` asks for."""
        params = self._params
        if params.top_k:
            return _largest(scores, params.top_k)
        if params.min_p and params.top_p >= 1:
            with np.errstate(over="ignore"):  # a tiny temperature may take the less likely infinitely far away
                distances = (scores.max() - scores) / params.temperature
            return np.flatnonzero(distances <= self._largest_distance())
        return np.arange(scores.size)

    def _largest_distance(self) -> float:
        """Tell how far below the likeliest ``min_p`` surely drops a token, once both are divided by the temperature."""
        distance = min(-math.log(self._params.min_p), LEAST_EXPONENT)
        return (math.ceil(distance * MARGIN_STEPS) + 1) / MARGIN_STEPS

    def _weights(self, scores: Scores, highest: float) -> Scores:
        """Compute what tokens weigh beside the highest one's 1, with the same bits on every CPU."""
        with np.errstate(over="ignore"):  # a tiny temperature may take the less likely to minus infinity
            scaled = (scores - highest) / self._params.temperature
        weights = np.maximum(scaled, LEAST_LOGIT).astype(np.float32)
        return self._backend.exp(weights, self._counts).astype(np.float64)

    def _logprob(self, logits: Logits, token_id: int) -> TokenLogprob | None:
        wanted = self._params.logprobs
        if wanted is None:
            return None
        likeliest = int(np.argmax(logits))
        # softmax gives the likeliest token exp(0) / sum, so its logarithm is minus that of the sum
        offset = math.log(self._probabilities(logits)[likeliest]) - float(logits[likeliest])
        top = _largest(logits, wanted)
        top = top[np.argsort(-logits[top], kind="stable")]
        return TokenLogprob(
            token_id, float(logits[token_id]) + offset, tuple((int(i), float(logits[i]) + offset) for i in top)
        )


def _largest(values: Logits | Scores, count: int) -> Ids:
    """Places of the ``count`` largest values, ascending; of equal values the first ones."""
    if count >= values.size:
        return np.arange(values.size)
    if count == 0:
        return np.arange(0)
    smallest = np.partition(values, values.size - count)[values.size - count]
    above = np.flatnonzero(values > smallest)
    equal = np.flatnonzero(values == smallest)[: count - above.size]
    return np.sort(np.concatenate([above, equal]))
