"""The one function that decides what is quantized, over the names of every family."""

import pytest

from bitnet_numba.errors import UnsupportedError
from bitnet_numba.export.quantization import TYPES, check_blocks, is_quantized, stored_type
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.tensor_formats import FORMATS
from bitnet_numba.model.families import FAMILIES

gguf_role, hf_role = FAMILIES["bitnet"].gguf.role, FAMILIES["bitnet"].hugging_face.role

LINEAR_GGUF = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
LINEAR_HF = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]
GGUF_NORMS = ["attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"]
HF_NORMS = [
    "input_layernorm",
    "post_attention_layernorm",
    "self_attn.attn_sub_norm",  # transformers' BitNet
    "mlp.ffn_sub_norm",
    "self_attn.inner_attn_ln",  # 1bitLLM's
    "mlp.ffn_layernorm",
]

# name: whether a ternary file holds it as ternary weights
GGUF_NAMES = {
    "token_embd.weight": False,
    "output.weight": False,
    "output_norm.weight": False,
    "rope_freqs.weight": False,
    **{f"blk.29.{name}.weight": True for name in LINEAR_GGUF},
    **{f"blk.29.{name}.scale": False for name in LINEAR_GGUF},
    **{f"blk.0.{name}.weight": False for name in GGUF_NORMS},
}
HF_NAMES = {
    "model.embed_tokens.weight": False,
    "lm_head.weight": False,
    "model.norm.weight": False,
    **{f"model.layers.7.{name}.weight": True for name in LINEAR_HF},
    **{f"model.layers.7.{name}.weight_scale": False for name in LINEAR_HF},
    **{f"model.layers.7.{name}.weight": False for name in HF_NORMS},
}


@pytest.mark.parametrize("name", GGUF_NAMES)
def test_names_of_gguf_files(name: str) -> None:
    role = gguf_role(name)
    assert role is not None
    assert is_quantized(role) is GGUF_NAMES[name]


@pytest.mark.parametrize("name", HF_NAMES)
def test_names_of_checkpoints(name: str) -> None:
    role = hf_role(name)
    assert role is not None
    assert is_quantized(role) is HF_NAMES[name]


@pytest.mark.parametrize("wanted", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("name", [name for name, quantized in GGUF_NAMES.items() if not quantized])
def test_what_is_not_quantized_stays_a_float_in_every_type(name: str, wanted: TensorType) -> None:
    role = gguf_role(name)
    assert role is not None
    stored = stored_type(role, wanted, lambda: TensorType.BF16)
    assert stored in (TensorType.F32, TensorType.F16, TensorType.BF16)
    assert "norm" not in name or stored is TensorType.F32


def test_embeddings_are_exact_in_files_of_every_type() -> None:
    role = gguf_role("token_embd.weight")
    assert role is not None
    assert stored_type(role, TensorType.I2_S, lambda: TensorType.BF16) is TensorType.BF16
    assert stored_type(role, TensorType.F16, lambda: TensorType.BF16) is TensorType.BF16
    assert stored_type(role, TensorType.F32, lambda: TensorType.BF16) is TensorType.F32


def test_file_types_are_those_of_the_gguf_package() -> None:
    import gguf

    for kind in (TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.TQ1_0, TensorType.TQ2_0):
        name = "ALL_F32" if kind is TensorType.F32 else f"MOSTLY_{kind.name}"
        assert FORMATS[kind].file_type == gguf.LlamaFileType[name]
    assert FORMATS[TensorType.I2_S].file_type == 40  # bitnet.cpp's own


@pytest.mark.parametrize(
    ("wanted", "shape", "words"),
    [
        (TensorType.TQ2_0, (128, 384), "use i2_s, f16 or bf16"),
        (TensorType.I2_S, (3, 100), "use f16 or bf16"),
    ],
)
def test_a_matrix_that_fills_no_blocks_is_refused(wanted: TensorType, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        check_blocks("place", wanted, shape)
