"""What a loaded model is and what memory it takes, as facts that a person or a program can read."""

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.backend import Transformer
from bitnet_numba.backends.cpu.kernels.attention import BLOCK, head_block_bytes
from bitnet_numba.backends.cpu.kv_cache import KV_DTYPES
from bitnet_numba.backends.cpu.padded_sizes import round_up
from bitnet_numba.generate.prefix_cache import most_pages
from bitnet_numba.model.config import ModelConfig
from bitnet_numba.model.roles import LINEAR_ROLES
from bitnet_numba.model.source import ModelSource, expected_shapes

Facts = dict[str, dict[str, Any]]


def describe(source: ModelSource, transformer: Transformer, chat_template: str | None, kept_prefixes: int) -> Facts:
    """Return facts by section: ``model``, and ``memory`` in bytes."""
    return {"model": _model(source, chat_template), "memory": _memory(transformer, kept_prefixes)}


def _model(source: ModelSource, chat_template: str | None) -> dict[str, Any]:
    config = source.config
    shapes = expected_shapes(config, tied=source.tied)
    sizes = {role: shape[0] * (shape[1] if len(shape) > 1 else 1) for role, shape in shapes.items()}
    return {
        "name": config.name,
        "path": str(source.path),
        "architecture": config.architecture,
        "parameters": sum(sizes.values()),
        "ternary_parameters": sum(size for role, size in sizes.items() if role.name in LINEAR_ROLES),
        "n_layers": config.n_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_seq_len,
        "activation": config.activation,
        "tied_head": source.tied,
        "chat_template": chat_template,
        "tensor_types": dict(source.tensor_types()),
        "corrections": [asdict(record) for record in source.corrections],
    }


def _memory(transformer: Transformer, kept_prefixes: int) -> dict[str, int]:
    """Return bytes by role; a tied head has none; keys and values for a sequence that fills the context.

    What is kept of sequences before it comes beside them, at the most.
    """
    weights, config = transformer.weights, transformer.config
    ternary = weights.qkv.nbytes + weights.attn_output.nbytes + weights.gate_up.nbytes + weights.down.nbytes
    embedding = weights.embedding.nbytes + weights.embedding_scales.nbytes
    head = 0 if weights.head is weights.embedding else weights.head.nbytes + weights.head_scales.nbytes
    every = sum({id(array): array.nbytes for array in weights}.values())
    head_bytes = head_block_bytes(transformer.layout.head_dim, KV_DTYPES[transformer.kv_type])
    per_position = config.n_layers * config.n_kv_heads * head_bytes // BLOCK
    kept = per_position * BLOCK * most_pages(kept_prefixes, transformer.max_context)
    full_cache = per_position * round_up(transformer.max_context, BLOCK)
    return {
        "ternary_weights": ternary,
        "embedding": embedding,
        "head": head,
        "embedding_and_head_copied": _copied(config, weights.embedding, weights.embedding_scales)
        + (_copied(config, weights.head, weights.head_scales) if head else 0),
        "head_int8_copy": weights.head_screen.nbytes,
        "norms_scales_and_rope": every - ternary - embedding - head - weights.head_screen.nbytes,
        "scratch": transformer.state_bytes,
        "kv_cache_per_position": per_position,
        "kv_cache_of_full_context": full_cache,
        "kept_prefixes_at_most": kept,
        "total": every + transformer.state_bytes + full_cache + kept,
    }


def _copied(config: ModelConfig, values: npt.NDArray[np.generic], scales: npt.NDArray[np.float32]) -> int:
    """Return the bytes of a matrix that had to be converted or padded; others are the file's own pages."""
    in_file = scales.size == 0 and values.shape[1] == config.hidden_size
    return 0 if in_file else values.nbytes + scales.nbytes
