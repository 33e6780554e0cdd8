"""The NumPy backend as the oracle of tests: all logits of a text, for any model source."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.numpy.backend import NumPyBackend
from bitnet_numba.backends.protocol import MAX_STEP_TOKENS, TokenChunk


def oracle_logits(source: Any, tokens: npt.NDArray[np.int32], kv_type: str = "f16") -> npt.NDArray[np.float32]:
    """Return the logits of every position, float32[n_tokens, vocab_size].

    Parameters
    ----------
    source : ModelSource or ToyModel
    tokens : int32[n_tokens]
    kv_type : {"f16", "f32", "int8"}
        Number format that keys and values are rounded to.
    """
    return all_logits(NumPyBackend(source, kv_type=kv_type), tokens)


def all_logits(
    backend: NumPyBackend, tokens: npt.NDArray[np.int32], chunk_size: int = MAX_STEP_TOKENS
) -> npt.NDArray[np.float32]:
    """Return what a backend computes for every position of a text, read in chunks."""
    cache = backend.new_cache(tokens.size)
    chunks = [tokens[start : start + chunk_size] for start in range(0, tokens.size, chunk_size)]
    steps = [backend.forward([TokenChunk(chunk, cache, chunk.size)])[0] for chunk in chunks]
    return np.stack([candidates.logits for step in steps for candidates in step])
