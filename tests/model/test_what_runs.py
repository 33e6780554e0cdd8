"""What a file says is what runs: full precision, ordinary models, heads and RoPE are read as stated, or refused.

The expectations are those of transformers 5.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitnet_numba
from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError
from bitnet_numba.export.gguf import export_gguf
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.model.config import config_from_gguf, config_from_hf
from bitnet_numba.model.open import open_source
from bitnet_numba.validate.check import validate_model
from bitnet_numba.validate.inspect import inspect_model
from tests.tiny import HuggingFaceModel, toy_model
from tests.tiny_files import gguf_metadata

DOWN = "model.layers.0.mlp.down_proj"


def read_all(path: Path) -> None:
    """Read every linear layer, as loading does."""
    source = open_source(path)
    for layer in range(source.config.n_layers):
        for role in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            source.linear(role, layer)


# ---- linear layers in full precision ---------------------------------------------------------------------------------
def kept(linear_class: str | None, *modules: str) -> HuggingFaceModel:
    contents = toy_model(has_masters=True).checkpoint(linear_class)
    contents.config.setdefault("quantization_config", {"quant_method": "bitnet"})
    contents.config["quantization_config"]["modules_to_not_convert"] = list(modules)
    return contents


@pytest.mark.parametrize("linear_class", ["autobitlinear", None])
@pytest.mark.parametrize("module", [DOWN, "layers.0.mlp", "down_proj", "model.layers.0.mlp.down"])
def test_a_layer_that_is_not_converted_is_refused_by_name(
    linear_class: str | None, module: str, tmp_path: Path
) -> None:
    path = kept(linear_class, "lm_head", module).write(tmp_path / "toy")
    for use in (read_all, lambda path: export_gguf(path, tmp_path / "out.gguf"), bitnet_numba.load):
        with pytest.raises(UnsupportedError, match=r"mlp\.(gate|down)_proj\.weight': a linear layer in full precision"):
            use(path)
    assert any("full precision" in note for note in inspect_model(path).files.notes)
    assert validate_model(path).exit_code == 13


def test_a_head_that_is_not_converted_is_as_it_should_be(tmp_path: Path) -> None:
    path = kept("autobitlinear", "lm_head").write(tmp_path / "toy")
    read_all(path)
    assert inspect_model(path).files.notes == ()


def test_floats_among_packed_layers_are_refused(tmp_path: Path) -> None:
    contents = kept("autobitlinear")
    contents.tensors[f"{DOWN}.weight"] = toy_model(has_masters=True).checkpoint(None).tensors[f"{DOWN}.weight"]
    del contents.tensors[f"{DOWN}.weight_scale"]
    with pytest.raises(UnsupportedError, match="other layers are packed, and it is not"):
        read_all(contents.write(tmp_path / "toy"))


@pytest.mark.parametrize("modules", ["lm_head", [1], [""], {"lm_head": True}])
def test_a_list_of_modules_that_is_none_is_refused(modules: Any, tmp_path: Path) -> None:
    contents = kept("autobitlinear")
    contents.config["quantization_config"]["modules_to_not_convert"] = modules
    with pytest.raises(FormatError, match="modules_to_not_convert"):
        read_all(contents.write(tmp_path / "toy"))


def test_a_pattern_of_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"pattern 'model\.layers\.\(0\|1\)'"):
        read_all(kept("autobitlinear", "model.layers.(0|1)").write(tmp_path / "toy"))


# ---- ordinary models -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.BF16, TensorType.F32])
def test_a_dense_llama_is_refused_by_tensor_name(kind: TensorType, tmp_path: Path) -> None:
    path = toy_model("llama", has_masters=True).gguf(kind).write(tmp_path / "plain.gguf")
    with pytest.raises(UnsupportedError, match=r"'attn_q\.weight' of layer 0: a linear layer in full precision"):
        bitnet_numba.load(path)


@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.F32])
def test_a_llama_whose_floats_are_ternary_is_run(kind: TensorType, tmp_path: Path) -> None:
    read_all(toy_model("llama").gguf(kind).write(tmp_path / "ternary.gguf"))


def test_masters_of_a_bitnet_architecture_are_run(tmp_path: Path) -> None:
    read_all(toy_model("bitnet-b1.58", has_masters=True).gguf(TensorType.F16).write(tmp_path / "masters.gguf"))


def test_floats_among_ternary_layers_of_a_gguf_file_are_refused(tmp_path: Path) -> None:
    model = toy_model(has_masters=True)
    contents, name = model.gguf(), "blk.1.attn_v.weight"
    contents.tensors[name] = model.gguf(TensorType.F32).tensors[name]
    with pytest.raises(UnsupportedError, match=r"'attn_v\.weight' of layer 1: a linear layer in full precision"):
        read_all(contents.write(tmp_path / "mixed.gguf"))


@pytest.mark.parametrize(("architecture", "is_run"), [("bitnet-b1.58", False), ("bitnet", True)])
def test_a_checkpoint_without_quantization_is_dense(architecture: str, is_run: bool, tmp_path: Path) -> None:
    """BitNetForCausalLM is dense without it, in transformers; 1bitLLM's class quantizes whatever config.json says."""
    contents = toy_model(architecture, has_masters=True).checkpoint(None)
    contents.config.pop("quantization_config", None)
    path = contents.write(tmp_path / "toy")
    if is_run:
        read_all(path)
    else:
        with pytest.raises(UnsupportedError, match="a linear layer in full precision"):
            read_all(path)


