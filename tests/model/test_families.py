"""Random models of every family, shape, storage and file format, against the plain NumPy forward pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.model.config import RopeScaling
from bitnet_numba.options import KVType
from tests.generate.running import cpu_backend, logits_of
from tests.tiny import ARCHITECTURES, ToyModel, toy_model
from tests.tiny_files import END, replaced

LLAMA3 = RopeScaling(8.0, (1.0, 4.0, 16))  # bands that heads of 20 pairs and more fill
SHAPES: dict[str, dict[str, int]] = {  # I2_S needs whole runs of 128 in a tensor, not in its rows
    "5 heads of 20": {"hidden_size": 160, "n_heads": 5, "n_kv_heads": 1, "head_dim": 20, "intermediate_size": 540},
    "3 heads of 36": {"hidden_size": 320, "n_heads": 3, "n_kv_heads": 3, "head_dim": 36, "intermediate_size": 212},
    "6 heads of 64": {"hidden_size": 384, "n_heads": 6, "n_kv_heads": 2, "intermediate_size": 540},
    "3 heads of 96": {"hidden_size": 288, "n_heads": 3, "n_kv_heads": 1, "intermediate_size": 200},
    "1 head of 100": {"hidden_size": 224, "n_heads": 1, "n_kv_heads": 1, "head_dim": 100, "intermediate_size": 100},
}
ODD: dict[str, Any] = {"hidden_size": 108, "n_heads": 3, "n_kv_heads": 1, "head_dim": 20, "intermediate_size": 268}
BLOCKS: dict[str, Any] = {"hidden_size": 256, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 512}


def agrees(model: ToyModel, path: Path, kv_type: KVType = "f16", exact_positions: int = 3) -> None:
    """Hold a file's logits to the plain forward pass of the model that it was made of.

    Both round float32 sums of up to a thousand terms, in different orders: that moves a logit by some 1e-6 of their
    spread. It may also turn a rounding, to int8 or to a float16 cache, that lies as near to a half. That moves all
    later logits visibly, but leaves the correlation far above what a wrong graph has (below 0.9). On the few
    activations of three tokens no rounding of these seeds lies so near.
    """
    tokens = model.tokens(24)
    logits, expected = logits_of(cpu_backend(path, kv_type=kv_type), tokens), model.logits(tokens, kv_type)
    difference = np.abs(logits[:exact_positions] - expected[:exact_positions])
    assert difference.max(initial=0) <= 1e-5 * expected.std()
    assert np.corrcoef(logits.reshape(-1), expected.reshape(-1))[0, 1] >= 0.9995


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(architecture: str, shape: str, tmp_path: Path) -> None:
    model = toy_model(architecture, seed=3, **SHAPES[shape])
    agrees(model, model.gguf().write(tmp_path / "toy.gguf"))


@settings(derandomize=True, max_examples=15)
@given(
    architecture=st.sampled_from(ARCHITECTURES),
    n_kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    pairs=st.integers(2, 40),
    hidden_size=st.integers(100, 260),
    intermediate_size=st.integers(90, 400),
    vocab_size=st.integers(264, 400),
)
def test_any_shape(
    tmp_path_factory: pytest.TempPathFactory, n_kv_heads: int, group: int, pairs: int, **sizes: Any
) -> None:
    heads = {"n_heads": n_kv_heads * group, "n_kv_heads": n_kv_heads, "head_dim": 2 * pairs}
    model = toy_model(seed=7, n_layers=1, **heads, **sizes)
    path = model.gguf(TensorType.F16).write(tmp_path_factory.mktemp("toy") / "toy.gguf")
    agrees(model, path, exact_positions=0)  # hypothesis may draw others tomorrow


# ---- how linear layers are stored ------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [TensorType.TQ1_0, TensorType.TQ2_0, TensorType.I2_S])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ternary_types(kind: TensorType, architecture: str, tmp_path: Path) -> None:
    model = toy_model(architecture, **BLOCKS)
    agrees(model, model.gguf(kind).write(tmp_path / "toy.gguf"))


@pytest.mark.parametrize("kind", [TensorType.F16, TensorType.BF16, TensorType.F32])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ternary_weights_kept_as_floats(kind: TensorType, architecture: str, tmp_path: Path) -> None:
    model = toy_model(architecture, **ODD)
    agrees(model, model.gguf(kind).write(tmp_path / "toy.gguf"))


@pytest.mark.parametrize("kind", [TensorType.BF16, TensorType.F32])
def test_master_weights_in_gguf(kind: TensorType, tmp_path: Path) -> None:
    model = toy_model(has_masters=True, **ODD)
    agrees(model, model.gguf(kind).write(tmp_path / "toy.gguf"))


@pytest.mark.parametrize("kind", [TensorType.I2_S, TensorType.F32])
def test_separate_scales(kind: TensorType, tmp_path: Path) -> None:
    """A ``.scale`` tensor multiplies what the weights' own scale says."""
    model = toy_model("bitnet", seed=1)
    contents = model.gguf(kind)
    for name, tensor in list(contents.tensors.items()):
        if "attn_q" in name or "ffn_down" in name:
            scale = name.removesuffix("weight") + "scale"
            contents.tensors[scale] = replaced(
                tensor, name=scale, type=TensorType.F32, shape=(1,), data=np.array([0.5], np.float32)
            )
    for place, (weights, scale) in model.linears.items():
        if place[0] in ("attn_q", "ffn_down"):
            model.linears[place] = weights, scale / 2
    agrees(model, contents.write(tmp_path / "toy.gguf"))


