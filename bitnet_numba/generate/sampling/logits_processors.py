"""Logits processors: functions of the caller that change the logits before a token is chosen."""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.protocol import Logits
from bitnet_numba.errors import ParameterError

LogitsProcessor = Callable[[list[int], Logits], Logits]


def process_logits(processors: SequenceOf[LogitsProcessor], token_ids: list[int], logits: Logits) -> Logits:
    """Return what the processors make of a copy of the logits; each gets a list of ids of its own.

    Raises
    ------
    ParameterError
        If one returns something else than float32[vocab_size] with a finite maximum and no NaN.
    """
    processed = logits.copy()
    for processor in processors:
        returned: npt.NDArray[Any] | object = processor(list(token_ids), processed)
        name = getattr(processor, "__name__", type(processor).__name__)
        expected = f"logits_processors: {name} must return float32[{logits.size}]"
        if not isinstance(returned, np.ndarray) or returned.dtype != np.float32 or returned.shape != logits.shape:
            raise ParameterError(f"{expected}, not {_form(returned)}")
        if not -np.inf < returned.max() < np.inf:  # minus infinity forbids a token, but not every one
            raise ParameterError(f"{expected} with a finite maximum and without NaN, not {returned.max()}")
        processed = returned
    return processed


def _form(value: object) -> str:
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