# ---- tied or not -----------------------------------------------------------------------------------------------------
def test_another_head_beside_a_tied_embedding_is_used(tmp_path: Path) -> None:
    contents = toy_model().checkpoint()
    kind, embedding = contents.tensors["model.embed_tokens.weight"]
    contents.tensors["lm_head.weight"] = kind, embedding[::-1].copy()
    contents.config["tie_word_embeddings"] = True
    source = open_source(contents.write(tmp_path / "toy"))
    assert not source.tied
    assert "'lm_head.weight' is another matrix: it is the head" in source.notes[0]
    np.testing.assert_array_equal(source.matrix("output").values, source.matrix("token_embd").values[::-1])


def test_an_exported_file_has_that_head_too(tmp_path: Path) -> None:
    contents = toy_model(vocab_size=300, embedding_type=TensorType.BF16).checkpoint()
    kind, embedding = contents.tensors["model.embed_tokens.weight"]
    contents.tensors["lm_head.weight"] = kind, embedding[::-1].copy()
    contents.config["tie_word_embeddings"] = True
    written = export_gguf(contents.write(tmp_path / "toy"), tmp_path / "out.gguf")
    assert "it is the head" in written.notes[0]
    source = open_source(tmp_path / "out.gguf")
    np.testing.assert_array_equal(source.matrix("output").values, source.matrix("token_embd").values[::-1])


def test_the_embedding_once_more_is_a_tied_head(tmp_path: Path) -> None:
    contents = toy_model().checkpoint()
    contents.tensors["lm_head.weight"] = contents.tensors["model.embed_tokens.weight"]
    contents.config["tie_word_embeddings"] = True
    source = open_source(contents.write(tmp_path / "toy"))
    assert (source.tied, source.notes) == (True, ())


def test_null_does_not_tie(tmp_path: Path) -> None:
    contents = toy_model(head_type=TensorType.BF16).checkpoint()
    contents.config["tie_word_embeddings"] = None
    assert not open_source(contents.write(tmp_path / "toy")).tied


# ---- RoPE ------------------------------------------------------------------------------------------------------------
def hf_config(**changes: Any) -> dict[str, Any]:
    return toy_model().checkpoint().config | changes


LINEAR = {"type": "linear", "factor": 2.5}


