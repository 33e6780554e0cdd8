"""What a model is, read from GGUF metadata and config.json; ``*_cases.py`` beside this hold what is refused."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from bitnet_numba.errors import FormatError
from bitnet_numba.model.config import MAX_LAYERS, ModelConfig, RopeScaling, config_from_gguf, config_from_hf
from tests.tiny import ARCHITECTURES, toy_model

OFFICIAL: dict[str, Any] = {  # bitnet-b1.58-2B-4T
    "general.architecture": "bitnet-b1.58",
    "general.name": "bitnet2b",
    "bitnet-b1.58.vocab_size": 128256,
    "bitnet-b1.58.context_length": 4096,
    "bitnet-b1.58.embedding_length": 2560,
    "bitnet-b1.58.block_count": 30,
    "bitnet-b1.58.feed_forward_length": 6912,
    "bitnet-b1.58.rope.dimension_count": 128,
    "bitnet-b1.58.attention.head_count": 20,
    "bitnet-b1.58.attention.head_count_kv": 5,
    "bitnet-b1.58.attention.layer_norm_rms_epsilon": 1e-5,
    "bitnet-b1.58.rope.freq_base": 500000.0,
}
LLAMA_8B: dict[str, Any] = {  # HF1BitLLM/Llama3-8B-1.58-100B-tokens, what matters of it
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "quantization_config": {"modules_to_not_convert": None, "quant_method": "bitnet"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
BANDS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def test_the_official_file() -> None:
    config = config_from_gguf(OFFICIAL)
    assert config == ModelConfig(
        architecture="bitnet-b1.58",
        name="bitnet2b",
        n_layers=30,
        hidden_size=2560,
        intermediate_size=6912,
        n_heads=20,
        n_kv_heads=5,
        head_dim=128,
        vocab_size=128256,
        max_seq_len=4096,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=None,
        activation="relu2",
        sub_norms=True,
        adjacent_pairs=False,
    )


def test_a_ternary_llama() -> None:
    config = config_from_hf(LLAMA_8B, "llama")
    assert (config.architecture, config.activation, config.sub_norms) == ("llama", "silu", False)
    assert (config.head_dim, config.n_heads, config.n_kv_heads) == (128, 32, 8)
    assert not config.adjacent_pairs  # Hugging Face keeps the halves apart
    assert config.rope_scaling is None


@pytest.mark.parametrize(
    ("architecture", "activation", "sub_norms", "adjacent_pairs", "rope_theta"),
    [
        ("bitnet-b1.58", "relu2", True, False, 500000.0),
        ("bitnet-25", "relu2", True, False, 500000.0),
        ("bitnet", "silu", True, False, 10000.0),
        ("llama", "silu", False, True, 10000.0),
    ],
)
def test_families(architecture: str, activation: str, sub_norms: bool, adjacent_pairs: bool, rope_theta: float) -> None:
    """Each has its own graph, and a theta where the file does not say."""
    metadata = {key.replace("bitnet-b1.58.", f"{architecture}."): value for key, value in OFFICIAL.items()}
    metadata["general.architecture"] = architecture
    del metadata[f"{architecture}.rope.freq_base"]
    config = config_from_gguf(metadata)
    assert (config.activation, config.sub_norms, config.adjacent_pairs) == (activation, sub_norms, adjacent_pairs)
    assert config.rope_theta == rope_theta


def test_what_a_gguf_file_may_leave_out() -> None:
    optional = ("general.name", "vocab_size", "rope.dimension_count", "attention.head_count_kv")
    metadata = {key: value for key, value in OFFICIAL.items() if not key.endswith(optional)}
    config = config_from_gguf(metadata | {"tokenizer.ggml.tokens": ["a"] * 77})
    assert config.name == "bitnet-b1.58"
    assert (config.vocab_size, config.n_kv_heads, config.head_dim) == (77, 20, 128)


@pytest.mark.parametrize("key", [key for key in OFFICIAL if not key.endswith(("name", "count_kv", "dimension_count"))])
def test_what_a_gguf_file_must_say(key: str) -> None:
    without = {other: value for other, value in OFFICIAL.items() if other != key}
    if key.endswith("freq_base"):  # a family has its own
        assert config_from_gguf(without) == config_from_gguf(OFFICIAL)
        return
    with pytest.raises(
        FormatError, match="vocab_size is 0" if key.endswith("vocab_size") else f"^key '{key}': missing"
    ):
        config_from_gguf(without)


@pytest.mark.parametrize(
    "key",
    [
        *("hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers"),
        *("rms_norm_eps", "vocab_size"),
    ],
)
def test_what_a_directory_must_say(key: str) -> None:
    without = {other: value for other, value in LLAMA_8B.items() if other != key}
    with pytest.raises(FormatError, match=f"^key '{key}': missing$"):
        config_from_hf(without, "llama")


def test_what_a_directory_may_leave_out() -> None:
    optional = ("hidden_act", "num_key_value_heads", "rope_scaling", "rope_theta", "mlp_bias", "attention_bias")
    config = config_from_hf({key: value for key, value in LLAMA_8B.items() if key not in optional}, "llama")
    assert (config.activation, config.n_kv_heads, config.rope_theta) == ("silu", 32, 10000.0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"rope_scaling": None}, None),
        ({"rope_scaling": {"rope_type": "default"}}, None),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, RopeScaling(2.0)),
        ({"rope_scaling": {"type": "linear", "factor": 1.0}}, None),
        ({"rope_scaling": {"rope_type": "llama3", **BANDS}}, RopeScaling(8.0, (1.0, 4.0, 8192))),
        ({"rope_parameters": {"rope_type": "llama3", **BANDS}}, RopeScaling(8.0, (1.0, 4.0, 8192))),
    ],
)
def test_rope_scalings_of_directories(settings: dict[str, Any], expected: RopeScaling | None) -> None:
    assert config_from_hf(LLAMA_8B | settings, "llama").rope_scaling == expected


def test_rope_theta_may_stand_beside_the_scaling() -> None:
    settings = LLAMA_8B | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    assert config_from_hf(settings, "llama").rope_theta == 1e6


@pytest.mark.parametrize(("kind", "expected"), [("none", None), ("linear", RopeScaling(3.0))])
def test_rope_scalings_of_gguf_files(kind: str, expected: RopeScaling | None) -> None:
    scaling = {"bitnet-b1.58.rope.scaling.type": kind, "bitnet-b1.58.rope.scaling.factor": 3.0}
    assert config_from_gguf(OFFICIAL | scaling).rope_scaling == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scaling", [None, RopeScaling(2.0)])
def test_both_formats_agree(architecture: str, scaling: RopeScaling | None) -> None:
    model = toy_model(architecture, n_heads=3, n_kv_heads=1, head_dim=36, rope_scaling=scaling)
    of_gguf = config_from_gguf(model.gguf().metadata)
    of_directory = config_from_hf(model.checkpoint().config, "toy")
    assert of_directory == model.config
    assert replace(of_gguf, adjacent_pairs=False) == model.config
    assert of_gguf.adjacent_pairs == (architecture == "llama")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_layers", 0),
        ("n_layers", MAX_LAYERS + 1),
        ("hidden_size", -1),
        ("intermediate_size", 2**20 + 1),
        ("n_heads", 0),
        ("n_kv_heads", 3),
        ("head_dim", 63),
        ("vocab_size", 0),
        ("vocab_size", 2**31),
        ("max_seq_len", 0),
        ("max_seq_len", 2**24),
        ("rms_norm_eps", 0.0),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", float("inf")),
        ("rope_theta", -1.0),
    ],
)
def test_no_configuration_is_made_of_impossible_values(field: str, value: Any) -> None:
    settings = asdict(config_from_gguf(OFFICIAL)) | {field: value}
    with pytest.raises(FormatError, match=r"^model configuration: "):
        ModelConfig(**settings)
