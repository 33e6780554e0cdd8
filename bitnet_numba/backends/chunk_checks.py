"""The input checks of a step, the same for every backend: tokens, number of logits, capacity of caches."""

from collections.abc import Sequence

import numpy as np

from bitnet_numba.backends.protocol import MAX_STEP_TOKENS, CacheT, TokenChunk
from bitnet_numba.errors import ParameterError, ResourceError


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


def _checked_tokens(chunk: TokenChunk[CacheT], vocab_size: int) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    tokens = np.asarray(chunk.tokens)
    if tokens.ndim != 1 or tokens.size == 0:
        raise ParameterError(f"tokens: expected at least one, in one dimension, got {tokens.shape}")
    # before the cast, or 2**32 would pass for 0
    if tokens.dtype.kind not in "iu" or not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise ParameterError(f"tokens: expected whole numbers from 0 to {vocab_size - 1}")
    return np.array(tokens, np.int32)