@pytest.mark.parametrize(
    ("changes", "factor", "theta"),
    [
        ({"rope_scaling": LINEAR}, 2.5, 10000.0),
        ({"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, 2.5, 10000.0),
        ({"rope_scaling": {**LINEAR, "rope_theta": 5e5}, "rope_theta": 1e4}, 2.5, 5e5),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}}, 4.0, 5e5),
        ({"rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 4.0, 10000.0),
        ({"rope_scaling": None, "rope_parameters": None}, None, 10000.0),
    ],
)
def test_rope_scaling_counts_before_rope_parameters(changes: Any, factor: float | None, theta: float) -> None:
    config = config_from_hf(hf_config(**{"rope_theta": 10000.0, **changes}), "toy")
    assert (config.rope_scaling and config.rope_scaling.factor, config.rope_theta) == (factor, theta)


@pytest.mark.parametrize(
    "parameters",
    [{"rope_type": "default", "rope_theta": 5e5}, {"rope_type": "llama3", "factor": 8.0}],
)
def test_two_that_contradict_each_other_are_refused(parameters: Any) -> None:
    with pytest.raises(FormatError, match="rope_scaling and rope_parameters contradict each other"):
        config_from_hf(hf_config(rope_theta=10000.0, rope_scaling=LINEAR, rope_parameters=parameters), "toy")


@pytest.mark.parametrize("kind", ["longrope", "proportional", "yarn", "dynamic", "su", "mrope", 7])
def test_other_scalings_are_refused_by_their_own_name(kind: Any) -> None:
    with pytest.raises(UnsupportedError, match=f"rope scaling '?{kind}'?"):
        config_from_hf(hf_config(rope_scaling={"rope_type": kind}), "toy")


def test_parameters_by_kind_of_layer_are_refused() -> None:
    rope = {"full_attention": {"rope_type": "default"}}
    with pytest.raises(UnsupportedError, match="'full_attention'"):
        config_from_hf(hf_config(rope_parameters=rope), "toy")


def test_a_factor_alone_is_linear_in_gguf_files() -> None:
    metadata = gguf_metadata(toy_model().config) | {"bitnet-b1.58.rope.scaling.factor": 4.0}
    scaling = config_from_gguf(metadata).rope_scaling
    assert scaling is not None
    assert scaling.factor == 4.0


# ---- other settings that change the computation ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_bias", True),
        ("mlp_bias", True),
        ("sliding_window", 4096),
        ("partial_rotary_factor", 0.5),
        ("final_logit_softcapping", 30.0),
        ("num_experts", 8),
        ("weight_bits", 2),
        ("input_bits", 4),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("quantization_config", {"quant_method": "gptq"}),
        ("quantization_config", {"quant_method": "bitnet", "quantization_mode": "dynamic"}),
        ("quantization_config", {"quant_method": "bitnet", "linear_class": "other"}),
        ("quantization_config", {"quant_method": "bitnet", "use_rms_norm": True}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.25}),
    ],
)
def test_a_setting_of_config_json_is_refused_by_name(key: str, value: Any) -> None:
    name = list(value)[-1] if isinstance(value, dict) else key
    with pytest.raises(UnsupportedError, match=name):
        config_from_hf(hf_config(**{key: value}), "toy")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.scale", 0.5),
        ("attention.clamp_kqv", 8.0),
        ("attention.causal", False),
        ("attention.sliding_window", 512),
        ("final_logit_softcapping", 30.0),
        ("expert_count", 8),
        ("logit_scale", 2.0),
        ("rope.scaling.attn_factor", 0.5),
    ],
)
def test_a_setting_of_a_gguf_file_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=f"key '{key}' is {value}"):
        config_from_gguf(gguf_metadata(toy_model().config) | {f"bitnet-b1.58.{key}": value})


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_bits": 1, "input_bits": 8},
        {"sliding_window": None, "use_sliding_window": False, "num_local_experts": 0, "logit_scale": 1.0},
        {"layer_types": ["full_attention", "full_attention"], "partial_rotary_factor": 1},
    ],
)
def test_settings_that_change_nothing_are_accepted(changes: Any) -> None:
    config_from_hf(hf_config(**changes), "toy")


def test_errors_are_of_the_program() -> None:
    with pytest.raises(BitNetError):
        config_from_hf(hf_config(layer_types="full_attention"), "toy")
