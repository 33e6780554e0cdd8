"""The sampler of one sequence: penalties, filters and the random draw that turn logits into the next token.

It also tells the backend which logits it needs (:class:`CandidateQuery`), so that the head need not compute all of
them, and gives the same token as from all logits, with the same bits on every CPU.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.backends.chunk_checks import check_logits
from bitnet_numba.backends.protocol import CandidateQuery, Candidates, Counts, Logits, SamplingOperations
from bitnet_numba.errors import ParameterError
from bitnet_numba.generate.sampling.logits_processors import LogitsProcessor, process_logits
from bitnet_numba.generate.sampling.nucleus import excluded_weight, nucleus
from bitnet_numba.generate.sampling.random_draw import first_random_offset, random_offset, winner
from bitnet_numba.options import SamplingParams

Scores = NDArray[np.floating]  # logits as float32 if nothing adjusts them, else float64
Indices = NDArray[np.int64]

MIN_SCALED = -1000.0  # below the highest: long before that, a probability is 0 in float32
MAX_EXPONENT = 64.0  # this far below the highest, a probability is exactly 0
MAX_CANDIDATES = 1024  # where more tokens could matter to top_p, the full head takes hardly longer
FAVOURED_TIME = 1 / 256  # without filters: query tokens with a sample time up to this at weight 1, the same share
FAVOURED_MARGIN = 9.0  # and those at most so many temperatures below the highest: others hardly ever win
TOP_P_MARGIN = 6.0  # so many temperatures below where a tail e**-x of the highest one's weight ends, top_p is decided
MARGIN_STEPS = 1024  # a margin is a multiple of 1/1024: one value on every CPU, whatever its logarithm's last bit


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log probability (natural logarithm) of a sampled token, as the model gave it.

    Attributes
    ----------
    token_id : int
    logprob : float
    top : tuple of (int, float)
        Ids and log probabilities of the most likely tokens, highest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A chosen token; ``logprob`` only where requested."""

    id: int
    logprob: TokenLogprob | None


