"""Toy checkpoints from a seed: small Hugging Face directories with every file that export reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet_numba.text.vocabulary import LLAMA3_PATTERN
from tests.safetensors_cases import safetensors_bytes

HIDDEN, INNER, KV = 128, 256, 64
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]  # those that GPT-2's alphabet shows as themselves
ALPHABET = [chr(byte) for byte in BYTES] + [chr(256 + number) for number in range(256 - len(BYTES))]
MERGES = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"]]
WORDS = [*ALPHABET, *("".join(pair) for pair in MERGES)]
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|pad|>"]
VOCAB_SIZE = len(WORDS) + len(SPECIAL)
BEGIN, END, END_OF_TURN, PAD = range(len(WORDS), VOCAB_SIZE)

CONFIG = {
    "architectures": ["BitNetForCausalLM"],
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "hidden_act": "relu2",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": VOCAB_SIZE,
    "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"},
}

LAYER_SHAPES = {
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "self_attn.attn_sub_norm": (HIDDEN,),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
    "mlp.ffn_sub_norm": (INNER,),
}


@dataclass
class ToyCheckpoint:
    """The contents of a checkpoint directory, to be spoilt by a test before they are written.

    Attributes
    ----------
    tensors : dict of str to (dtype name, array as stored)
    files : dict of str to dict
        JSON files by name.
    """

    tensors: dict[str, tuple[str, npt.NDArray[Any]]]
    files: dict[str, dict[str, Any]]

    @property
    def config(self) -> dict[str, Any]:
        return self.files["config.json"]

    @property
    def tokenizer(self) -> dict[str, Any]:
        return self.files["tokenizer.json"]

    def write(self, directory: Path) -> Path:
        directory.mkdir()
        (directory / "model.safetensors").write_bytes(safetensors_bytes(self.tensors))
        for name, content in self.files.items():
            (directory / name).write_text(json.dumps(content), encoding="utf-8")
        return directory


def toy_checkpoint(seed: int = 0) -> ToyCheckpoint:
    """Return a valid checkpoint with bf16 master weights."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens": (VOCAB_SIZE, HIDDEN), "model.norm": (HIDDEN,)}
    for layer in range(2):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER_SHAPES.items()}
    files = {
        "config.json": json.loads(json.dumps(CONFIG)),
        "generation_config.json": {"eos_token_id": [END, END_OF_TURN], "pad_token_id": PAD},
        "tokenizer.json": toy_tokenizer(),
        "tokenizer_config.json": {"add_bos_token": True, "chat_template": "{{ messages[0].content }}"},
    }
    return ToyCheckpoint({f"{name}.weight": ("BF16", bf16(rng, shape)) for name, shape in shapes.items()}, files)


def toy_tokenizer() -> dict[str, Any]:
    """Return a tokenizer.json in Llama 3's manner, with the bytes and a few merges."""
    return {
        "added_tokens": [{"id": BEGIN + i, "content": text, "special": True} for i, text in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        },
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "vocab": {word: token_id for token_id, word in enumerate(WORDS)},
            "merges": [list(pair) for pair in MERGES],
        },
    }


def bf16(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """Return normal numbers as bfloat16 bit patterns."""
    return (rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def widen(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return bfloat16 bit patterns as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def absmean(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], np.float32]:
    """Return ternary weights and their scale, straight from the definition."""
    scale = np.float32(max(np.abs(weights.astype(np.float64)).mean(), 1e-5))
    return np.clip(np.round(weights / scale), -1, 1), scale


def pack_checkpoint(checkpoint: ToyCheckpoint, *, invert: bool = False) -> None:
    """Turn master weights into the packed form, whose scale is a factor or, with ``invert``, a divisor."""
    packed: dict[str, tuple[str, npt.NDArray[Any]]] = {}
    for name, (dtype, bits) in checkpoint.tensors.items():
        if "_proj" not in name:
            packed[name] = dtype, bits
            continue
        weights, scale = absmean(widen(bits))
        quarters = (weights.reshape(4, -1, weights.shape[1]) + 1).astype(np.uint8)
        packed[name] = "U8", quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
        packed[f"{name}_scale"] = "F32", np.array([1 / scale if invert else scale], np.float32)
    checkpoint.tensors = packed


def i2s_weights(data: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Unpack I2_S from the words of its description: weight j of a run is in byte j % 32, at bit 6 - 2 * (j // 32)."""
    j = np.arange(128)
    runs = data[:-32].reshape(-1, 32)
    codes = runs[:, j % 32] >> (6 - 2 * (j // 32)).astype(np.uint8) & 3
    return codes.astype(np.int8).reshape(shape) - np.int8(1), data[-32:-28].view("<f4")[0]


def without(tensors: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return tensors less one."""
    return {key: value for key, value in tensors.items() if key != name}
