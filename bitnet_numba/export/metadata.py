"""GGUF keys of a model's configuration, and a check that they are read back as the same configuration."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from bitnet_numba.errors import UnsupportedError
from bitnet_numba.model.config import ModelConfig, config_from_gguf

_NOT_COMPARED = ("name", "adjacent_pairs")  # a label, and the order of rows, which the export changes


def config_metadata(config: ModelConfig) -> dict[str, str | int | float]:
    """Return the GGUF keys of a configuration, in the order of the official BitNet file."""
    keys: dict[str, str | int | float] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_seq_len,
        "embedding_length": config.hidden_size,
        "block_count": config.n_layers,
        "feed_forward_length": config.intermediate_size,
        "rope.dimension_count": config.head_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_theta,
    }
    if config.head_dim * config.n_heads != config.hidden_size:
        keys |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if config.rope_scaling is not None and config.rope_scaling.bands is None:
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_scaling.factor}
    return {f"{config.architecture}.{name}": value for name, value in keys.items()}


def check_read_back(place: Path, config: ModelConfig, metadata: Mapping[str, Any]) -> None:
    """Raise an UnsupportedError for the first setting that GGUF, where an architecture has one graph, cannot state."""
    expected = config
    if config.rope_scaling is not None and config.rope_scaling.bands is not None:
        expected = replace(config, rope_scaling=None)  # this kind is a tensor of the file, not a key
    read = config_from_gguf(metadata)
    for field in fields(ModelConfig):
        stated, found = getattr(expected, field.name), getattr(read, field.name)
        if stated != found and field.name not in _NOT_COMPARED:
            raise UnsupportedError(
                f"{place}: config.json: {field.name} is {stated}, but GGUF files of architecture "
                f"{config.architecture!r} mean {found}; run the directory itself"
            )
