"""Hyper-parameters of a model, read from a GGUF file's metadata or a Hugging Face config.json and checked.

What follows from the architecture's name alone, such as the activation, comes from its record in ``families/``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bitnet_numba.errors import FormatError, UnsupportedError, excerpt
from bitnet_numba.model.families import FAMILIES, Activation, Family, family_of
from bitnet_numba.model.refused_settings import GGUF, HUGGING_FACE, QUANTIZATION, ROPE, refuse_settings

_T = TypeVar("_T")

MAX_LAYERS = 512
MAX_CONTEXT = (1 << 24) - 1
MAX_THETA = 1e12  # of RoPE; models have 1e4 to 1e7
MIN_FACTOR, MAX_FACTOR = 0.25, 1e6  # of RoPE scaling; models have 1 to 64
MAX_SIZE = 1 << 19  # of each of SIZES, and of the attention heads together: what int32 sums of a row can hold
SIZES = ("n_layers", "hidden_size", "intermediate_size", "n_heads", "n_kv_heads", "head_dim")


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Parameters of RoPE scaling, which divides frequencies for a context longer than the original training's.

    Kind llama3 keeps high frequencies, outside its ``bands``: ``low_freq_factor``, ``high_freq_factor`` and
    ``original_max_position_embeddings``. Kind linear (None) divides all frequencies.
    """

    factor: float  # largest divisor
    bands: tuple[float, float, int] | None = None

    def __post_init__(self) -> None:
        in_range = MIN_FACTOR <= self.factor <= MAX_FACTOR
        _require(in_range, f"rope scaling factor is {self.factor}, not {MIN_FACTOR:g} to {MAX_FACTOR:g}")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The hyper-parameters of a model."""

    architecture: str  # GGUF's name of the family
    name: str
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    max_seq_len: int  # context length of the training, in tokens
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    activation: Activation  # the family's, unless ``config.json`` states another
    sub_norms: bool
    adjacent_pairs: bool  # this file has the rows of q and k for RoPE pairs (2i, 2i + 1), not (i, i + head_dim / 2)

    def __post_init__(self) -> None:
        for size in SIZES:
            _require(1 <= getattr(self, size) <= MAX_SIZE, f"{size} is {getattr(self, size)}, not 1 to {MAX_SIZE}")
        _require(self.n_layers <= MAX_LAYERS, f"n_layers is {self.n_layers}, more than {MAX_LAYERS}")
        _require(1 <= self.vocab_size < 2**31, f"vocab_size is {self.vocab_size}")
        _require(1 <= self.max_seq_len <= MAX_CONTEXT, f"max_seq_len is {self.max_seq_len}, not 1 to {MAX_CONTEXT}")
        _require(
            self.n_heads % self.n_kv_heads == 0,
            f"{self.n_heads} attention heads cannot share {self.n_kv_heads} key-value heads evenly",
        )
        width = self.n_heads * (self.head_dim + 32)  # with the most padding that a head can get
        _require(width <= MAX_SIZE, f"{self.n_heads} heads of {self.head_dim} are more than {MAX_SIZE} wide")
        _require(self.head_dim % 2 == 0, f"head_dim is {self.head_dim}, which has no pairs to rotate")
        _require(0 < self.rms_norm_eps < 1, f"rms_norm_eps is {self.rms_norm_eps}, not between 0 and 1")
        _require(1 <= self.rope_theta <= MAX_THETA, f"rope_theta is {self.rope_theta}, not 1 to {MAX_THETA:g}")

    @property
    def family(self) -> Family:
        """The record of the architecture."""
        return family_of(self.architecture)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise FormatError(f"model configuration: {what}")


class _Keys:
    """Typed access to the keys of a file; a key that is missing or of another type raises a FormatError."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values, self._prefix = values, prefix

    def get(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """Return a value of this kind; a bool is no int."""
        value = self._values.get(self._prefix + key)
        value = default if value is None else value
        if value is None:
            raise FormatError(f"key '{self._prefix}{key}': missing")
        if isinstance(value, bool) or not isinstance(value, kind):
            raise FormatError(f"key '{self._prefix}{key}': expected {kind.__name__}, got {type(value).__name__}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number, whole or not."""
        value = self._values.get(self._prefix + key)
        try:
            return float(value) if type(value) is int else self.get(key, float, default)
        except OverflowError:
            raise FormatError(f"key '{self._prefix}{key}': larger than any float64") from None


# ---- GGUF ------------------------------------------------------------------------------------------------------------
def config_from_gguf(metadata: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration from a GGUF file's metadata.

    Raises an UnsupportedError for an unknown architecture or RoPE scaling, and a FormatError for a key that is missing,
    of the wrong type, or out of range.
    """
    architecture = _Keys(metadata).get("general.architecture", str)
    family, keys = family_of(architecture), _Keys(metadata, f"{architecture}.")
    own = {key.removeprefix(f"{architecture}."): value for key, value in metadata.items()}
    refuse_settings(own, GGUF, f"architecture {architecture}: ")
    n_heads, hidden_size = keys.get("attention.head_count", int), keys.get("embedding_length", int)
    head_dim = keys.get("attention.key_length", int, hidden_size // max(n_heads, 1))
    if keys.get("attention.value_length", int, head_dim) != head_dim:
        raise UnsupportedError(f"key '{architecture}.attention.value_length': differs from the length of the keys")
    if keys.get("rope.dimension_count", int, head_dim) != head_dim:
        raise UnsupportedError(f"key '{architecture}.rope.dimension_count': only whole heads are rotated here")
    tokens: list[object] = _Keys(metadata).get("tokenizer.ggml.tokens", list, [])
    return ModelConfig(
        architecture=architecture,
        name=str(metadata.get("general.name", architecture)),
        n_layers=keys.get("block_count", int),
        hidden_size=hidden_size,
        intermediate_size=keys.get("feed_forward_length", int),
        n_heads=n_heads,
        n_kv_heads=keys.get("attention.head_count_kv", int, n_heads),
        head_dim=head_dim,
        vocab_size=keys.get("vocab_size", int, len(tokens)),
        max_seq_len=keys.get("context_length", int),
        rms_norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        rope_theta=keys.number("rope.freq_base", family.rope_theta),
        rope_scaling=_gguf_rope_scaling(keys),
        activation=family.activation,
        sub_norms=family.sub_norms,
        adjacent_pairs=family.adjacent_pairs,
    )


def _gguf_rope_scaling(keys: _Keys) -> RopeScaling | None:
    """Read a scaling by a factor; that of Llama 3 is in the tensor ``rope_freqs`` instead."""
    kind = keys.get("rope.scaling.type", str, "linear")  # llama.cpp, too, takes a factor without a type for linear
    if kind == "none":
        return None
    if kind != "linear":
        raise UnsupportedError(f"rope scaling {excerpt(kind)} is not supported; linear and llama3 are")
    return _linear(keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0)))


def _linear(factor: float) -> RopeScaling | None:
    return None if factor == 1 else RopeScaling(factor)


# ---- Hugging Face ----------------------------------------------------------------------------------------------------
def config_from_hf(config: Mapping[str, Any], name: str) -> ModelConfig:
    """Read the configuration from a parsed ``config.json``, with the errors of :func:`config_from_gguf`."""
    family, keys = _hf_family(config), _Keys(config)
    refuse_settings(config, HUGGING_FACE, "config.json: ")
    refuse_settings(quantization_config(config), QUANTIZATION, "config.json: quantization_config: ")
    _refuse_layer_types(keys.get("layer_types", list, []))
    n_heads, hidden_size = keys.get("num_attention_heads", int), keys.get("hidden_size", int)
    rope, rope_theta = _hf_rope(keys, family)
    return ModelConfig(
        architecture=family.architectures[0],
        name=name,
        n_layers=keys.get("num_hidden_layers", int),
        hidden_size=hidden_size,
        intermediate_size=keys.get("intermediate_size", int),
        n_heads=n_heads,
        n_kv_heads=keys.get("num_key_value_heads", int, n_heads),
        head_dim=keys.get("head_dim", int, hidden_size // max(n_heads, 1)),
        vocab_size=keys.get("vocab_size", int),
        max_seq_len=keys.get("max_position_embeddings", int),
        rms_norm_eps=keys.number("rms_norm_eps"),
        rope_theta=rope_theta,
        rope_scaling=_hf_rope_scaling(rope),
        activation=_hf_activation(keys.get("hidden_act", str, family.activation)),
        sub_norms=family.sub_norms,
        adjacent_pairs=False,
    )


def _hf_family(config: Mapping[str, Any]) -> Family:
    """Find the family by the model's class and quantization."""
    classes: list[object] = _Keys(config).get("architectures", list, [])
    quant_method, families = quantization_config(config).get("quant_method"), dict.fromkeys(FAMILIES.values())
    for family in families:
        if family.is_class_of(classes, quant_method):
            return family
    suffixes = {family: " with quant_method 'bitnet'" if family.requires_quant_method else "" for family in families}
    known = [name + suffix for family, suffix in suffixes.items() for name in family.hf_classes]
    raise UnsupportedError(
        f"config.json: architectures {excerpt(classes)} without BitNet quantization is not run here; "
        f"use a BitNet b1.58 checkpoint ({', '.join(known[:-1])} or {known[-1]})"
    )


def _refuse_layer_types(kinds: Sequence[object]) -> None:
    for layer, kind in enumerate(kinds):
        if kind != "full_attention":
            raise UnsupportedError(
                f"config.json: layer_types: layer {layer} is {excerpt(kind)}, which is not run here; only "
                "'full_attention' is"
            )


def quantization_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a ``config.json`` that says how weights are quantized; empty if there is none."""
    part: Mapping[str, Any] = _Keys(config).get("quantization_config", dict, {})
    return part


def _hf_activation(name: str) -> Activation:
    if name == "relu2":
        return "relu2"
    if name == "silu":
        return "silu"
    raise UnsupportedError(f"config.json: hidden_act {excerpt(name)} is not run here; relu2 and silu are")


def _hf_rope(keys: _Keys, family: Family) -> tuple[Mapping[str, Any], float]:
    """Return the parameters of RoPE and its base, of the two places that have them.

    As in transformers 5, ``rope_scaling`` counts where it is not empty, and then ``rope_parameters`` does not; that is
    refused where it would say something else.
    """
    scaling: Mapping[str, Any] = keys.get("rope_scaling", dict, {})
    parameters: Mapping[str, Any] = keys.get("rope_parameters", dict, {})
    rope = scaling or parameters
    theta = _Keys(rope).number("rope_theta", keys.number("rope_theta", family.rope_theta))
    if scaling and parameters:
        other = _Keys(parameters).number("rope_theta", theta)
        if _rope_kind(parameters) not in ("default", _rope_kind(scaling)) or other != theta:
            raise FormatError(
                "config.json: rope_scaling and rope_parameters contradict each other; keep the one that the model was "
                "trained with"
            )
    return rope, theta


def _rope_kind(rope: Mapping[str, Any]) -> object:
    return rope.get("rope_type", rope.get("type", "default"))


def _hf_rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind, keys = _rope_kind(rope), _Keys(rope)
    inner = [name for name, value in rope.items() if isinstance(value, dict)]
    if inner:
        raise UnsupportedError(f"config.json: RoPE parameters of their own for {excerpt(inner[0])} are not run here")
    if kind not in ("default", "linear", "llama3"):
        raise UnsupportedError(f"config.json: rope scaling {excerpt(kind)} is not supported; linear and llama3 are")
    refuse_settings(rope, ROPE, "config.json: RoPE: ")
    if kind == "default":
        return None
    factor = keys.number("factor")
    if kind == "linear":
        return _linear(factor)
    low, high = keys.number("low_freq_factor"), keys.number("high_freq_factor")
    context = keys.get("original_max_position_embeddings", int)
    _require(0 < low < high < math.inf, f"rope scaling bands are {low} and {high}, not two rising numbers above 0")
    _require(1 <= context <= MAX_CONTEXT, f"original_max_position_embeddings is {context}, not 1 to {MAX_CONTEXT}")
    return RopeScaling(factor, (low, high, context))
