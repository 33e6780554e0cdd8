"""The checks of a step, the same for every backend: its tokens, the capacity of caches, and what came out."""

import enum
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from bitnet_numba.backends.protocol import MAX_STEP_TOKENS, CacheT, Candidates, Logits, TokenChunk
from bitnet_numba.errors import NonFiniteError, ParameterError, ResourceError

_REMEDY: Final = "are infinite or NaN: weights or scales are too large; look at them with 'bitnet-numba inspect'"


class Place(enum.Enum):
    """A place in a layer where numbers can leave their format."""

    ATTENTION_INPUT = "activations before the attention"
    KEYS_AND_VALUES = "keys or values"
    ATTENTION_OUTPUT = "activations after the attention"
    FFN_INPUT = "activations before the FFN"
    FFN_GATED = "gated activations of the FFN"


def checked_chunks(chunks: Sequence[TokenChunk[CacheT]], vocab_size: int, max_context: int) -> list[TokenChunk[CacheT]]:
    """Return the chunks of a step, their tokens as int32 arrays of their own.

    Raises
    ------
    ParameterError
        If a token or ``n_logits`` is out of range, two chunks share a cache, or there are too many tokens.
    ResourceError
        If a cache is too small.
    """
    checked = [chunk._replace(tokens=_checked_tokens(chunk, vocab_size)) for chunk in chunks]
    n_tokens = sum(chunk.tokens.size for chunk in checked)
    if not 1 <= n_tokens <= MAX_STEP_TOKENS:
        raise ParameterError(f"batch: {n_tokens} tokens in one step, expected 1 to {MAX_STEP_TOKENS}")
    if len({id(chunk.cache) for chunk in checked}) < len(checked):
        raise ParameterError("batch: two chunks of one cache; give its tokens in one chunk")
    for chunk in checked:
        if not 0 <= chunk.n_logits <= chunk.tokens.size:
            raise ParameterError(f"batch: {chunk.n_logits} logits of {chunk.tokens.size} tokens asked for")
        needed, capacity = chunk.cache.length + chunk.tokens.size, chunk.cache.capacity
        if needed > min(capacity, max_context):
            raise ResourceError(f"{needed:,} positions needed, the cache holds {capacity:,}: make it larger")
    return checked


def fault_error(place: Place, layer: int, kv_type: str) -> NonFiniteError:
    """Return the error of a layer in which a number became infinite or NaN."""
    if place is Place.KEYS_AND_VALUES and kv_type == "f16":
        return NonFiniteError(f"layer {layer}: {place.value} exceed float16: load the model with --kv-type f32")
    return NonFiniteError(f"layer {layer}: {place.value} {_REMEDY}")


def check_hidden_states(rows: Iterable[Candidates]) -> None:
    """Raise NonFiniteError if a final hidden state has an element that is infinite or NaN."""
    for row in rows:
        if not np.isfinite(row.hidden).all():
            raise NonFiniteError(f"output: the final hidden states {_REMEDY}")


def check_logits(logits: Logits) -> None:
    """Raise NonFiniteError if a logit, of at least one, is infinite or NaN."""
    if not (logits.max() < np.inf and logits.min() > -np.inf):  # NaN is neither
        raise NonFiniteError(f"output: the logits {_REMEDY}")


def _checked_tokens(chunk: TokenChunk[CacheT], vocab_size: int) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    tokens = np.asarray(chunk.tokens)
    if tokens.ndim != 1 or tokens.size == 0:
        raise ParameterError(f"tokens: expected at least one, in one dimension, got {tokens.shape}")
    # before the cast, or 2**32 would pass for 0
    if tokens.dtype.kind not in "iu" or not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise ParameterError(f"tokens: expected whole numbers from 0 to {vocab_size - 1}")
    return np.array(tokens, np.int32)
