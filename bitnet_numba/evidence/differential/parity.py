"""Differential validation: the logits of two models, or of a model and another engine, for the same tokens."""

from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import ParameterError

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]

MIN_COSINE = 0.99
MIN_EXACT_MATCH_RATE = 0.9
_N_TOP = 5


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What passes.

    Attributes
    ----------
    cosine : float
        Every position's cosine similarity is at least this.
    exact_match_rate : float
        So large a share of the positions have the same most likely token.
    """

    cosine: float = MIN_COSINE
    exact_match_rate: float = MIN_EXACT_MATCH_RATE


@dataclass(frozen=True, slots=True)
class Parity:
    """How far two series of logits agree.

    Attributes
    ----------
    positions : int
    min_cosine, mean_cosine : float
        Cosine similarity of two positions' logits.
    max_difference : float
        Largest ``|a - b|`` of two logits.
    mean_kl, max_kl : float
        Kullback-Leibler divergence of the second distribution from the first, in nats.
    exact_match_rate : float
        Share of positions with the same most likely token.
    top5_rate : float
        Mean share of the five most likely tokens that both have.
    first_divergence : int or None
        The first position whose most likely tokens differ.
    perplexity_a, perplexity_b : float or None
        Of the tokens themselves, where there are two at least.
    """

    positions: int
    min_cosine: float
    mean_cosine: float
    max_difference: float
    mean_kl: float
    max_kl: float
    exact_match_rate: float
    top5_rate: float
    first_divergence: int | None
    perplexity_a: float | None
    perplexity_b: float | None

    def passes(self, thresholds: Thresholds) -> bool:
        """Return whether every threshold is met."""
        return self.min_cosine >= thresholds.cosine and self.exact_match_rate >= thresholds.exact_match_rate

    def to_dict(self, thresholds: Thresholds) -> dict[str, Any]:
        """Return the figures, and the ``parity`` of a receipt, as plain JSON values."""
        status = "passed" if self.passes(thresholds) else "failed"
        summary = {"cosine_similarity": self.min_cosine, "exact_match_rate": self.exact_match_rate, "status": status}
        return {"parity": {"cpp_available": False, **summary}, **asdict(self), "thresholds": asdict(thresholds)}


def compare_logits(token_ids: SequenceOf[int], a: Floats, b: Floats) -> Parity:
    """Compare the logits of two engines after each of the same tokens, both [T, vocab_size].

    Raises
    ------
    ParameterError
        If the shapes differ, or are not those of the tokens.
    """
    if a.shape != b.shape or a.ndim != 2 or len(a) != len(token_ids) or not len(a):
        raise ParameterError(
            f"logits: {list(a.shape)} and {list(b.shape)} for {len(token_ids)} tokens; they must agree"
        )
    rows = [_compare(x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a, b, strict=True)]
    cosines, differences, divergences, shared = (np.array(each) for each in zip(*rows, strict=True))
    same = a.argmax(axis=1) == b.argmax(axis=1)
    return Parity(
        positions=len(a),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        max_difference=float(differences.max()),
        mean_kl=float(divergences.mean()),
        max_kl=float(divergences.max()),
        exact_match_rate=float(same.mean()),
        top5_rate=float(shared.mean()),
        first_divergence=None if same.all() else int(np.argmin(same)),
        perplexity_a=_perplexity(token_ids, a),
        perplexity_b=_perplexity(token_ids, b),
    )


def first_difference(a: SequenceOf[int], b: SequenceOf[int]) -> int | None:
    """Return the index at which two sequences of tokens part; None if they are equal."""
    for index, (mine, other) in enumerate(zip(a, b, strict=False)):
        if mine != other:
            return index
    return None if len(a) == len(b) else min(len(a), len(b))


def _compare(x: Doubles, y: Doubles) -> tuple[float, float, float, float]:
    """Return cosine, largest difference, KL divergence and share of the top five of one position."""
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    cosine = float(x @ y / norms) if norms else float(not x.any() and not y.any())
    p, q = _log_softmax(x), _log_softmax(y)
    top = [set(np.argsort(-logits, kind="stable")[:_N_TOP].tolist()) for logits in (x, y)]
    return cosine, float(np.abs(x - y).max()), float(np.exp(p) @ (p - q)), len(top[0] & top[1]) / len(top[0])


def _log_softmax(x: Doubles) -> Doubles:
    shifted = x - x.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _perplexity(token_ids: SequenceOf[int], logits: Floats) -> float | None:
    """Return exp of the mean negative log-likelihood of each token after those before it."""
    if len(token_ids) < 2:
        return None
    found = [_log_softmax(row.astype(np.float64))[token] for row, token in zip(logits, token_ids[1:], strict=False)]
    with np.errstate(over="ignore"):
        return float(np.exp(-np.mean(found)))
