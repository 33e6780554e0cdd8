"""The files of toy models: GGUF files and Hugging Face directories, to be spoilt by a test before they are written."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.formats.gguf_writer import TensorSource, write_gguf
from bitnet_numba.model.config import ModelConfig, RopeScaling
from bitnet_numba.text.vocabulary import LLAMA3_PATTERN
from tests.safetensors_cases import safetensors_bytes

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]  # those that GPT-2's alphabet shows as themselves
ALPHABET = [chr(byte) for byte in BYTES] + [chr(256 + number) for number in range(256 - len(BYTES))]
MERGES = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"]]
WORDS = [*ALPHABET, *("".join(pair) for pair in MERGES)]
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|pad|>"]
MIN_VOCABULARY = len(WORDS) + len(SPECIAL)
BEGIN, END, END_OF_TURN, PAD = range(len(WORDS), MIN_VOCABULARY)
NORMAL, CONTROL = 1, 3  # of tokenizer.ggml.token_type


@dataclass
class GGUFModel:
    """The contents of a GGUF file, to be spoilt by a test before they are written."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorSource]

    def write(self, path: Path) -> Path:
        write_gguf(path, self.metadata, self.tensors.values())
        return path


@dataclass
class HuggingFaceModel:
    """The contents of a Hugging Face directory, to be spoilt by a test before they are written.

    Attributes
    ----------
    files : dict of str to dict
        JSON files by name.
    tensors : dict of str to (dtype name, array as stored)
    """

    files: dict[str, dict[str, Any]]
    tensors: dict[str, tuple[str, npt.NDArray[Any]]]

    @property
    def config(self) -> dict[str, Any]:
        return self.files["config.json"]

    @property
    def tokenizer(self) -> dict[str, Any]:
        return self.files["tokenizer.json"]

    def write(self, directory: Path, n_shards: int = 1) -> Path:
        directory.mkdir()
        for name, content in self.files.items():
            (directory / name).write_text(json.dumps(content), encoding="utf-8")
        if n_shards == 1:
            (directory / "model.safetensors").write_bytes(safetensors_bytes(self.tensors))
            return directory
        names = [f"model-{number + 1:05}-of-{n_shards:05}.safetensors" for number in range(n_shards)]
        shard_of = {tensor: names[number % n_shards] for number, tensor in enumerate(self.tensors)}
        for name in names:
            part = {tensor: value for tensor, value in self.tensors.items() if shard_of[tensor] == name}
            (directory / name).write_bytes(safetensors_bytes(part))
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}), encoding="utf-8")
        return directory


def replaced(tensor: TensorSource, **changes: Any) -> TensorSource:
    """Return a tensor with some of its fields changed; ``data`` stands for what it reads."""
    fields = {"name": tensor.name, "type": tensor.type, "shape": tensor.shape, "read": tensor.read}
    if "data" in changes:
        data = changes.pop("data")
        fields["read"] = lambda: data
    return TensorSource(**(fields | changes))


# ---- how values are stored -------------------------------------------------------------------------------------------
def stored_bytes(values: Floats, kind: TensorType) -> Bytes:
    """Return floats as the bytes of a tensor of a float type or Q8_0."""
    if kind is TensorType.BF16:
        return bf16_bits(values).reshape(-1).view(np.uint8)
    return (
        np.ascontiguousarray(gguf.quants.quantize(values, gguf.GGMLQuantizationType(kind))).reshape(-1).view(np.uint8)
    )


def bf16_bits(values: Floats) -> npt.NDArray[np.uint16]:
    """Return float32 values cut to bfloat16 bit patterns."""
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)


def widened(bits: npt.NDArray[np.uint16]) -> Floats:
    """Return bfloat16 bit patterns as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def permuted(rows: npt.NDArray[Any], n_heads: int) -> npt.NDArray[Any]:
    """Reorder the rows of q or k as llama.cpp's converter does, so that RoPE pairs lie side by side.

    References
    ----------
    llama.cpp, ``convert_hf_to_gguf.py``, ``LlamaModel.permute``.
    """
    halves = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def i2s_weights(data: Bytes, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Unpack I2_S from the words of its description: weight j of a run is in byte j % 32, at bit 6 - 2 * (j // 32)."""
    j = np.arange(128)
    runs = data[:-32].reshape(-1, 32)
    codes = runs[:, j % 32] >> (6 - 2 * (j // 32)).astype(np.uint8) & 3
    return codes.astype(np.int8).reshape(shape) - np.int8(1), data[-32:-28].view("<f4")[0]


# ---- metadata --------------------------------------------------------------------------------------------------------
def vocabulary(size: int) -> list[str]:
    """Return a byte-level vocabulary with a few merges, Llama 3's special tokens and reserved ones to fill it up."""
    return [*WORDS, *SPECIAL, *(f"<|reserved_{number}|>" for number in range(size - MIN_VOCABULARY))]


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


def gguf_metadata(config: ModelConfig) -> dict[str, Any]:
    prefix = config.architecture
    sizes = {
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
        sizes |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    metadata = {"general.architecture": prefix, "general.name": config.name}
    metadata |= {f"{prefix}.{key}": value for key, value in sizes.items()}
    if config.rope_scaling is not None and config.rope_scaling.bands is None:
        metadata |= {
            f"{prefix}.rope.scaling.type": "linear",
            f"{prefix}.rope.scaling.factor": config.rope_scaling.factor,
        }
    tokens = vocabulary(config.vocab_size)
    return metadata | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL if i < len(WORDS) else CONTROL for i in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES],
        "tokenizer.ggml.bos_token_id": BEGIN,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.add_bos_token": True,
    }


def hf_files(config: ModelConfig, tied: bool, linear_class: str | None) -> dict[str, dict[str, Any]]:
    quantization = {"quant_method": "bitnet", "quantization_mode": "online" if linear_class is None else "offline"}
    settings = {
        "architectures": [config.family.hf_classes[0]],
        "hidden_act": config.activation,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_seq_len,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": tied,
        "vocab_size": config.vocab_size,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "quantization_config": quantization | ({} if linear_class is None else {"linear_class": linear_class}),
    }
    if config.rope_scaling is not None:
        settings["rope_scaling"] = _hf_rope_scaling(config.rope_scaling)
    tokenizer = toy_tokenizer()
    for number, text in enumerate(vocabulary(config.vocab_size)[MIN_VOCABULARY:], MIN_VOCABULARY):
        tokenizer["added_tokens"].append({"id": number, "content": text, "special": True})
    return {
        "config.json": settings,
        "generation_config.json": {"eos_token_id": [END, END_OF_TURN]},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {"add_bos_token": True},
    }


def _hf_rope_scaling(scaling: RopeScaling) -> dict[str, Any]:
    if scaling.bands is None:
        return {"type": "linear", "factor": scaling.factor}
    low, high, context = scaling.bands
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }
