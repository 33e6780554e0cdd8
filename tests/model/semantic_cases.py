"""GGUF models as data whose files are well formed and say what cannot be, with words of the error that must follow."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.formats.gguf_writer import TensorSource
from bitnet_numba.formats.packing.i2s import pack_i2s
from bitnet_numba.formats.packing.tq import pack_tq1_0, pack_tq2_0
from tests.tiny import toy_model
from tests.tiny_files import GGUFModel, replaced

TOY = {"hidden_size": 256, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 256}

SpoilGGUF = Callable[[GGUFModel], object]


def _key(name: str, value: Any) -> SpoilGGUF:
    full = name if name.startswith(("general.", "tokenizer.")) else f"bitnet-b1.58.{name}"
    return lambda model: model.metadata.update({full: value})


def _heads_alone(name: str, value: Any) -> SpoilGGUF:
    """Change a size of which heads are made, and do not say how large they are."""
    return lambda model: (_key(name, value)(model), _no_key("rope.dimension_count")(model))


def _no_key(name: str) -> SpoilGGUF:
    return lambda model: model.metadata.pop(f"bitnet-b1.58.{name}")


def _tensor(name: str, **changes: Any) -> SpoilGGUF:
    return lambda model: model.tensors.update({name: replaced(model.tensors[name], **changes)})


def _no_tensor(name: str) -> SpoilGGUF:
    return lambda model: model.tensors.pop(name)


def _new_tensor(name: str, values: Any, kind: TensorType = TensorType.F32) -> SpoilGGUF:
    array = np.asarray(values, np.float32)
    return lambda model: model.tensors.update({name: TensorSource(name, kind, array.shape, lambda: array)})


def _i2s(scale: float, first_byte: int = 0b01_01_01_01) -> np.ndarray:
    """Return the bytes of attn_q, all zeros, with this scale and first byte of codes."""
    data = pack_i2s(np.zeros((256, 256), np.int8), 1.0)
    data[0] = first_byte
    data[-32:-28] = np.array([scale], np.float32).view(np.uint8)
    return data


def _two_scales() -> np.ndarray:
    scales = np.ones((256, 1), np.float32)
    scales[7] = 0.5
    return scales


_Q, _V = "blk.0.attn_q.weight", "blk.1.attn_v.weight"
_ONES = np.ones((256, 256), np.int8)
_NORM = np.ones(256, np.float32)

_KEYS: dict[str, tuple[SpoilGGUF, str]] = {
    "no layers": (_no_key("block_count"), "key 'bitnet-b1.58.block_count': missing"),
    "no architecture": (
        lambda model: model.metadata.pop("general.architecture"),
        "key 'general.architecture': missing",
    ),
    "another architecture": (
        _key("general.architecture", "gemma"),
        "architecture 'gemma' is not run here; use one of bitnet, bitnet-b1.58, bitnet-25, llama",
    ),
    "architecture of control characters": (
        _key("general.architecture", "\n\x1b[31m"),
        r"architecture '\n\x1b[31m' is not run here",
    ),
    "architecture of a million letters": (_key("general.architecture", "x" * 2**20), "xxx... is not run here; use one"),
    "architecture is a number": (_key("general.architecture", 1), "key 'general.architecture': expected str, got int"),
    "keys of another architecture": (
        _key("general.architecture", "llama"),
        "key 'llama.attention.head_count': missing",
    ),
    "layers as a text": (_key("block_count", "2"), "key 'bitnet-b1.58.block_count': expected int, got str"),
    "layers as a truth value": (_key("block_count", True), "expected int, got bool"),
    "a fraction of heads": (_key("attention.head_count", 4.0), "expected int, got float"),
    "heads a layer": (_key("attention.head_count_kv", [2, 2]), "expected int, got list"),
    "0 layers": (_key("block_count", 0), "n_layers is 0, not 1 to"),
    "513 layers": (_key("block_count", 513), "n_layers is 513, more than 512"),
    "a layer too many": (_key("block_count", 3), "tensor 'attn_norm.weight' of layer 2 is missing"),
    "a layer too few": (_key("block_count", 1), "tensor 'attn_k.weight' of layer 1 does not belong"),
    "0 heads": (_heads_alone("attention.head_count", 0), "n_heads is 0, not 1 to"),
    "0 key-value heads": (_key("attention.head_count_kv", 0), "n_kv_heads is 0, not 1 to"),
    "heads not divisible": (
        _key("attention.head_count_kv", 3),
        "4 attention heads cannot share 3 key-value heads evenly",
    ),
    "more key-value heads than heads": (_key("attention.head_count_kv", 8), "4 attention heads cannot share 8"),
    "odd heads": (_heads_alone("attention.head_count", 256), "head_dim is 1, which has no pairs to rotate"),
    "heads that do not fill the hidden state": (
        _key("attention.head_count", 6),
        "key 'bitnet-b1.58.rope.dimension_count': only whole heads are rotated here",
    ),
    "values of another length": (
        _key("attention.value_length", 32),
        "key 'bitnet-b1.58.attention.value_length': differs from the length of the keys",
    ),
    "hidden size of 2^31": (_heads_alone("embedding_length", 2**31), "hidden_size is 2147483648, not 1 to "),
    "0 inner size": (_key("feed_forward_length", 0), "intermediate_size is 0, not 1 to"),
    "0 context": (_key("context_length", 0), "max_seq_len is 0, not 1 to 16777215"),
    "context of 2^24": (_key("context_length", 2**24), "max_seq_len is 16777216, not 1 to 16777215"),
    "eps 0": (_key("attention.layer_norm_rms_epsilon", 0.0), "rms_norm_eps is 0.0, not between 0 and 1"),
    "eps 1": (_key("attention.layer_norm_rms_epsilon", 1.0), "rms_norm_eps is 1.0, not between 0 and 1"),
    "eps -1e-5": (_key("attention.layer_norm_rms_epsilon", -1e-5), "rms_norm_eps is -9.99"),
    "eps NaN": (_key("attention.layer_norm_rms_epsilon", float("nan")), "rms_norm_eps is nan, not between"),
    "theta infinite": (_key("rope.freq_base", float("inf")), "rope_theta is inf, not 1 to"),
    "theta NaN": (_key("rope.freq_base", float("nan")), "rope_theta is nan, not 1 to"),
    "theta 0": (_key("rope.freq_base", 0.0), "rope_theta is 0.0, not 1 to"),
    "theta negative": (_key("rope.freq_base", -10000.0), "rope_theta is -10000.0, not 1 to"),
    "unknown rope scaling": (_key("rope.scaling.type", "yarn"), "rope scaling 'yarn' is not supported; linear and"),
    "rope scaling of control characters": (_key("rope.scaling.type", "\n\x1b"), r"rope scaling '\n\x1b' is not"),
    "rope scaling as a number": (_key("rope.scaling.type", 1), "key 'bitnet-b1.58.rope.scaling.type': expected str"),
    "rope scaling by 0": (
        lambda model: (_key("rope.scaling.type", "linear")(model), _key("rope.scaling.factor", 0.0)(model)),
        "rope scaling factor is 0.0, not 0.25 to",
    ),
    "vocabulary and embedding disagree": (
        _key("vocab_size", 300),
        "the vocabulary has 301 tokens, vocab_size says 300",
    ),
    "embedding of another length": (
        lambda model: (_key("vocab_size", 302)(model), model.metadata.pop("tokenizer.ggml.tokens")),
        "tensor 'token_embd.weight' has the shape (301, 256), the model needs (302, 256)",
    ),
    "no vocabulary": (
        lambda model: (_no_key("vocab_size")(model), model.metadata.pop("tokenizer.ggml.tokens")),
        "vocab_size is 0",
    ),
    "vocabulary is a number": (_key("tokenizer.ggml.tokens", 301), "'tokenizer.ggml.tokens': expected list, got int"),
    "vocabulary is a text": (_key("tokenizer.ggml.tokens", "x" * 301), "expected list, got str"),
}

_TENSORS: dict[str, tuple[SpoilGGUF, str]] = {
    "no embedding": (_no_tensor("token_embd.weight"), "tensor 'token_embd.weight' is missing"),
    "no output norm": (_no_tensor("output_norm.weight"), "tensor 'output_norm.weight' is missing"),
    "no sub-norm": (_no_tensor("blk.1.attn_sub_norm.weight"), "tensor 'attn_sub_norm.weight' of layer 1 is missing"),
    "no projection": (_no_tensor(_V), "tensor 'attn_v.weight' of layer 1 is missing"),
    "tensor of no family": (_new_tensor("blk.0.attn_q_norm.weight", _NORM), "tensor 'blk.0.attn_q_norm.weight' does"),
    "tensor of a layer that is not there": (
        _new_tensor("blk.2.attn_norm.weight", _NORM),
        "tensor 'attn_norm.weight' of layer 2 does not belong to this architecture",
    ),
    "bias": (_new_tensor("blk.0.attn_q.bias", _NORM), "tensor 'blk.0.attn_q.bias' does not belong"),
    "projection turned round": (
        lambda model: model.tensors.update({_V: replaced(model.tensors[_V], shape=(256, 128))}),
        "tensor 'attn_v.weight' of layer 1 has the shape (256, 128), the model needs (128, 256)",
    ),
    "projection of one dimension": (
        _tensor(_Q, shape=(65536,)),
        "tensor 'attn_q.weight' of layer 0 has the shape (65536,), the model needs (256, 256)",
    ),
    "norm of two dimensions": (
        _tensor("blk.0.attn_norm.weight", shape=(256, 1)),
        "tensor 'attn_norm.weight' of layer 0 has the shape (256, 1), the model needs (256,)",
    ),
    "norm too short": (
        _tensor("output_norm.weight", shape=(255,), data=np.ones(255, np.float32)),
        "tensor 'output_norm.weight' has the shape (255,)",
    ),
    "two separate scales": (
        _new_tensor("blk.0.attn_q.scale", [1.0, 2.0]),
        "tensor 'attn_q.scale' of layer 0 has the shape (2,), the model needs (1,)",
    ),
    "rope factors of another length": (
        _new_tensor("rope_freqs.weight", [1.0] * 31),
        "tensor 'rope_freqs.weight': expected 32 numbers above 0",
    ),
}

_VALUES: dict[str, tuple[SpoilGGUF, str]] = {
    "code 3": (_tensor(_Q, data=_i2s(1, 0b01_11_01_01)), "tensor 'attn_q.weight' of layer 0: code byte 0 holds the"),
    "scale 0": (_tensor(_Q, data=_i2s(0)), "tensor 'attn_q.weight' of layer 0: its scale is 0.0, expected a finite"),
    "scale negative": (_tensor(_Q, data=_i2s(-1)), "its scale is -1.0, expected a finite number above 0"),
    "scale NaN": (_tensor(_Q, data=_i2s(float("nan"))), "its scale is nan"),
    "scale infinite": (_tensor(_Q, data=_i2s(float("inf"))), "its scale is inf"),
    "separate scale 0": (_new_tensor("blk.0.attn_q.scale", [0]), "tensor 'attn_q.scale' of layer 0: its scale is 0.0"),
    "separate scale NaN": (_new_tensor("blk.0.attn_q.scale", [np.nan]), "tensor 'attn_q.scale' of layer 0: its scale"),
    "separate scale too large": (
        lambda model: (
            _tensor(_Q, data=_i2s(1e30))(model),
            _new_tensor("blk.0.attn_q.scale", [1e30])(model),
        ),
        "tensor 'attn_q.weight' of layer 0: its scale is inf",
    ),
    "TQ1_0 of two scales": (
        _tensor(_Q, type=TensorType.TQ1_0, data=pack_tq1_0(_ONES, _two_scales())),
        "tensor 'attn_q.weight' of layer 0: its blocks have different scales, from 0.5 to 1.0; ",
    ),
    "TQ2_0 of two scales": (
        _tensor(_Q, type=TensorType.TQ2_0, data=pack_tq2_0(_ONES, _two_scales())),
        "its blocks have different scales, from 0.5 to 1.0; a BitNet b1.58 matrix has one: take the model's I2_S",
    ),
    "TQ2_0 of scale 0": (
        _tensor(_Q, type=TensorType.TQ2_0, data=pack_tq2_0(_ONES, 0.0)),
        "tensor 'attn_q.weight' of layer 0: its scale is 0.0",
    ),
    "projection in Q8_0": (
        _tensor(_Q, type=TensorType.Q8_0, data=np.zeros(256 * 8 * 34, np.uint8)),
        "tensor 'attn_q.weight' of layer 0: Q8_0 is not ternary; take the model's I2_S file",
    ),
    "projection with NaN": (
        _tensor(_Q, type=TensorType.F32, data=np.full((256, 256), np.nan, np.float32)),
        "tensor 'attn_q.weight' of layer 0: holds a value that is not finite",
    ),
    "quantized norm": (
        _tensor("blk.1.ffn_norm.weight", type=TensorType.Q8_0, data=np.zeros(8 * 34, np.uint8)),
        "tensor 'ffn_norm.weight' of layer 1: a quantized norm; norms are kept in F32: convert again",
    ),
    "norm with infinity": (
        _tensor("blk.1.ffn_norm.weight", data=np.full(256, np.inf, np.float32)),
        "tensor 'ffn_norm.weight' of layer 1: holds a value that is not finite",
    ),
    "ternary embedding": (
        _tensor("token_embd.weight", type=TensorType.TQ2_0, data=np.zeros(301 * 66, np.uint8)),
        "tensor 'token_embd.weight': TQ2_0 is not run as an embedding; use F16, BF16, F32, Q8_0 or Q6_K",
    ),
    "embedding with a scale of infinity": (
        _tensor(
            "token_embd.weight", type=TensorType.Q8_0, data=np.tile(np.array([0, 0x7C] + [1] * 32, np.uint8), 2408)
        ),
        "tensor 'token_embd.weight': block 0 has the scale inf",
    ),
    "rope factor 0": (_new_tensor("rope_freqs.weight", [0.0] * 32), "'rope_freqs.weight': expected 32 numbers above 0"),
    "rope factor NaN": (_new_tensor("rope_freqs.weight", [np.nan] * 32), "'rope_freqs.weight': holds a value that is"),
}

BAD_GGUF = _KEYS | _TENSORS | _VALUES
"""name: (what is done to a good model, words of the message)."""


def good_gguf() -> GGUFModel:
    return toy_model(**TOY).gguf()
