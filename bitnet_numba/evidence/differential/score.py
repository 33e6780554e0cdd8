"""Perplexity of a text: the mean negative log-likelihood of its tokens, in windows that overlap."""

import math
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import ParameterError
from bitnet_numba.generate.language_model import LanguageModel

MAX_WINDOW = 2048  # tokens, where the context is longer


@dataclass(frozen=True, slots=True)
class Score:
    """The perplexity of a text.

    Attributes
    ----------
    perplexity : float
        exp of ``mean_nll``.
    mean_nll : float
        Mean negative log-likelihood (natural logarithm) of the scored tokens.
    tokens : int
        Number of scored tokens: all but the first.
    windows : int
        Forward passes.
    window, stride : int
        Tokens in a pass, at most, and new ones in each after the first.
    seconds : float
    """

    perplexity: float
    mean_nll: float
    tokens: int
    windows: int
    window: int
    stride: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain JSON values."""
        return {**asdict(self), "tokens_per_second": self.tokens / self.seconds}


def score(
    model: LanguageModel,
    token_ids: SequenceOf[int],
    *,
    window: int | None = None,
    stride: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Score a text, every token but the first once, after as many tokens before it as its window has.

    Parameters
    ----------
    model : LanguageModel
    token_ids : sequence of int
        At least two.
    window : int, optional
        Tokens in a pass; by default the context, up to 2,048.
    stride : int, optional
        By default half a window: a token then has at least half a window before it.
    on_progress : callable, optional
        Called after each window with the number of scored tokens, and that of all.

    Raises
    ------
    ParameterError
        If there are fewer than two tokens, or ``window`` and ``stride`` are out of range.

    References
    ----------
    Strided windows: Hugging Face, "Perplexity of fixed-length models".
    """
    window = min(model.max_context, MAX_WINDOW) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if len(token_ids) < 2:
        raise ParameterError("the text has fewer than two tokens; there is nothing to score")
    if not 2 <= window <= model.max_context:
        raise ParameterError(f"window={window}: expected 2 to {model.max_context:,}, which is the context")
    if not 1 <= stride < window:
        raise ParameterError(f"stride={stride}: expected 1 to {window - 1:,}, less than the window")
    started = time.perf_counter()
    parts: list[npt.NDArray[np.float64]] = []
    scored, total = 1, len(token_ids)  # the first token has nothing before it
    for begin in range(0, total, stride):
        end = min(begin + window, total)
        parts.append(model.prompt_logprobs(token_ids[begin:end], end - scored))
        scored = end
        if on_progress is not None:
            on_progress(scored - 1, total - 1)
        if end == total:
            break
    mean_nll = -float(np.concatenate(parts).mean())
    seconds = time.perf_counter() - started
    return Score(_exp(mean_nll), mean_nll, total - 1, len(parts), window, stride, seconds)


def _exp(mean_nll: float) -> float:
    try:
        return math.exp(mean_nll)
    except OverflowError:
        return math.inf