class Sampler:
    """Choose the tokens of one sequence, one after the other.

    The logits pass, in this order: the logits processors; ``logit_bias``; ``repetition_penalty``; ``frequency_penalty``
    and ``presence_penalty``; the ban of ``min_tokens``; ``temperature``; ``top_k``; ``top_p``, as a share of what is
    left; ``min_p``; the random draw of ``random_draw.py``. As their authors define them, the repetition penalty counts
    tokens of prompt and answer, the other two those of the answer only.

    Parameters
    ----------
    backend, params
    prompt_ids : sequence of int
        Each below ``vocab_size``.
    vocab_size : int
    stop_ids : collection of int
        Tokens that end the answer: ``min_tokens`` forbids them for a while.
    processors : sequence of LogitsProcessor
        They need all logits of every token.

    Raises
    ------
    ParameterError
        If ``logit_bias`` or ``stop_token_ids`` names a token outside the vocabulary.

    References
    ----------
    Order of the steps: Hugging Face transformers, ``GenerationMixin._get_logits_processor``. Repetition penalty: Keskar
    et al., "CTRL", 2019. Frequency and presence penalty, bias: OpenAI API reference. Top-p: Holtzman et al., "The
    Curious Case of Neural Text Degeneration", 2020. Min-p: Nguyen et al., "Turning Up the Heat", 2024.
    """

    def __init__(
        self,
        backend: SamplingOperations,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        vocab_size: int,
        stop_ids: Collection[int] = (),
        processors: Sequence[LogitsProcessor] = (),
    ) -> None:
        for name, ids in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
            for token_id in ids:
                if token_id >= vocab_size:
                    raise ParameterError(f"{name}: the vocabulary has ids 0 to {vocab_size - 1:,}; drop {token_id}")
        self._processors = tuple(processors)
        self._ids = list(prompt_ids) if processors else []
        self._banned = np.array(sorted(stop_ids) if params.min_tokens else [], np.int64)
        if self._banned.size == vocab_size:
            raise ParameterError("min_tokens: every token ends the answer; name fewer stop_token_ids")
        self._backend = backend
        self._params = params
        self._vocab_size = vocab_size
        self._all_ids = set(prompt_ids)  # of prompt and answer
        self._answer: Counter[int] = Counter()
        self._n_chosen = 0
        self._first_offset = first_random_offset(params.seed)
        self._counts = np.zeros(len(backend.kernel_names), np.int64)
        penalties = params.repetition_penalty - 1, params.frequency_penalty, params.presence_penalty
        self._has_penalties = any(penalties)
        self._has_filters = bool(params.top_k or params.min_p) or params.top_p < 1
        self._bias_ids = np.fromiter(params.logit_bias, np.int64)
        self._biases = np.fromiter(params.logit_bias.values(), np.float64)
        self._adjusted = self._adjusted_tokens()
        self._favoured = np.zeros(vocab_size if params.temperature and not self._has_filters else 0, np.uint8)

    def query(self, draft_ids: Sequence[int] = ()) -> CandidateQuery:
        """Return which logits the next choice can depend on, and the choices after it as long as they are the drafts.

        Tokens that a bias or penalty adjusts are always needed. Of the others, greedy choice needs the highest and
        ``top_k`` the k highest: adjusted tokens can only displace them. ``min_p`` alone needs those near the highest:
        adjusted tokens can only raise what it is relative to. ``top_p`` is a share of all, but its end can mostly be
        told from the highest and the mass of the others. Without filters, the highest and the tokens that the draws
        favour are mostly enough. In these two cases, :meth:`pick` says when they are not.

        The marks of the query are valid until the next one.
        """
        params, always = self._params, self._adjusted
        if self._processors:
            return CandidateQuery()
        if self._has_penalties and draft_ids:
            always = always.copy()
            always[list(draft_ids)] = 1
        if params.temperature == 0 or params.top_k:
            return CandidateQuery(params.top_k if params.temperature else 1, always=always)
        if params.min_p and params.top_p >= 1:
            # the distance times temperature is rounded, hence the slack
            return CandidateQuery(margin=self._max_distance() * params.temperature * (1 + 1e-9), always=always)
        if params.top_p < 1:
            margin = (TOP_P_MARGIN - math.log(1 - params.top_p)) * params.temperature
            return CandidateQuery(MAX_CANDIDATES, margin, always, params.temperature)
        if self._backend.head == "full":
            return CandidateQuery()
        marks = self._favoured
        marks[:] = always if always.size else 0
        for n_ahead in range(1 + len(draft_ids)):
            self._backend.mark_favoured(self._random_offset(n_ahead), FAVOURED_TIME, marks)
        return CandidateQuery(MAX_CANDIDATES, FAVOURED_MARGIN * params.temperature, marks)

    def pick(self, candidates: Candidates) -> SampledToken | None:
        """Choose a token from at least the logits that :meth:`query` asks for, and append it to the answer.

        Returns None, and changes nothing, if the choice may depend on excluded logits: call again with all of them.
        Any other result is the one that all logits give. Raises NonFiniteError if a logit is NaN or infinite.
        """
        logits = candidates.logits
        check_logits(logits)
        most_likely = int(np.argmax(logits))
        scores = self._scores(candidates)
        index: int | None
        if self._params.temperature == 0:
            index = most_likely if scores is logits else int(np.argmax(scores))
        elif self._has_filters:
            index = self._draw_filtered(scores, candidates)
        elif candidates.ids is None:
            index = self._draw_from_all(scores)
        else:
            index = self._draw(scores, candidates.ids, candidates.threshold)
        if index is None:
            return None
        token_id = index if candidates.ids is None else int(candidates.ids[index])
        self.append(token_id)
        return SampledToken(token_id, self._logprob(logits, token_id))

    def append(self, token_id: int) -> None:
        """Count a token as chosen: for the penalties, and as one random draw."""
        self._all_ids.add(token_id)
        self._answer[token_id] += 1
        self._n_chosen += 1
        if self._processors:
            self._ids.append(token_id)
        if self._has_penalties:
            self._adjusted[token_id] = 1

    def kernel_counts(self) -> Counts:
        """Return how often each kernel has run for this sequence's choices, int64[n_kernels]."""
        return self._counts

    # ---- bias and penalties ------------------------------------------------------------------------------------------
    def _adjusted_tokens(self) -> NDArray[np.uint8]:
        """Mark the tokens whose scores are not their logits; no marks where nothing adjusts them."""
        params = self._params
        if not params.logit_bias and not self._has_penalties and not self._banned.size:
            return np.zeros(0, np.uint8)
        marks = np.zeros(self._vocab_size, np.uint8)
        marks[self._bias_ids] = 1
        marks[self._banned] = 1
        if params.repetition_penalty != 1:
            marks[list(self._all_ids)] = 1
        return marks

    def _scores(self, candidates: Candidates) -> Scores:
        """Apply processors, bias, penalties and the ban of stop tokens to the logits."""
        params, ids, logits = self._params, candidates.ids, candidates.logits
        if self._processors:
            logits = process_logits(self._processors, self._ids, logits)
        if not self._adjusted.size:
            return logits

        def indices(token_ids: Any) -> Indices:
            tokens = token_ids if isinstance(token_ids, np.ndarray) else np.fromiter(token_ids, np.int64)
            return tokens if ids is None else np.searchsorted(ids, tokens)

        scores = logits.astype(np.float64)
        scores[indices(self._bias_ids)] += self._biases
        if params.repetition_penalty != 1:
            penalized = indices(self._all_ids)
            old = scores[penalized]
            scores[penalized] = np.where(old > 0, old / params.repetition_penalty, old * params.repetition_penalty)
        if params.frequency_penalty or params.presence_penalty:
            counts = np.fromiter(self._answer.values(), np.int64)
            scores[indices(self._answer)] -= params.frequency_penalty * counts + params.presence_penalty
        if self._n_chosen < params.min_tokens:
            scores[indices(self._banned)] = -math.inf
        return scores

    # ---- the draw ----------------------------------------------------------------------------------------------------
    def _draw(self, scores: Scores, ids: Indices | None, threshold: float = -math.inf) -> int | None:
        """Draw from all tokens; None if one that is excluded, for a score below the threshold, may win."""
        highest = float(scores.max())
        index, time = self._race(self._weights(scores, highest), ids)
        largest = excluded_weight(threshold, highest, self._params.temperature)
        # an excluded token is not favoured: its sample time at weight 1 is above FAVOURED_TIME
        return index if time * largest <= FAVOURED_TIME else None

    def _draw_from_all(self, scores: Scores) -> int | None:
        """Draw from the score of every token; from the high and the favoured ones alone where that decides it."""
        if scores.size > MAX_CANDIDATES:
            with np.errstate(over="ignore"):  # at a high temperature all are high
                threshold = scores.max() - scores.dtype.type(FAVOURED_MARGIN * self._params.temperature)
            is_needed = scores >= threshold
            self._backend.mark_favoured(self._random_offset(), FAVOURED_TIME, is_needed.view(np.uint8))
            ids = np.flatnonzero(is_needed)
            index = self._draw(scores[ids], ids, float(threshold))
            if index is not None:
                return int(ids[index])
        return self._draw(scores, None)

    def _draw_filtered(self, scores: Scores, candidates: Candidates) -> int | None:
        """Draw from the tokens that the filters keep; None if excluded ones may change which these are."""
        params = self._params
        eligible = self._eligible(scores)
        scores = scores[eligible]
        highest = float(scores.max())
        weights = self._weights(scores, highest)
        is_kept = (weights > 0) & (weights >= params.min_p)  # the highest one weighs 1
        kept = np.flatnonzero(is_kept)
        n_sure = kept.size
        if params.top_p < 1:
            if params.top_k:
                top = nucleus(scores, weights, params.top_p)
            else:
                largest = excluded_weight(candidates.threshold, highest, params.temperature)
                total = largest * candidates.tail_mass
                top = nucleus(scores, weights, params.top_p, candidates.threshold, total)
                if top.n_largest > top.ranked.size and largest >= params.min_p:
                    return None
            n_sure = int(np.count_nonzero(is_kept[top.ranked[: top.n_sure]]))
            kept = top.ranked[is_kept[top.ranked]]
        indices = eligible[kept]
        index, _ = self._race(weights[kept], indices if candidates.ids is None else candidates.ids[indices])
        return int(indices[index]) if index < n_sure else None

    def _random_offset(self, n_ahead: int = 0) -> int:
        """Return the random stream offset of the next draw, or of the one ``n_ahead`` draws later."""
        return random_offset(self._first_offset, self._n_chosen + n_ahead, self._vocab_size)

    def _race(self, weights: NDArray[np.float64], ids: Indices | None) -> tuple[int, float]:
        """Return the index of the token that wins the next draw, and its sample time."""
        return winner(self._backend.exponential_race(weights, ids, self._random_offset()), weights)

    def _eligible(self, scores: Scores) -> Indices:
        """Return the indices that ``top_k``, or ``min_p`` alone, leaves to weigh, ascending."""
        params = self._params
        if params.top_k:
            return _largest(scores, params.top_k)
        if params.min_p and params.top_p >= 1:
            with np.errstate(over="ignore"):  # a tiny temperature may make distances infinite
                distances = np.subtract(scores.max(), scores, dtype=np.float64) / params.temperature
            return np.flatnonzero(distances <= self._max_distance())
        return np.arange(scores.size)

    def _max_distance(self) -> float:
        """Return how far below the highest, in temperatures, ``min_p`` surely drops a token."""
        distance = min(-math.log(self._params.min_p), MAX_EXPONENT)
        return (math.ceil(distance * MARGIN_STEPS) + 1) / MARGIN_STEPS

    def _weights(self, scores: Scores, highest: float) -> NDArray[np.float64]:
        """Compute weights relative to the highest score's 1, with the same bits on every CPU."""
        with np.errstate(over="ignore"):  # a tiny temperature may take scores to minus infinity
            scaled = np.subtract(scores, highest, dtype=np.float64) / self._params.temperature
        x = np.maximum(scaled, MIN_SCALED).astype(np.float32)
        return self._backend.exp(x, self._counts).astype(np.float64)

    def _logprob(self, logits: Logits, token_id: int) -> TokenLogprob | None:
        n_top = self._params.logprobs
        if n_top is None:
            return None
        total = _log_total(self._backend, logits, self._counts)
        top = _largest(logits, n_top)
        top = top[np.argsort(-logits[top], kind="stable")]
        return TokenLogprob(
            token_id, float(logits[token_id]) - total, tuple((int(i), float(logits[i]) - total) for i in top)
        )


def token_logprob(backend: SamplingOperations, logits: Logits, token_id: int, counts: Counts) -> float:
    """Return the log probability of a token by ``float32[vocab_size]`` logits; adds to ``counts``."""
    return float(logits[token_id]) - _log_total(backend, logits, counts)


def _log_total(backend: SamplingOperations, logits: Logits, counts: Counts) -> float:
    """Return ``log(sum(exp(logits)))``."""
    most_likely = int(np.argmax(logits))
    # softmax gives the most likely token exp(0) / sum, so its logarithm is minus that of the sum
    return float(logits[most_likely]) - math.log(backend.softmax(logits, counts)[most_likely])


def _largest(values: Scores, count: int) -> Indices:
    """Return the indices of the ``count`` largest values, ascending; of equal values the first ones."""
    if count >= values.size:
        return np.arange(values.size)
    if count == 0:
        return np.arange(0)
    smallest = np.partition(values, values.size - count)[values.size - count]
    above = np.flatnonzero(values > smallest)
    equal = np.flatnonzero(values == smallest)[: count - above.size]
    return np.sort(np.concatenate([above, equal]))