# ---- embeddings and heads: each number format is compiled anew, so one model each ------------------------------------
@pytest.mark.parametrize("embedding", [TensorType.F16, TensorType.BF16, TensorType.F32, TensorType.Q8_0])
def test_tied_heads(embedding: TensorType, tmp_path: Path) -> None:
    model = toy_model(hidden_size=160, n_heads=5, head_dim=32, vocab_size=333, embedding_type=embedding)
    agrees(model, model.gguf().write(tmp_path / "toy.gguf"))


def test_tied_q6_k_head(tmp_path: Path) -> None:
    model = toy_model("bitnet", vocab_size=270, embedding_type=TensorType.Q6_K, **BLOCKS)
    agrees(model, model.gguf().write(tmp_path / "toy.gguf"))


@pytest.mark.parametrize("head", [TensorType.F16, pytest.param(TensorType.Q6_K, marks=pytest.mark.slow)])
def test_heads_of_their_own(head: TensorType, tmp_path: Path) -> None:
    model = toy_model("llama", seed=4, vocab_size=270, head_type=head, **BLOCKS)
    agrees(model, model.gguf().write(tmp_path / "toy.gguf"))


def test_f32_cache(tmp_path: Path) -> None:
    model = toy_model("llama", embedding_type=TensorType.BF16, **ODD)
    agrees(model, model.gguf(TensorType.F16).write(tmp_path / "toy.gguf"), kv_type="f32")


# ---- Hugging Face directories ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_checkpoints(architecture: str, linear_class: str, tmp_path: Path) -> None:
    model = toy_model(architecture, embedding_type=TensorType.BF16, **ODD)
    agrees(model, model.checkpoint(linear_class).write(tmp_path / "toy"))


def test_packed_checkpoints_without_a_linear_class_divide(tmp_path: Path) -> None:
    model = toy_model("llama", embedding_type=TensorType.BF16, **ODD)
    contents = model.checkpoint("bitlinear")
    del contents.config["quantization_config"]["linear_class"]
    agrees(model, contents.write(tmp_path / "toy"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_master_weights(architecture: str, tmp_path: Path) -> None:
    model = toy_model(architecture, has_masters=True, embedding_type=TensorType.BF16, **ODD)
    agrees(model, model.checkpoint(None).write(tmp_path / "toy"))


def test_shards_of_an_untied_checkpoint(tmp_path: Path) -> None:
    model = toy_model("llama", embedding_type=TensorType.BF16, head_type=TensorType.BF16, **ODD)
    agrees(model, model.checkpoint().write(tmp_path / "toy", n_shards=3))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scaling", [None, RopeScaling(4.0), LLAMA3], ids=["unscaled", "linear", "llama3"])
def test_both_formats_give_the_same_bits(architecture: str, scaling: RopeScaling | None, tmp_path: Path) -> None:
    """GGUF has llama's q and k rows in another order, and Llama 3's scaling in a tensor: the logits are the same."""
    model = toy_model(architecture, rope_scaling=scaling, embedding_type=TensorType.BF16, **BLOCKS)
    tokens = model.tokens(40)
    gguf = logits_of(cpu_backend(model.gguf().write(tmp_path / "toy.gguf")), tokens)
    directory = logits_of(cpu_backend(model.checkpoint().write(tmp_path / "toy")), tokens)
    if scaling is LLAMA3:  # the factors of the tensor are float32
        assert np.corrcoef(gguf.reshape(-1), directory.reshape(-1))[0, 1] >= 0.9995
    else:
        assert (gguf == directory).all()
    expected = model.logits(tokens)
    assert np.corrcoef(directory.reshape(-1), expected.reshape(-1))[0, 1] >= 0.9995


@pytest.mark.parametrize("scaling", [RopeScaling(4.0), LLAMA3], ids=["linear", "llama3"])
def test_rope_scaling_changes_logits(scaling: RopeScaling, tmp_path: Path) -> None:
    """What the test above could not see: both sides ignoring the scaling."""
    scaled, plain = (toy_model("llama", rope_scaling=kind, **BLOCKS) for kind in (scaling, None))
    tokens = plain.tokens(40)
    of_scaled = logits_of(cpu_backend(scaled.gguf().write(tmp_path / "scaled.gguf")), tokens)
    of_plain = logits_of(cpu_backend(plain.gguf().write(tmp_path / "plain.gguf")), tokens)
    assert np.corrcoef(of_scaled[20:].reshape(-1), of_plain[20:].reshape(-1))[0, 1] < 0.99


def test_extreme_values_stay_finite(tmp_path: Path) -> None:
    """Dead channels (norm weights of 1e-32) and tokens of zeros give no NaN."""
    model = toy_model(seed=2)
    model.norms["attn_norm", 0][::3] = 1e-32
    model.norms["ffn_sub_norm", 1][:] = 1e-32
    model.embedding.values[END] = 0
    model.embedding.data.view(np.float16).reshape(model.embedding.values.shape)[END] = 0
    tokens = np.array([END, 5, END, 7], np.int32)
    logits = logits_of(cpu_backend(model.gguf().write(tmp_path / "toy.gguf")), tokens)
    assert np.isfinite(logits).all()
    assert np.abs(logits - model.logits(tokens)).max() <= 1e-5 * logits.std()
