"""Perplexity by windows against a NumPy computation from all logits."""

import math
from typing import Any

import numpy as np
import pytest

from bitnet_numba import LanguageModel
from bitnet_numba.errors import ParameterError
from bitnet_numba.evidence.differential.score import score

TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the sun. One day, she fell."


def expected_nll(model: LanguageModel, ids: list[int], window: int, stride: int) -> list[float]:
    """The negative log-likelihoods by the definition, from the logits of whole windows."""
    found: list[float] = []
    begins = range(0, len(ids), stride)
    for begin in begins:
        end = min(begin + window, len(ids))
        logits = model.logits(ids[begin:end]).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        first = len(found) + 1  # the first token not yet scored
        found += [-logprobs[position - begin - 1, ids[position]] for position in range(first, end)]
        if end == len(ids):
            return found
    raise AssertionError


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (16, 8), (16, 15), (5, 1), (2, 1)])
def test_it_is_the_mean_over_windows(demo: LanguageModel, window: int, stride: int) -> None:
    ids = demo.tokenize(TEXT)
    result = score(demo, ids, window=window, stride=stride)
    nll = expected_nll(demo, ids, window, stride)
    assert result.tokens == len(nll) == len(ids) - 1
    assert result.mean_nll == pytest.approx(np.mean(nll), rel=2e-6)
    assert result.perplexity == pytest.approx(math.exp(np.mean(nll)), rel=1e-5)
    assert result.windows == 1 + math.ceil(max(0, len(ids) - window) / stride)


def test_progress_and_defaults(demo: LanguageModel) -> None:
    ids = demo.tokenize(TEXT)
    told: list[tuple[int, int]] = []
    result = score(demo, ids, window=16, on_progress=lambda *progress: told.append(progress))
    assert result.stride == 8
    assert told[0] == (15, len(ids) - 1)
    assert told[-1] == (len(ids) - 1, len(ids) - 1)
    whole = score(demo, ids)
    assert (whole.windows, whole.window) == (1, min(demo.max_context, 2048))
    assert whole.to_dict()["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([5], {}, "fewer than two tokens"),
        ([5, 6, 7], {"window": 1}, "window=1: expected 2"),
        ([5, 6, 7], {"window": 10**6}, "window=1000000: expected 2"),
        ([5, 6, 7], {"window": 4, "stride": 4}, "stride=4: expected 1 to 3"),
        ([5, 6, 7], {"window": 4, "stride": 0}, "stride=0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    demo: LanguageModel, ids: list[int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        score(demo, ids, **options)


def test_log_probabilities_of_a_prompt(demo: LanguageModel) -> None:
    ids = demo.tokenize(TEXT)
    logits = demo.logits(ids).astype(np.float64)
    expected = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(demo.prompt_logprobs(TEXT), expected, atol=2e-5)
    np.testing.assert_array_equal(demo.prompt_logprobs(ids, 7), demo.prompt_logprobs(ids)[-7:])
    for n_last in (0, len(ids), True):
        with pytest.raises(ParameterError, match="n_last"):
            demo.prompt_logprobs(ids, n_last)
    with pytest.raises(ParameterError, match="one token"):
        demo.prompt_logprobs([5])
