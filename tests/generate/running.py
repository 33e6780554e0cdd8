"""How tests open a model file and run it, and the folder of the full reference dumps."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.backends.cpu.backend import Transformer
from bitnet_numba.backends.cpu.candidates import HeadType
from bitnet_numba.backends.cpu.kv_cache import KVType
from bitnet_numba.backends.cpu.padded_sizes import Layout
from bitnet_numba.backends.cpu.weights import load_weights
from bitnet_numba.model.gguf_source import GGUFSource
from bitnet_numba.model.hf_source import HuggingFaceSource
from bitnet_numba.model.source import ModelSource

FIXTURES = Path(os.environ.get("BITNET_FIXTURES", ""))
needs_fixtures = pytest.mark.skipif(
    "BITNET_FIXTURES" not in os.environ, reason="BITNET_FIXTURES does not name the folder of the full reference dumps"
)


def open_model(path: Path) -> ModelSource:
    """Open a GGUF file or a Hugging Face directory."""
    return GGUFSource(path) if path.is_file() else HuggingFaceSource(path)


def transformer(path: Path, *, kv_type: KVType = "f16", threads: int = 2, head: HeadType = "exact") -> Transformer:
    """Load a model with the whole context that it was trained for."""
    source = open_model(path)
    layout, context = Layout.of(source.config), source.config.max_seq_len
    weights = load_weights(source, layout, context, is_screened=head != "f16")
    return Transformer(layout, weights, threads=threads, kv_type=kv_type, max_context=context, head=head)


def logits_of(model: Transformer, tokens: npt.NDArray[np.int32], chunk_size: int = 64) -> npt.NDArray[np.float32]:
    """Return the logits of every position of a text, float32[n_tokens, vocab_size]."""
    return model.forward(tokens, model.new_cache(tokens.size), "all", chunk_size)
