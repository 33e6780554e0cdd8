"""Model directories as data that say what cannot be, with words of the error that must follow."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bitnet_numba.formats.gguf import TensorType
from tests.model.semantic_cases import TOY
from tests.tiny import toy_model
from tests.tiny_files import HuggingFaceModel

HUGE = 10**400  # larger than any float64

SpoilDirectory = Callable[[HuggingFaceModel], object]

_NORM = np.ones(256, np.float32)


def _config(**changes: Any) -> SpoilDirectory:
    return lambda model: model.config.update(changes)


def _quantization(**changes: Any) -> SpoilDirectory:
    return lambda model: model.config["quantization_config"].update(changes)


def _rope(**changes: Any) -> SpoilDirectory:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    return _config(rope_scaling=scaling | changes)


def _saved(name: str, dtype: str, array: Any) -> SpoilDirectory:
    return lambda model: model.tensors.update({name: (dtype, array)})


def _not_saved(name: str) -> SpoilDirectory:
    return lambda model: model.tensors.pop(name)


_HF_Q = "model.layers.0.self_attn.q_proj.weight"

_CONFIGS: dict[str, tuple[SpoilDirectory, str]] = {
    "no layers": (lambda model: model.config.pop("num_hidden_layers"), "key 'num_hidden_layers': missing"),
    "layers as a text": (_config(num_hidden_layers="2"), "key 'num_hidden_layers': expected int, got str"),
    "layers as a truth value": (_config(num_hidden_layers=True), "expected int, got bool"),
    "a fraction of layers": (_config(num_hidden_layers=2.0), "expected int, got float"),
    "another class": (_config(architectures=["GemmaForCausalLM"]), "architectures ['GemmaForCausalLM'] without BitNet"),
    "a float Llama": (
        _config(architectures=["LlamaForCausalLM"], quantization_config=None),
        "without BitNet quantization is not run here; use a BitNet b1.58 checkpoint",
    ),
    "no class": (lambda model: model.config.pop("architectures"), "architectures [] without BitNet quantization"),
    "class is a number": (_config(architectures=5), "key 'architectures': expected list, got int"),
    "quantization is a text": (_config(quantization_config="bitnet"), "'quantization_config': expected dict, got str"),
    "norms inside of linear layers": (
        _quantization(use_rms_norm=True),
        "key 'use_rms_norm' is True, which is not run",
    ),
    "unknown linear class": (
        _quantization(linear_class="x"),
        "key 'linear_class' is 'x', which is not run",
    ),
    "attention bias": (_config(attention_bias=True), "key 'attention_bias' is True, which is not run"),
    "bias": (_config(mlp_bias=True), "key 'mlp_bias' is True, which is not run"),
    "activation of control characters": (_config(hidden_act="\n\x1b[31m"), r"hidden_act '\n\x1b[31m' is not run here"),
    "a million classes": (_config(architectures=["x"] * 2**20), "'x'... without BitNet quantization"),
    "another activation": (_config(hidden_act="gelu"), "hidden_act 'gelu' is not run here; relu2 and silu are"),
    "heads not divisible": (_config(num_key_value_heads=3), "4 attention heads cannot share 3 key-value heads"),
    "eps 0": (_config(rms_norm_eps=0), "rms_norm_eps is 0.0, not between 0 and 1"),
    "eps of 400 digits": (_config(rms_norm_eps=HUGE), "key 'rms_norm_eps': larger than any float64"),
    "theta of 400 digits": (_config(rope_theta=HUGE), "key 'rope_theta': larger than any float64"),
    "theta infinite": (_config(rope_theta=float("inf")), "rope_theta is inf, not 1 to"),
    "layers of 400 digits": (_config(num_hidden_layers=HUGE), "n_layers is 1000"),
    "rope scaling is a list": (_config(rope_scaling=[1]), "key 'rope_scaling': expected dict, got list"),
    "unknown rope scaling": (_rope(rope_type="yarn"), "rope scaling 'yarn' is not supported; linear and llama3 are"),
    "rope scaling of no kind": (_rope(rope_type=None), "rope scaling None is not supported"),
    "rope scaling without a factor": (_config(rope_scaling={"type": "linear"}), "key 'factor': missing"),
    "rope scaling by -1": (_config(rope_scaling={"type": "linear", "factor": -1}), "rope scaling factor is -1.0, not"),
    "rope scaling by NaN": (_rope(factor=float("nan")), "rope scaling factor is nan, not 0.25 to"),
    "rope bands that fall": (_rope(low_freq_factor=4.0), "rope scaling bands are 4.0 and 4.0, not two rising"),
    "endless rope bands": (_rope(high_freq_factor=float("inf")), "rope scaling bands are 1.0 and inf, not two"),
    "rope band of no context": (
        _rope(original_max_position_embeddings=0),
        "original_max_position_embeddings is 0, not",
    ),
    "tied by a text": (_config(tie_word_embeddings="false"), "'tie_word_embeddings': expected true or false, got 'fal"),
    "untied without a head": (_config(tie_word_embeddings=False), "tensor 'output.weight' is missing"),
}

_SAVED: dict[str, tuple[SpoilDirectory, str]] = {
    "no projection": (_not_saved(_HF_Q), "tensor 'attn_q.weight' of layer 0 is missing"),
    "no scale": (_not_saved(f"{_HF_Q}_scale"), "tensor 'attn_q.scale' of layer 0 is missing"),
    "no norm": (_not_saved("model.norm.weight"), "tensor 'output_norm.weight' is missing"),
    "tensor of no family": (_saved("model.extra.weight", "F32", _NORM), "tensor 'model.extra.weight' does not belong"),
    "norm by another family's name": (
        _saved("model.layers.0.self_attn.inner_attn_ln.weight", "F32", _NORM),
        "tensor 'model.layers.0.self_attn.inner_attn_ln.weight' does not belong to this architecture",
    ),
    "the same norm by two names": (
        lambda model: (
            _config(architectures=["BitnetForCausalLM"])(model),
            _saved("model.layers.0.self_attn.inner_attn_ln.weight", "F32", _NORM)(model),
        ),
        "are the same; get the model again",
    ),
    "packed projection not packed": (
        _saved(_HF_Q, "U8", np.full((256, 256), 0b01010101, np.uint8)),
        "tensor 'attn_q.weight' of layer 0 has the shape (256, 256), the model needs (64, 256)",
    ),
    "rows that cannot be packed": (
        _config(intermediate_size=258),
        "tensor 'ffn_gate.weight' of layer 0: 258 rows cannot be packed by four",
    ),
    "float projection with a scale": (
        _saved(_HF_Q, "F32", np.ones((256, 256), np.float32)),
        "tensor 'attn_q.scale' of layer 0 does not belong",
    ),
    "projection of whole numbers": (
        lambda model: (_saved(_HF_Q, "I8", np.zeros((256, 256), np.int8))(model), _not_saved(f"{_HF_Q}_scale")(model)),
        f"tensor '{_HF_Q}': a linear layer in full precision (other layers are packed, and it is not)",
    ),
    "code 3": (
        _saved(_HF_Q, "U8", np.full((64, 256), 0b01011101, np.uint8)),
        "tensor 'attn_q.weight' of layer 0: code byte 0 holds the code 3",
    ),
    "two scales": (
        _saved(f"{_HF_Q}_scale", "F32", np.ones(2, np.float32)),
        "tensor 'attn_q.scale' of layer 0 has the shape (2,), the model needs (1,)",
    ),
    "scale 0": (_saved(f"{_HF_Q}_scale", "F32", np.zeros(1, np.float32)), "'attn_q.weight' of layer 0: its scale is 0"),
    "scale NaN": (_saved(f"{_HF_Q}_scale", "BF16", np.full(1, 0x7FC0, np.uint16)), "its scale is nan"),
    "scale negative": (_saved(f"{_HF_Q}_scale", "F32", np.full(1, -1, np.float32)), "its scale is -1.0"),
    "scale whose inverse is infinite": (
        lambda model: (
            _saved(f"{_HF_Q}_scale", "F32", np.full(1, 1e-45, np.float32))(model),
            _quantization(linear_class="bitlinear")(model),
        ),
        "tensor 'attn_q.weight' of layer 0: its scale is inf",
    ),
    "norm with NaN": (
        _saved("model.layers.1.input_layernorm.weight", "F32", np.full(256, np.nan, np.float32)),
        "tensor 'attn_norm.weight' of layer 1: holds a value that is not finite",
    ),
    "norm of whole numbers": (
        _saved("model.norm.weight", "I32", np.ones(256, np.int32)),
        "tensor 'model.norm.weight' holds I32",
    ),
    "embedding of whole numbers": (
        _saved("model.embed_tokens.weight", "I8", np.zeros((301, 256), np.int8)),
        "tensor 'token_embd.weight': I8 is not run here; save it as BF16, F16 or F32",
    ),
}

BAD_DIRECTORIES = _CONFIGS | _SAVED
"""name: (what is done to a good model, words of the message)."""


def good_directory() -> HuggingFaceModel:
    return toy_model(embedding_type=TensorType.BF16, **TOY).checkpoint()
