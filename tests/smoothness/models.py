"""Toy directories of safetensors with the tensor names that people have."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.safetensors_cases import safetensors_bytes
from tests.tiny_files import HuggingFaceModel, bf16_bits

PROJECTIONS = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (96, 64),
    "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}


def normal(shape: tuple[int, ...], seed: int = 0, spread: float = 0.05) -> Any:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


def dream(layers: int = 3) -> HuggingFaceModel:
    """Return a toy with the names of Dream 7B and Qwen2: biases, an untied head, bf16."""
    tensors = {"model.embed_tokens.weight": normal((50, 64)), "lm_head.weight": normal((50, 64), 1)}
    tensors["model.norm.weight"] = np.ones(64, np.float32)
    for layer in range(layers):
        for number, (name, shape) in enumerate(PROJECTIONS.items()):
            prefix = f"model.layers.{layer}.{name}"
            tensors[f"{prefix}.weight"] = normal(shape, 10 * layer + number + 2, 0.02 * (layer + 1))
            if name[:9] in ("self_attn",) and not name.endswith("o_proj"):
                tensors[f"{prefix}.bias"] = normal(shape[:1], layer)
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = np.ones(64, np.float32)
    config = {"model_type": "Dream", "architectures": ["DreamModel"]}
    stored = {name: ("BF16", bf16_bits(values)) for name, values in tensors.items()}
    return HuggingFaceModel({"config.json": config, "tokenizer_config.json": {}}, stored)


def one_file(folder: Path, tensors: dict[str, Any], name: str = "model.safetensors") -> Path:
    """Write arrays of float32 as one file."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(safetensors_bytes({key: ("F32", value) for key, value in tensors.items()}))
    return folder


def calibration(path: Path, timesteps: int = 10, seed: int = 0) -> Path:
    """Write activations that grow with the timestep, two samples each."""
    rng = np.random.default_rng(seed)
    samples = [
        {"data": (rng.standard_normal(24) * (1 + step)).tolist(), "timestep": step, "shape": [2, 3, 4]}
        for step in range(timesteps)
        for _ in range(2)
    ]
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples), encoding="utf-8")
    return path
