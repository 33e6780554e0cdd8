"""A checkpoint's export: what the file holds, and that nothing but the checkpoint decides its bytes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.export.floats import smallest_exact_type
from bitnet_numba.export.gguf import export_gguf
from bitnet_numba.formats.gguf import GGUFFile, open_gguf
from bitnet_numba.formats.gguf_types import TensorType
from tests.tiny import absmean, toy_checkpoint
from tests.tiny_files import (
    BEGIN,
    END,
    END_OF_TURN,
    PAD,
    SPECIAL,
    WORDS,
    HuggingFaceModel,
    bf16_bits,
    i2s_weights,
    widened,
)
from tests.tiny_files import MIN_VOCABULARY as VOCAB_SIZE

HIDDEN = 128
ROLES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
}


def export(checkpoint: HuggingFaceModel, folder: Path) -> GGUFFile:
    export_gguf(checkpoint.write(folder / "toy"), folder / "toy.gguf")
    return open_gguf(folder / "toy.gguf")


def master_of(checkpoint: HuggingFaceModel, name: str) -> npt.NDArray[np.float32]:
    dtype, bits = checkpoint.tensors[f"{name}.weight"]
    assert dtype == "BF16"
    return widened(bits)


@pytest.fixture(scope="module")
def toy() -> HuggingFaceModel:
    return toy_checkpoint()


@pytest.fixture(scope="module")
def exported(toy: HuggingFaceModel, tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    return export(toy, tmp_path_factory.mktemp("export"))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", [name for name in ROLES if "proj" in name])
def test_linear_layers_are_ternary_by_absmean(toy: HuggingFaceModel, exported: GGUFFile, layer: int, name: str) -> None:
    info = exported.tensors[f"blk.{layer}.{ROLES[name]}.weight"]
    expected, expected_scale = absmean(master_of(toy, f"model.layers.{layer}.{name}"))
    weights, scale = i2s_weights(exported.data(info.name), expected.shape)
    assert info.type is TensorType.I2_S
    assert scale == expected_scale
    np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", [name for name in ROLES if "norm" in name])
def test_norms_are_kept_in_float32(toy: HuggingFaceModel, exported: GGUFFile, layer: int, name: str) -> None:
    stored = exported.data(f"blk.{layer}.{ROLES[name]}.weight").view("<f4")
    np.testing.assert_array_equal(stored, master_of(toy, f"model.layers.{layer}.{name}"))


def test_the_last_norm_is_kept_in_float32(toy: HuggingFaceModel, exported: GGUFFile) -> None:
    np.testing.assert_array_equal(exported.data("output_norm.weight").view("<f4"), master_of(toy, "model.norm"))


def test_the_embedding_becomes_f16_where_that_is_exact(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    values = np.linspace(-1, 1, 64).astype(np.float32).view(np.uint32) >> 16  # eight bits each, none of them tiny
    bits = np.resize(values.astype(np.uint16), (VOCAB_SIZE, HIDDEN))
    checkpoint.tensors["model.embed_tokens.weight"] = "BF16", bits
    file = export(checkpoint, tmp_path)
    assert file.tensors["token_embd.weight"].type is TensorType.F16
    stored = file.data("token_embd.weight").view("<f2").reshape(VOCAB_SIZE, HIDDEN)
    np.testing.assert_array_equal(stored.astype(np.float32), widened(bits))


def test_the_embedding_stays_bf16_where_f16_would_lose_a_value(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    _, bits = checkpoint.tensors["model.embed_tokens.weight"]
    bits[3, 5] = 0x3401  # 1.2e-7: below the steps of float16
    file = export(checkpoint, tmp_path)
    assert file.tensors["token_embd.weight"].type is TensorType.BF16
    np.testing.assert_array_equal(file.data("token_embd.weight").view("<u2").reshape(bits.shape), bits)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, TensorType.F16),
        (-0.0, TensorType.F16),
        (65504.0, TensorType.F16),
        (65536.0, TensorType.BF16),
        (3e38, TensorType.F32),
        (2.0**-24, TensorType.F16),
        (2.0**-25, TensorType.BF16),
        (1 + 2.0**-10, TensorType.F16),
        (1 + 2.0**-11, TensorType.F32),
    ],
)
def test_the_smallest_exact_type(value: float, expected: TensorType) -> None:
    assert smallest_exact_type([np.array([[0.25], [value]], np.float32)[row] for row in (0, 1)]) is expected


def test_a_head_of_its_own_is_kept(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    checkpoint.config["tie_word_embeddings"] = False
    bits = bf16_bits(np.random.default_rng(7).standard_normal((VOCAB_SIZE, HIDDEN)).astype(np.float32))
    bits[0, 0] = 0x3401
    checkpoint.tensors["lm_head.weight"] = "BF16", bits
    file = export(checkpoint, tmp_path)
    np.testing.assert_array_equal(file.data("output.weight").view("<u2").reshape(bits.shape), bits)


def test_float32_masters_that_are_ternary_already_keep_their_scale(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    weights = np.random.default_rng(3).integers(-1, 2, (HIDDEN, HIDDEN)).astype(np.float32)
    checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"] = "F32", weights * np.float32(0.3)
    stored, scale = i2s_weights(export(checkpoint, tmp_path).data("blk.0.attn_q.weight"), (HIDDEN, HIDDEN))
    assert scale == np.float32(0.3)
    np.testing.assert_array_equal(stored, weights)


@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear", None], ids=["multiply", "divide", "default"])
def test_packed_weights_give_the_same_codes_as_their_masters(
    tmp_path: Path, exported: GGUFFile, linear_class: str | None
) -> None:
    checkpoint = toy_checkpoint(linear_class=linear_class or "bitlinear")
    divides = linear_class != "autobitlinear"
    if linear_class is None:
        del checkpoint.config["quantization_config"]["linear_class"]
    packed = export(checkpoint, tmp_path)
    assert list(packed.tensors) == list(exported.tensors)
    for name, info in packed.tensors.items():
        expected = exported.data(name)
        if info.type is TensorType.I2_S:
            np.testing.assert_array_equal(packed.data(name)[:-32], expected[:-32])
            # A divisor was rounded to float32 once, its inverse once more.
            np.testing.assert_allclose(
                packed.data(name)[-32:-28].view("<f4"), expected[-32:-28].view("<f4"), rtol=2.0**-23 if divides else 0
            )
        else:
            np.testing.assert_array_equal(packed.data(name), expected)


def test_metadata_is_that_of_the_official_file(exported: GGUFFile) -> None:
    found = {key: value for key, value in exported.metadata.items() if not isinstance(value, list)}
    epsilon = found.pop("bitnet-b1.58.attention.layer_norm_rms_epsilon")
    assert epsilon == pytest.approx(1e-5, rel=1e-7)
    assert found == {
        "general.architecture": "bitnet-b1.58",
        "general.name": "bitnet-b1.58",
        "bitnet-b1.58.vocab_size": VOCAB_SIZE,
        "bitnet-b1.58.context_length": 64,
        "bitnet-b1.58.embedding_length": 128,
        "bitnet-b1.58.block_count": 2,
        "bitnet-b1.58.feed_forward_length": 256,
        "bitnet-b1.58.rope.dimension_count": 64,
        "bitnet-b1.58.attention.head_count": 2,
        "bitnet-b1.58.attention.head_count_kv": 1,
        "bitnet-b1.58.rope.freq_base": 10000.0,
        "general.file_type": 40,
        "general.quantization_version": 2,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.bos_token_id": BEGIN,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.eot_token_id": END_OF_TURN,
        "tokenizer.ggml.padding_token_id": PAD,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    assert exported.metadata["tokenizer.ggml.tokens"] == [*WORDS, *SPECIAL]
    assert exported.metadata["tokenizer.ggml.token_type"] == [1] * len(WORDS) + [3] * len(SPECIAL)
    assert exported.metadata["tokenizer.ggml.merges"] == ["h e", "l l", "he ll", "hell o"]


def test_the_order_of_tensors_does_not_follow_the_checkpoint(tmp_path: Path, exported: GGUFFile) -> None:
    checkpoint = toy_checkpoint()
    checkpoint.tensors = dict(reversed(checkpoint.tensors.items()))
    again = export(checkpoint, tmp_path)
    assert again.path.read_bytes() == exported.path.read_bytes()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_writes_the_same_bytes(tmp_path: Path, exported: GGUFFile, hash_seed: str) -> None:
    source, out = toy_checkpoint().write(tmp_path / "toy"), tmp_path / "again.gguf"
    program = "import sys, pathlib, bitnet_numba.export.gguf as g; g.export_gguf(*map(pathlib.Path, sys.argv[1:]))"
    environment: dict[str, Any] = os.environ | {"PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-W", "error", "-c", program, str(source), str(out)], env=environment, check=True)
    assert out.read_bytes() == exported.path.read_bytes()
