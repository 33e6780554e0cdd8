"""Checkpoints of known shapes with random master weights, in shards, as Hugging Face directories."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.make_model import SHAPES, Shape, byte_letters
from bitnet_numba.model.config import config_from_hf
from bitnet_numba.model.families import HUGGING_FACE_NAMES
from bitnet_numba.model.roles import Role
from bitnet_numba.model.source import expected_shapes
from bitnet_numba.text.vocabulary import LLAMA3_PATTERN

SHARD_BYTES = 1 << 30
NOISE = 1 << 22  # random numbers, of which every tensor takes its own stretch


def write_checkpoint(name: str, directory: Path) -> None:
    """Write a checkpoint of a shape: bf16 master weights, and the embedding in float32, the largest tensor there is."""
    shape = SHAPES[name]
    directory.mkdir(parents=True)
    config = _config(shape)
    tensors = [(role, dims) for role, dims in expected_shapes(config_from_hf(config, name), tied=shape.tied).items()]
    shards: list[list[tuple[Role, tuple[int, ...]]]] = [[]]
    for role, dims in tensors:
        if sum(_n_bytes(*each) for each in shards[-1]) >= SHARD_BYTES:
            shards.append([])
        shards[-1].append((role, dims))
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for file_name, shard in zip(names, shards, strict=True):
        _write_shard(directory / file_name, shard)
    weight_map = {HUGGING_FACE_NAMES.name(role): names[i] for i, shard in enumerate(shards) for role, _ in shard}
    _write_json(directory / "model.safetensors.index.json", {"weight_map": weight_map})
    _write_json(directory / "config.json", config)
    _write_json(directory / "tokenizer.json", _tokenizer(shape.vocab_size))


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["BitNetForCausalLM"],
        "hidden_act": "relu2",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_seq_len,
        "num_attention_heads": shape.n_heads,
        "num_hidden_layers": shape.n_layers,
        "num_key_value_heads": shape.n_kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": shape.tied,
        "vocab_size": shape.vocab_size,
        "quantization_config": {"quant_method": "bitnet", "quantization_mode": "online"},  # so these are masters
        "bos_token_id": shape.vocab_size - 2,
        "eos_token_id": shape.vocab_size - 1,
    }


def _tokenizer(vocab_size: int) -> dict[str, Any]:
    """Return one token a byte, in Llama 3's manner, and as many unused ones as the vocabulary needs."""
    words = {letter: byte for byte, letter in enumerate(byte_letters())}
    return {
        "added_tokens": [{"id": i, "content": f"<unused{i}>", "special": True} for i in range(256, vocab_size)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "vocab": words,
            "merges": [],
        },
    }


def _dtype(role: Role) -> tuple[str, int]:
    return ("F32", 4) if role.name == "token_embd" else ("BF16", 2)


def _n_bytes(role: Role, dims: tuple[int, ...]) -> int:
    return int(np.prod(dims)) * _dtype(role)[1]


def _write_shard(path: Path, tensors: list[tuple[Role, tuple[int, ...]]]) -> None:
    header: dict[str, Any] = {}
    at = 0
    for role, dims in tensors:
        end = at + _n_bytes(role, dims)
        header[HUGGING_FACE_NAMES.name(role)] = {
            "dtype": _dtype(role)[0],
            "shape": list(dims),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (role, dims) in enumerate(tensors):
            for piece in _noise(_n_bytes(role, dims), _dtype(role)[0], number):
                file.write(piece.data)


def _noise(n_bytes: int, dtype: str, seed: int) -> Iterator[npt.NDArray[Any]]:
    values = np.random.default_rng(seed).standard_normal(NOISE, np.float32) * np.float32(0.02)
    stored = values if dtype == "F32" else (values.view(np.uint32) >> 16).astype(np.uint16)
    block = stored.view(np.uint8)
    for start in range(0, n_bytes, block.size):
        yield block[: n_bytes - start]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
