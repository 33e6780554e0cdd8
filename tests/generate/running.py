"""How tests open a model file and run it, and the folder of the full reference dumps."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.backends.cpu.backend import CPUBackend
from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes
from bitnet_numba.backends.cpu.weights import load_weights
from bitnet_numba.backends.protocol import Backend, CacheT, TokenChunk
from bitnet_numba.model.gguf_source import GGUFSource
from bitnet_numba.model.hf_source import HuggingFaceSource
from bitnet_numba.model.source import ModelSource
from bitnet_numba.options import HeadMode, KVType

FIXTURES = Path(os.environ.get("BITNET_FIXTURES", ""))
needs_fixtures = pytest.mark.skipif(
    "BITNET_FIXTURES" not in os.environ, reason="BITNET_FIXTURES does not name the folder of the full reference dumps"
)


def open_model(path: Path) -> ModelSource:
    """Open a GGUF file or a Hugging Face directory."""
    return GGUFSource(path) if path.is_file() else HuggingFaceSource(path)


def cpu_backend(path: Path, *, kv_type: KVType = "f16", threads: int = 2, head: HeadMode = "exact") -> CPUBackend:
    """Load a model with the whole context that it was trained for."""
    source = open_model(path)
    sizes, context = PaddedSizes.of(source.config), source.config.max_seq_len
    weights = load_weights(source, sizes, context, with_int8_copy=head == "exact")
    return CPUBackend(sizes, weights, threads=threads, kv_type=kv_type, max_context=context, head=head)


def read(
    backend: Backend[CacheT], tokens: npt.ArrayLike, cache: CacheT, n_logits: int | None = None, chunk_size: int = 64
) -> npt.NDArray[np.float32]:
    """Append tokens to a cache; return all logits of the last ``n_logits`` (default: of all), float32[n_logits, n]."""
    tokens = np.asarray(tokens)
    n_skipped = tokens.size - (tokens.size if n_logits is None else n_logits)
    rows = [np.empty((0, backend.config.vocab_size), np.float32)]
    for start in range(0, tokens.size, chunk_size):
        chunk = tokens[start : start + chunk_size]
        n_rows = min(chunk.size, max(0, start + chunk.size - n_skipped))
        [candidates] = backend.forward([TokenChunk(chunk, cache, n_rows)])
        rows += [candidate.logits[None] for candidate in candidates]
    return np.concatenate(rows)


def logits_of(backend: Backend[Any], tokens: npt.NDArray[np.int32], chunk_size: int = 64) -> npt.NDArray[np.float32]:
    """Return the logits of every position of a text, float32[n_tokens, vocab_size]."""
    return read(backend, tokens, backend.new_cache(tokens.size), chunk_size=chunk_size)
